"""From options to the bundles of a run, by role, and their planes."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Collection

from engine import demo
from engine.backends.bundle import Bundle
from engine.backends.engines import Engines
from engine.backends.padding import padded_shape
from engine.errors import InputError
from engine.job.options import ROLES
from engine.methods import METHODS
from engine.problems.acquisition import Acquisition
from engine.sampling.settings import Range
from engine.volume import Plane

log = logging.getLogger("engine")

#: Beyond this ratio to the size it was trained on, a network sees anatomy at a scale that it does not know.
_FAR_FROM_TRAINED = 1.5


def bundles_of(args: argparse.Namespace, measured: Acquisition | None, engines: Engines) -> dict[str, Bundle]:
    """The bundles by their roles: those that are named, and shipped ones for primary and auxiliary."""
    shipped = args.planes or _shipped(measured)
    if args.planes and any(getattr(args, role) for role in ROLES):
        raise InputError("planes", "no bundles beside the shipped ones", "some", "drop --planes or the bundles")
    if not 2 <= len(shipped) <= len(ROLES):
        raise InputError("planes", "two or three", f"{len(shipped)}", "name them as axial,coronal")
    if args.auxiliary is None and args.tertiary is not None and args.primary is not None:
        raise InputError("tertiary", "an auxiliary bundle before a third one", "none", "pass --auxiliary")
    folders = dict(zip(ROLES, map(demo.bundle_folder, shipped), strict=False))
    folders |= {role: getattr(args, role) for role in ROLES if getattr(args, role)}
    # A method that asks no network still has a plane in which it measures.
    n_needed = METHODS[args.method].n_priors
    roles = list(folders)[: None if n_needed is None else max(1, n_needed)]
    return {role: engines.bundle(folders[role]) for role in roles}


def _shipped(measured: Acquisition | None) -> tuple[str, ...]:
    """The shipped priors for a measurement: one that suits it first."""
    first, *_ = suitable = [p for p in demo.ALL_PLANES if measured is None or not measured.unsuitable(Plane.parse(p))]
    return first, next(plane for plane in (*demo.PLANES, *suitable) if plane != first)


def plane_of(role: str, bundle: Bundle, stated: str | None) -> Plane:
    plane = Plane.parse(stated) if stated else bundle.plane
    if plane is None:
        raise InputError(role, "a plane", f"none from the bundle '{bundle.folder}'", f"state it with --{role}-plane")
    if bundle.plane is not None and plane != bundle.plane:
        raise InputError(
            f"{role}-plane",
            f"{bundle.plane}, which '{bundle.folder}' was trained on",
            plane,
            "drop the option or give another engine",
        )
    return plane


def fits(shape: tuple[int, int], bundle: Bundle) -> bool:
    return padded_shape(shape, bundle.divisor) == shape


def check_size(bundle: Bundle, shape: tuple[int, int]) -> None:
    """Refuse slices too small to be padded; warn of those that are far from what the network knows."""
    if min(shape) < bundle.divisor:
        raise InputError(
            "volume",
            f"sides of at least {bundle.divisor} voxels for the network of '{bundle.folder}'",
            f"slices of {shape[0]}×{shape[1]}",
            "give a larger volume",
        )
    trained = bundle.trained_size
    if trained and max(shape) > _FAR_FROM_TRAINED * trained:
        log.warning(
            "the network of '%s' was trained on %d×%d slices and gets %d×%d: expect less of it",
            *(bundle.folder, trained, trained, *shape),
        )


def trained_range(bundles: Collection[Bundle]) -> Range:
    return max(b.sigma_min for b in bundles), min(b.sigma_max for b in bundles)
