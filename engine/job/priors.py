"""The priors of a run: bundles for each role, their planes, and whether slices suit them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine import demo
from engine.backends.bundle import Bundle
from engine.backends.engines import Engines
from engine.errors import InputError
from engine.methods import METHODS
from engine.options import Options, option, read
from engine.problems.acquisition import Acquisition
from engine.sampling.reconstruction import check_planes
from engine.volume import Plane

log = logging.getLogger("engine")

ROLES = ("primary", "auxiliary", "tertiary")
#: Beyond this ratio to the size it was trained on, a network sees anatomy at a scale that it does not know.
_FAR_FROM_TRAINED = 1.5
_PLANE_HELP = "its plane, if the bundle does not know: axial, coronal, sagittal, or axes as 2,0,1"


@dataclass(frozen=True)
class PriorFiles(Options):
    """Priors, shipped ones or others."""

    planes: tuple[str, ...] = option(
        (),
        default_words="axial,coronal; mrzsr coronal,axial",
        help="shipped priors to use, the primary one first, such as coronal,axial,sagittal",
    )
    primary: Path | None = option(None, default_words="a shipped one", help="engine bundle of the primary plane")
    primary_plane: str | None = option(None, help=_PLANE_HELP)
    auxiliary: Path | None = option(None, default_words="a shipped one", help="engine bundle of the auxiliary plane")
    auxiliary_plane: str | None = option(None, help=_PLANE_HELP)
    tertiary: Path | None = option(None, default_words="none", help="engine bundle of the tertiary plane")
    tertiary_plane: str | None = option(None, help=_PLANE_HELP)


def open_bundles(
    args: argparse.Namespace, measured: Acquisition | None, engines: Engines
) -> tuple[dict[str, Bundle], dict[str, Plane]]:
    """The bundles and their planes by role: named ones, and shipped ones for primary and auxiliary.

    Raises
    ------
    InputError
        A bundle that cannot be opened, an unknown plane, or planes that do not belong together.
    """
    files = read(PriorFiles, args)
    named = {role: getattr(files, role) for role in ROLES if getattr(files, role)}
    shipped = files.planes or _shipped(measured)
    if files.planes and named:
        raise InputError("planes", "no bundles beside the shipped ones", "some", "drop --planes or the bundles")
    if not 2 <= len(shipped) <= len(ROLES):
        raise InputError("planes", "two or three", f"{len(shipped)}", "name them as axial,coronal")
    if "auxiliary" not in named and {"primary", "tertiary"} <= set(named):
        raise InputError("tertiary", "an auxiliary bundle before a third one", "none", "pass --auxiliary")
    folders = {**dict(zip(ROLES, map(demo.bundle_folder, shipped), strict=False)), **named}
    # A method that asks no network still has a plane in which it measures.
    n_needed = METHODS[args.method].n_priors
    roles = list(folders)[: None if n_needed is None else max(1, n_needed)]
    bundles = {role: engines.bundle(folders[role]) for role in roles}
    planes = {role: _plane_of(role, bundle, getattr(files, f"{role}_plane")) for role, bundle in bundles.items()}
    check_planes(list(planes.values()))
    return bundles, planes


def _shipped(measured: Acquisition | None) -> tuple[str, ...]:
    """The shipped priors for a measurement: a suitable one first."""
    first, *_ = suitable = [p for p in demo.ALL_PLANES if measured is None or not measured.unsuitable(Plane.parse(p))]
    return first, next(plane for plane in (*demo.PLANES, *suitable) if plane != first)


def _plane_of(role: str, bundle: Bundle, stated: str | None) -> Plane:
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


def check_sizes(bundles: Mapping[str, Bundle], shapes: Mapping[str, tuple[int, int]]) -> None:
    """Refuse slices too small to be padded; warn of those far from the trained size.

    Raises
    ------
    InputError
    """
    for role, bundle in bundles.items():
        shape = shapes[role]
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
