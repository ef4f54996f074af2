"""The priors of a run: bundles for each role, their planes, and whether slices suit them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine import demo
from engine.backends.bundle import Bundle
from engine.backends.engines import Engines
from engine.backends.shipped import SHIPPED, PriorSet, suiting
from engine.errors import InputError
from engine.methods import METHODS
from engine.options import Options, option, read
from engine.problems.acquisition import Acquisition
from engine.sampling.reconstruction import check_planes
from engine.volume import NAMED_PLANES, Plane

log = logging.getLogger("engine")

ROLES = ("primary", "auxiliary", "tertiary")
#: Beyond this ratio to the size it was trained on, a network sees anatomy at a scale that it does not know.
_FAR_FROM_TRAINED = 1.5
#: The same of the voxels, beyond those that it was trained on.
_FAR_FROM_TRAINED_MM = 1.1
_PLANE_HELP = "its plane, if the bundle does not know: axial, coronal, sagittal, or axes as 2,0,1"


@dataclass(frozen=True)
class PriorFiles(Options):
    """Priors, shipped ones or others."""

    prior: str | None = option(
        None,
        default_words="the shipped ones trained on the nearest voxels",
        help=f"priors of all planes: {' or '.join(SHIPPED)}, an engine bundle that serves all, or a folder of bundles "
        f"called {', '.join(NAMED_PLANES)}",
    )
    planes: tuple[str, ...] = option(
        (),
        default_words="axial,coronal; mrzsr coronal,sagittal; several stacks all three",
        help="planes of the priors, the primary one first, such as coronal,axial,sagittal",
    )
    primary: Path | None = option(None, default_words="a shipped one", help="engine bundle of the primary plane")
    primary_plane: str | None = option(None, help=_PLANE_HELP)
    auxiliary: Path | None = option(None, default_words="a shipped one", help="engine bundle of the auxiliary plane")
    auxiliary_plane: str | None = option(None, help=_PLANE_HELP)
    tertiary: Path | None = option(None, default_words="none", help="engine bundle of the tertiary plane")
    tertiary_plane: str | None = option(None, help=_PLANE_HELP)


def open_bundles(
    args: argparse.Namespace, measured: Acquisition | None, engines: Engines, *, from_noise: bool
) -> tuple[dict[str, Bundle], dict[str, Plane]]:
    """The bundles and their planes by role: named ones, and for primary and auxiliary else those of a set.

    Parameters
    ----------
    args : Namespace
    measured : Acquisition or None
        None: nothing is measured.
    engines : Engines
    from_noise : bool
        Whether the run starts from noise alone.

    Raises
    ------
    InputError
        A bundle that cannot be opened, an unknown plane, or planes that do not belong together.
    """
    files = read(PriorFiles, args)
    named = {role: getattr(files, role) for role in ROLES if getattr(files, role)}
    for argument, value in (("planes", files.planes), ("prior", files.prior)):
        if value and named:
            given = ", ".join(f"--{role}" for role in named)
            raise InputError(argument, "no bundles for single roles beside it", given, f"drop --{argument} or these")
    if files.planes and not 2 <= len(files.planes) <= len(ROLES):
        raise InputError("planes", "two or three", f"{len(files.planes)}", "name them as axial,coronal")
    if "auxiliary" not in named and {"primary", "tertiary"} <= set(named):
        raise InputError("tertiary", "an auxiliary bundle before a third one", "none", "pass --auxiliary")
    chosen = None
    if len(named) < 2:
        voxel_mm = np.full(3, demo.VOXEL_MM) if measured is None else measured.voxel_mm
        chosen = (
            PriorSet.of(files.prior) if files.prior else suiting(voxel_mm, from_noise=from_noise, opened=engines.bundle)
        )
    n_usual = 2
    if chosen and measured and not (named or files.planes):
        n_usual = max(2, min(measured.n_planes, len(chosen.folders)))
    n_roles = max(n_usual, len(files.planes), 1 + max((ROLES.index(role) for role in named), default=0))
    # A method that asks no network still has a plane in which it measures.
    n_needed = METHODS[args.method].n_priors
    roles = ROLES[: n_roles if n_needed is None else max(1, n_needed)]
    bundles = {role: engines.bundle(named[role]) for role in roles if role in named}
    stated = {role: _stated_plane(role, bundle, getattr(files, f"{role}_plane")) for role, bundle in bundles.items()}
    planes = _with_free_planes(
        {**stated, **{role: Plane.parse(name) for role, name in zip(roles, files.planes, strict=False)}},
        roles,
        _order(measured),
    )
    check_planes(list(planes.values()))
    for role in roles:
        if role not in bundles:
            assert chosen is not None
            bundles[role] = engines.bundle(chosen.folder_of(planes[role]))
    return {role: bundles[role] for role in roles}, planes


def _order(measured: Acquisition | None) -> list[Plane]:
    """Planes in the order in which roles take them: those that are or show what was measured come first."""
    planes = [Plane(axes) for axes in NAMED_PLANES.values()]
    return sorted(planes, key=lambda plane: measured is not None and measured.unsuitable(plane))


def _with_free_planes(
    stated: Mapping[str, Plane | None], roles: Sequence[str], order: Sequence[Plane]
) -> dict[str, Plane]:
    """The planes of all roles: where none is stated, the first that no other role has."""
    taken = {plane.slice_axis for plane in stated.values() if plane is not None}
    planes = {}
    for role in roles:
        plane = stated.get(role)
        if plane is None:
            plane = next(plane for plane in order if plane.slice_axis not in taken)
            taken.add(plane.slice_axis)
        planes[role] = plane
    return planes


def _stated_plane(role: str, bundle: Bundle, stated: str | None) -> Plane | None:
    """The plane that a bundle or an option states; None for a bundle that serves all.

    Raises
    ------
    InputError
        None, or two different ones.
    """
    plane = Plane.parse(stated) if stated else bundle.plane
    if plane is None and not bundle.serves_all_planes:
        raise InputError(role, "a plane", f"none from the bundle '{bundle.folder}'", f"state it with --{role}-plane")
    if bundle.plane is not None and plane != bundle.plane:
        raise InputError(
            f"{role}-plane",
            f"{bundle.plane}, which '{bundle.folder}' was trained on",
            plane,
            "drop the option or give another engine",
        )
    return plane


def check_sizes(
    bundles: Mapping[str, Bundle], shapes: Mapping[str, tuple[int, int]], voxel_mm: np.ndarray | None
) -> None:
    """Refuse slices too small to be padded; warn of voxels, or else slices, far from those that a network knows.

    Parameters
    ----------
    bundles, shapes : mapping
        Bundle, rows and columns of every role.
    voxel_mm : float (3,) or None
        Edges of a voxel; None where the network decides.

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
        if bundle.voxel_mm is not None:
            if voxel_mm is not None and bundle.misfit(voxel_mm) > _FAR_FROM_TRAINED_MM:
                log.warning(
                    "the network of '%s' was trained on voxels of %s and gets %s: expect less of it; resample the "
                    "volume, or train a prior for such voxels",
                    *(bundle.folder, in_mm(bundle.voxel_mm), in_mm(voxel_mm)),
                )
        elif trained and max(shape) > _FAR_FROM_TRAINED * trained:
            log.warning(
                "the network of '%s' was trained on %d×%d slices and gets %d×%d: expect less of it",
                *(bundle.folder, trained, trained, *shape),
            )


def in_mm(edges: Sequence[float] | np.ndarray) -> str:
    """Lengths in words: "1 mm", or "0.7 to 1.4 mm"."""
    low, high = f"{np.min(edges):.3g}", f"{np.max(edges):.3g}"
    return f"{low} mm" if low == high else f"{low} to {high} mm"
