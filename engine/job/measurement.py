"""The measurement of a run: read from a file, or simulated from a volume."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from engine import demo
from engine.errors import InputError
from engine.io.measurements.cone_scan import load_cone_scan
from engine.io.measurements.geometry import is_cone, read_fields
from engine.io.measurements.kspace import load_kspace
from engine.io.measurements.kspace_options import KSpaceReading
from engine.io.measurements.sinogram import load_sinogram
from engine.io.measurements.sinogram_options import Reading
from engine.io.volumes import load_volume, resample_isotropic
from engine.job.choices import settings_of
from engine.methods import METHODS
from engine.options import Options, option, read
from engine.problems import acquisition
from engine.problems.acquisition import PHASES, Acquisition
from engine.problems.coil_maps import load_maps
from engine.problems.cone_acquisition import of_cone
from engine.problems.stack_acquisition import ALIGNMENTS, of_stacks
from engine.problems.tasks import Measurement

#: Options that name what is measured, each alone.
KINDS = ("thick", "kspace", "sinogram", "volume")
_KSPACE = {"source": ("--kspace",)}


@dataclass(frozen=True)
class VolumeFile(Options):
    """A volume to measure, and the units of its intensities."""

    volume: Path | None = option(
        None,
        default_words="the demonstration's head",
        help="volume to measure: NIfTI, .mgz, .nrrd, .mha, .npy, .npz, TIFF stack, DICOM series (a folder, or an "
        "enhanced file), or a folder of .npy or .tif slices",
    )
    stack_axis: int = option(
        2,
        choices=(0, 1, 2),
        needs={"source": ("--volume", "--thick")},
        help="axis of the volume along which a folder's slices, or a TIFF's pages, are stacked",
    )
    frame: int | None = option(
        None,
        low=0,
        metavar="N",
        needs={"source": ("--volume", "--thick")},
        default_words="the only one",
        help="which volume of a file or series with several (time points, echoes, b-values), counted from 0",
        remedy="frames are counted from 0",
    )
    resample: float | None = option(
        None,
        metavar="MM",
        needs={"source": ("--volume",)},
        help="bring the volume to cubic voxels of this many mm beforehand; the demonstration, which is a cube of "
        "64 voxels of 3 mm, is then the whole head",
    )
    white: float | None = option(
        None,
        metavar="INTENSITY",
        default_words="estimated, the 99.5th percentile of tissue, of the classical reconstruction where there is no "
        "volume",
        help="intensity in the file's units that the priors see as 1",
    )
    black: float | None = option(
        None,
        metavar="INTENSITY",
        needs={"source": ("--volume", "--thick")},
        default_words="0; air where negative values mean something; a flat background that is not 0",
        help="intensity in the file's units that the priors see as 0",
    )
    window: tuple[str, ...] = option(
        (),
        metavar="LOW,HIGH",
        needs={"source": ("--volume", "--thick")},
        help="--black and --white at once, such as --window=-1000,1500",
    )

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """Black and white, as stated.

        Raises
        ------
        InputError
            A window of anything but two intensities, or one beside --black or --white.
        """
        if not self.window:
            return self.black, self.white
        try:
            black, white = (float(word) for word in self.window)
        except ValueError:
            got = ",".join(self.window)
            raise InputError("window", "two intensities", f"'{got}'", "give them as --window=LOW,HIGH") from None
        for name in ("black", "white"):
            if getattr(self, name) is not None:
                raise InputError(name, "none beside --window, which has both", "both", "drop one of them")
        return black, white


@dataclass(frozen=True)
class NoiseLevel(Options):
    """The noise that a measurement is taken to have."""

    noise_level: float | str | None = option(
        None,
        metavar="LEVEL",
        default_words="known; for a measurement from a file estimate, unless it says or has a noise scan",
        help="noise that proximal guidance, or dps with an adaptive λ, expects in the measurement: known (that of "
        "--noise, the file or its noise scan), estimate (from the measurement), or a number in the unit of --noise",
    )


@dataclass(frozen=True)
class MeasuredFile(Options):
    """Files of a scanner."""

    thick: tuple[Path, ...] = option(
        (),
        metavar="PATH",
        needs={"task": ("mrzsr",)},
        help="scan with thick slices, in any format of --volume; --factor, --thick-axis, --slice-profile and --gap "
        "describe it; given several times, stacks of one person in any directions, whose own headers do",
    )
    voxel_mm: float | None = option(
        None,
        above=0,
        metavar="MM",
        needs={"source": ("--thick",)},
        default_words="the first stack's pixels' own",
        help="edge of the result's cubic voxels, in mm; then slices may be any times as thick",
        remedy="1 is usual",
    )
    align: str | None = option(
        None,
        choices=ALIGNMENTS,
        needs={"source": ("--thick",)},
        default_words="rigid for several stacks",
        help="rigid: find what the patient moved between stacks; header: trust the positions in their headers",
    )
    kspace: Path | None = option(
        None,
        needs={"task": ("csmri",)},
        help="HDF5 file in the layout of fastMRI or ISMRMRD, of one coil or several; a .cfl of BART; or an array in a "
        ".npy, .npz, .mat or HDF5 file, with --axes",
    )
    mask: Path | None = option(
        None,
        needs=_KSPACE,
        default_words="the file's own",
        help=".npy of samples taken, (columns,) or (rows, columns)",
    )
    coil_maps: Path | None = option(
        None,
        needs=_KSPACE,
        default_words="by ESPIRiT",
        help=".npy or .h5 of sensitivities, complex (slices, coils, rows, columns) as in the file; or a .cfl of BART",
    )
    phase: str | None = option(
        None,
        choices=PHASES,
        needs=_KSPACE,
        default_words="auto; with guidance dps estimate",
        help="the image's phase: joint, found with its magnitude; estimate, from the centre of k-space alone, for one "
        "that varies slowly everywhere; auto, whichever of these foretells held-out samples better; none, for real "
        "images",
    )
    orientation: str | None = option(
        None,
        metavar="ABC",
        needs=_KSPACE,
        default_words="the file's own, else SPL",
        help="directions in which slices, rows and columns count, three of R or L, A or P, S or I",
    )
    sinogram: Path | None = option(
        None,
        needs={"task": ("svct",)},
        help=".npy, .npz, .h5 (one array, or the exchange layout), .tif, or a folder of .tif or .npy: projections or "
        "sinograms, line integrals or counts",
    )
    geometry: Path | None = option(
        None,
        needs={"source": ("--sinogram",)},
        default_words="a parallel beam, with angles from the file or --turn",
        help="JSON file that describes beam, detector and image",
    )


def open_measurement(args: argparse.Namespace) -> Acquisition | None:
    """Read what a run starts from; None for a grid that the priors' own size gives.

    Raises
    ------
    InputError
        A file that cannot be used, or options that contradict each other.
    """
    named = [kind for kind in KINDS if getattr(args, kind)]
    if len(named) > 1:
        raise InputError(named[1], "one measurement", f"--{named[0]} too", "give one of them")
    source = f"--{named[0] if named else 'volume'}"
    file, volume = read(MeasuredFile, args, source=source), read(VolumeFile, args, source=source)
    reading, chosen = read(Reading, args, source=source), read(KSpaceReading, args, source=source)
    # Thick slices are described by its options; the others have an effect on simulations alone.
    read(Measurement, args, source=source)
    if file.thick:
        return _of_thick(args, file, volume)
    if file.kspace is not None:
        kspace = load_kspace(file.kspace, orientation=file.orientation, mask=file.mask, how=chosen)
        maps = None if file.coil_maps is None else load_maps(file.coil_maps, kspace)
        return acquisition.of_kspace(kspace, maps, _phase_of(args, file), volume.white)
    if file.sinogram is not None:
        return _of_projections(file.sinogram, file.geometry, reading, volume.white)
    if args.task == "uncond" and {volume.volume, volume.white, volume.black, *volume.window} == {None}:
        return None
    return simulated(args)


def _of_projections(path: Path, geometry: Path | None, reading: Reading, white: float | None) -> Acquisition:
    """Sinograms of slices, or the projections of a cone beam, which the geometry tells."""
    # A measurement that is not there is refused first, whatever the geometry.
    fields = read_fields(geometry) if geometry is not None and path.exists() else {}
    if is_cone(fields):
        return of_cone(load_cone_scan(path, fields, how=reading), white)
    return acquisition.of_sinogram(load_sinogram(path, geometry, how=reading), white)


def _of_thick(args: argparse.Namespace, file: MeasuredFile, volume: VolumeFile) -> Acquisition:
    """One scan with thick slices on a grid of its own, or stacks on one of cubic voxels."""
    black, white = volume.ends
    stacks = [
        load_volume(path, volume.stack_axis, argument="thick", white=white, black=black, frame=volume.frame)
        for path in file.thick
    ]
    if len(stacks) == 1 and file.align is not None:
        raise InputError("align", "several stacks of --thick, which it lays upon each other", "one", "drop it")
    if len(stacks) == 1 and file.voxel_mm is None:
        return acquisition.of_thick(stacks[0], args.factor, args.thick_axis, args.slice_profile, args.gap)
    for name in ("factor", "thick_axis", "gap"):
        if getattr(args, name) is not None:
            reason = "several stacks, whose headers describe them" if len(stacks) > 1 else "--voxel-mm, which says it"
            raise InputError(name.replace("_", "-"), f"none beside {reason}", getattr(args, name), "drop it")
    return of_stacks(stacks, file.voxel_mm, args.slice_profile, file.align or "rigid")


def _phase_of(args: argparse.Namespace, file: MeasuredFile) -> str:
    """Where the image's phase comes from: the stated one, or what suits the method."""
    if file.phase is not None:
        return file.phase
    # Gradients through the network are those of real images.
    is_guided = "guidance" in METHODS[args.method].reads and settings_of(args).guidance == "dps"
    return "estimate" if is_guided else "auto"


def simulated(args: argparse.Namespace) -> Acquisition:
    """The measurement of a volume, or of the demonstration's.

    Raises
    ------
    InputError
        A volume that cannot be used, or options that contradict each other.
    """
    file, how = read(VolumeFile, args, source="--volume"), read(Measurement, args, source="--volume")
    for name in ("white", "black", "window"):
        if file.volume is None and getattr(file, name) not in (None, ()):
            raise InputError(name, "--volume, whose intensities it scales", "none", "pass a volume")
    if file.volume is None and file.frame is not None:
        raise InputError("frame", "--volume, of which it is one", "none", "pass a volume")
    if file.volume is not None:
        black, white = file.ends
        volume = load_volume(file.volume, file.stack_axis, white=white, black=black, frame=file.frame)
    else:
        volume = demo.volume() if file.resample is None else demo.head()
    if file.resample is not None:
        volume = resample_isotropic(volume, file.resample, argument="resample")
    return acquisition.of_volume(args.task, volume, how)


def noise_level_of(args: argparse.Namespace, measured: Acquisition) -> float | str | None:
    """The noise level, or its origin; None where nothing reads it.

    Raises
    ------
    InputError
        It is to be known, and is not.
    """
    stated = read(NoiseLevel, args).noise_level
    if stated == "known" and not measured.knows_noise:
        raise InputError(
            "noise-level",
            f"estimate or a number for '{measured.source}', which does not say",
            "known",
            "choose one of these",
        )
    if stated is not None:
        return stated
    if measured.knows_noise:
        return "known"
    return "estimate" if "rho" in METHODS[args.method].reads else None
