"""The options of a run beside the sampler's and the simulation's, each declared with its help and range."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import kernels
from engine.backends.compiled import PRECISIONS
from engine.backends.select import BACKENDS
from engine.methods import METHODS
from engine.options import option
from engine.problems.acquisition import PHASES
from engine.problems.tasks import TASKS

ROLES = ("primary", "auxiliary", "tertiary")
FORMATS = ("nifti", "npy", "tif", "dicom")
PROGRESS = ("bar", "lines", "none")
LOG_LEVELS = ("debug", "info", "warning", "error")
#: Options that name a measurement, and the task that it is of.
FILES = {"thick": "mrzsr", "kspace": "csmri", "sinogram": "svct"}


def _word_or_number(text: str) -> float | str:
    """A number as such; anything else is for `engine.problems.noise_level` to judge."""
    try:
        return float(text)
    except ValueError:
        return text


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


@dataclass(frozen=True)
class Call:
    """What is to be done, and where."""

    task: str = option("", "what is measured: k-space, thick slices, few CT views, or nothing", choices=TASKS)
    out: Path | None = option(None, "folder for the results (default: runs/<task>)")
    dry_run: bool = option(False, "check everything and show the plan, but do not sample")
    config: Path | None = option(
        None,
        "YAML file whose keys are options, or the run.json of an earlier run, to repeat it; options beside it count "
        "more",
        metavar="FILE",
    )


@dataclass(frozen=True)
class Simulated:
    """The volume that is measured."""

    volume: Path | None = option(
        None,
        "volume to measure: NIfTI, .npy, .npz, TIFF stack, DICOM series (a folder), or a folder of .npy or .tif slices "
        "(default: the demonstration's head)",
    )
    stack_axis: int = option(
        2, "axis of the volume along which a folder's slices, or a TIFF's pages, are stacked", choices=(0, 1, 2)
    )
    resample: float | None = option(None, "bring the volume to cubic voxels of this many mm beforehand", metavar="MM")
    white: float | None = option(
        None,
        "intensity in the file's units that the priors see as 1 (default: estimated, the 99.5th percentile of tissue, "
        "of the classical reconstruction where there is no volume)",
        metavar="INTENSITY",
    )


@dataclass(frozen=True)
class NoiseLevel:
    noise_level: float | str | None = option(
        None,
        "noise that proximal guidance, or dps with an adaptive λ, expects in the measurement: known (that of --noise), "
        "estimate (from the measurement), or a number in the unit of --noise (default: known; for a measurement from a "
        "file estimate)",
        parse=_word_or_number,
        metavar="LEVEL",
    )


@dataclass(frozen=True)
class Measured:
    """A measurement from a file; `needs` names the file that an option describes."""

    thick: Path | None = option(
        None,
        "mrzsr: scan with thick slices, in any format of --volume; --factor, --thick-axis, --slice-profile and --gap "
        "describe it",
    )
    kspace: Path | None = option(None, "csmri: HDF5 file in the layout of fastMRI or ISMRMRD, of one coil or several")
    mask: Path | None = option(
        None,
        "kspace: .npy of samples taken, (columns,) or (rows, columns) (default: the file's own)",
        needs=("kspace", ()),
    )
    coil_maps: Path | None = option(
        None,
        "kspace: .npy or .h5 of sensitivities, complex (slices, coils, rows, columns) as in the file (default: by "
        "ESPIRiT)",
        needs=("kspace", ()),
    )
    phase: str | None = option(
        None,
        "kspace: estimate the image's phase from the centre of k-space, or none for real images (default: estimate)",
        choices=PHASES,
        needs=("kspace", ()),
    )
    orientation: str | None = option(
        None,
        "kspace: directions in which slices, rows and columns count, three of R or L, A or P, S or I (default: the "
        "file's own, else SPL)",
        metavar="ABC",
        needs=("kspace", ()),
    )
    sinogram: Path | None = option(None, "svct: .npy, .npz, .h5 or .tif of line integrals, (slices, views, bins)")
    geometry: Path | None = option(
        None, "sinogram: JSON file that describes beam, detector and image", needs=("sinogram", ())
    )


@dataclass(frozen=True)
class Networks:
    """The priors, by role."""

    planes: tuple[str, ...] | None = option(
        None,
        "shipped priors to use, the primary one first, such as coronal,axial,sagittal (default: axial,coronal; mrzsr "
        "coronal,axial)",
        parse=_words,
    )
    primary: Path | None = option(None, "engine bundle of the primary plane (default: a shipped one)")
    primary_plane: str | None = option(
        None, "its plane, if the bundle does not know: axial, coronal, sagittal, or axes as 2,0,1"
    )
    auxiliary: Path | None = option(None, "engine bundle of the auxiliary plane (default: a shipped one)")
    auxiliary_plane: str | None = option(None, "its plane, as above")
    tertiary: Path | None = option(None, "engine bundle of the tertiary plane (default: none)")
    tertiary_plane: str | None = option(None, "its plane, as above")


@dataclass(frozen=True)
class Choice:
    """Method and preset, which choose among the sampler's settings."""

    method: str = option(
        "tpdm",
        "tpdm: the product of perpendicular priors; single: the primary prior alone, slice by slice; dds, "
        "diffusionmbir: that with total variation across slices; tv, wavelet: total variation or sparse wavelets, "
        "without a network; classical: the task's classical reconstruction",
        choices=tuple(METHODS),
    )
    preset: str | None = option(
        None,
        "reference: the published sampler, as slow as published; fast: the mean of the posterior, in few steps; "
        "balanced: samples of it (default: fast, or that of --sampler)",
        choices=("reference", "balanced", "fast"),
    )


@dataclass(frozen=True)
class Results:
    """The files that a run leaves."""

    samples: int = option(
        1,
        "runs with seeds from --seed on; their mean is the result, their standard deviation a map of its uncertainty",
        low=1,
        high=10_000,
        remedy="8 show where results are uncertain",
    )
    format: str = option(
        "nifti",
        "of the volumes: nifti (.nii.gz), npy, tif, or dicom, a derived series in a folder",
        choices=FORMATS,
    )
    keep_tags: tuple[str, ...] = option(
        (),
        "dicom: tags to copy from the series that was read, such as PatientID,StudyInstanceUID; no other that "
        "identifies is",
        parse=_words,
        metavar="KEYWORDS",
    )
    no_report: bool = option(False, "do not write report.html")
    preview_every: int = option(
        0,
        "show the state in preview.png meanwhile; 0: never",
        low=0,
        high=1_000_000,
        remedy="leave it out for none",
        metavar="STEPS",
    )


@dataclass(frozen=True)
class Survival:
    """Long runs."""

    save_every: int = option(
        10,
        "save the state in the folder of the results; 0: only when interrupted",
        low=0,
        high=1_000_000,
        remedy="10 is usual",
        metavar="STEPS",
    )
    resume: Path | None = option(
        None,
        "go on with the interrupted run in a folder, with its options, to the very same result",
        metavar="FOLDER",
    )
    overwrite: bool = option(False, "start anew where an interrupted run could be resumed")


@dataclass(frozen=True)
class Machine:
    """What computes."""

    backend: str = option(
        "auto",
        "what runs the networks; auto: the fastest that runs here, the plan says which and why",
        choices=BACKENDS,
    )
    device: str = option("auto", "auto, cpu, cuda, or cuda:N for the N-th GPU")
    precision: str | None = option(
        None, "arithmetic of the networks (default: the most exact one that is built)", choices=PRECISIONS
    )
    batch_size: int | None = option(
        None,
        "slices that go through a network together; does not change the result (default: 1 or 2 on a CPU; on a GPU the "
        "size that the graphs were optimised for)",
        low=1,
        high=4096,
        remedy="leave it out for the backend's own",
    )
    threads: int | None = option(
        None,
        "worker threads on a CPU (default: all cores)",
        low=1,
        high=1024,
        remedy=f"leave it out for all {kernels.available_cores()} cores",
    )


@dataclass(frozen=True)
class Told:
    """What a program says while it works."""

    progress: str = option(
        "bar",
        "bar; lines: JSON objects on standard output, for machines, one a step; none",
        choices=PROGRESS,
    )
    log_level: str = option("warning", "least important messages on standard error", choices=LOG_LEVELS)
    quiet: bool = option(False, "no progress, errors only")


#: All that `engine.job.prepare` checks for ranges.
CHECKED = (Results, Survival, Machine)
