"""From options to what is measured: a simulation, or a file."""

from __future__ import annotations

import argparse

from engine import demo
from engine.errors import InputError
from engine.io.measurements.kspace import load_kspace
from engine.io.measurements.sinogram import load_sinogram
from engine.io.volumes import load_volume, resample_isotropic
from engine.job.options import FILES, Measured
from engine.methods import METHODS
from engine.options import declared
from engine.problems import acquisition
from engine.problems.acquisition import Acquisition
from engine.problems.coil_maps import load_maps
from engine.problems.tasks import Measurement

#: Options of the simulation, which a measurement from a file does without.
_SIMULATES = ("volume", "resample", "acceleration", "coils", "views", "noise")


def open_acquisition(args: argparse.Namespace) -> Acquisition | None:
    """Read what a run starts from; None for a grid that the priors' own size gives.

    Raises
    ------
    InputError
        A file that cannot be used, or options that contradict each other.
    """
    kind = _kind(args)
    if kind == "thick":
        thick = load_volume(args.thick, args.stack_axis, argument="thick", white=args.white)
        return acquisition.of_thick(thick, args.factor, args.thick_axis, args.slice_profile, args.gap)
    if kind == "kspace":
        kspace = load_kspace(args.kspace, orientation=args.orientation, mask=args.mask)
        maps = None if args.coil_maps is None else load_maps(args.coil_maps, kspace)
        return acquisition.of_kspace(kspace, maps, args.phase or "estimate", args.white)
    if kind == "sinogram":
        if args.geometry is None:
            raise InputError("geometry", "a JSON file beside --sinogram", "none", "pass --geometry")
        return acquisition.of_sinogram(load_sinogram(args.sinogram, args.geometry), args.white)
    return open_simulated(args)


def open_simulated(args: argparse.Namespace) -> Acquisition | None:
    """Read the volume that is measured, if there is one, and say how."""
    if args.volume is None and args.white is not None:
        raise InputError("white", "--volume, whose intensities it scales", "none", "pass a volume")
    if args.task == "uncond" and args.volume is None:
        return None
    if args.volume is None:
        volume = demo.volume()
    else:
        volume = load_volume(args.volume, args.stack_axis, white=args.white)
    if args.resample is not None:
        volume = resample_isotropic(volume, args.resample, argument="resample")
    axis = 2 if args.thick_axis is None else args.thick_axis
    factor = 4 if args.factor is None else args.factor
    how = Measurement(
        args.acceleration, factor, axis, args.views, args.seed, args.slice_profile, args.gap, args.noise, args.coils
    )
    return acquisition.of_volume(args.task, volume, how)


def _kind(args: argparse.Namespace) -> str | None:
    """Which kind of measurement is given."""
    kinds = [name for name in FILES if getattr(args, name) is not None]
    kind = kinds[0] if kinds else None
    if len(kinds) > 1:
        raise InputError(kinds[1], "one measurement", f"--{kinds[0]} too", "give one of them")
    if kind is not None and args.task != FILES[kind]:
        raise InputError(kind, f"the task {FILES[kind]}, which it is measured for", args.task, "change --task")
    for one in declared(Measured):
        if one.option.needs and getattr(args, one.destination) is not None and kind != one.option.needs[0]:
            raise InputError(one.name, f"--{one.option.needs[0]}, which it describes", "none", f"drop --{one.name}")
    for name in _SIMULATES if kind else ():
        if args.given.get(name) is not None:
            raise InputError(
                name,
                f"none beside --{kind}, which is measured already",
                args.given[name],
                "drop one of them",
            )
    return kind


def noise_level_of(args: argparse.Namespace, measured: Acquisition) -> float | str | None:
    """What the noise level is taken from; None where nothing reads it."""
    if args.noise_level == "known" and not measured.knows_noise:
        raise InputError(
            "noise-level",
            f"estimate or a number for '{measured.source}', which does not say",
            "known",
            "choose one of these",
        )
    if args.noise_level is not None:
        return args.noise_level  # type: ignore[no-any-return]
    if measured.knows_noise:
        return "known"
    return "estimate" if "rho" in METHODS[args.method].reads else None
