"""The options of ``python -m engine.run``."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.backends.compiled import PRECISIONS
from engine.backends.select import BACKENDS
from engine.cli import HelpFormatter
from engine.job.options import OF_SAMPLER, PRESETS
from engine.methods import METHODS
from engine.operators.thick_slices import PROFILES
from engine.problems.acquisition import PHASES
from engine.problems.tasks import TASKS
from engine.sampling.settings import GUIDANCE, MIXES, NOISE_SCALE, SAMPLERS, Settings

ROLES = ("primary", "auxiliary", "tertiary")
FORMATS = ("nifti", "npy", "tif", "dicom")
PROGRESS = ("bar", "lines", "none")
LOG_LEVELS = ("debug", "info", "warning", "error")


def _steps_help() -> str:
    named = [f"{name} {fields['n_steps']}" for name, fields in PRESETS.items()]
    named += [f"{name} {OF_SAMPLER[name]['n_steps']}" for name in ("pc", "heun")]
    return ", ".join(named + [f"{name} {method.n_steps}" for name, method in METHODS.items() if method.n_steps])


def number(text: str) -> int | float:
    """An integer without, a float with a point: K means different things for the two."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _word_or_number(text: str) -> float | str:
    """A number as such; anything else is for `engine.problems.noise_level` to judge."""
    try:
        return float(text)
    except ValueError:
        return text


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def build_parser() -> argparse.ArgumentParser:
    """All options, with their defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.run",
        usage="%(prog)s --task {csmri,mrzsr,svct,uncond} [OPTIONS]",
        description="Reconstruct a volume with two perpendicular 2D diffusion priors.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--task", choices=TASKS, required=True, help="what is measured: k-space, thick slices, few CT views, or nothing"
    )
    parser.add_argument("--out", type=Path, default=None, help="folder for the results (default: runs/<task>)")
    parser.add_argument("--dry-run", action="store_true", help="check everything and show the plan, but do not sample")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML file whose keys are options, or the run.json of an earlier run, to repeat it; options beside it "
        "count more",
    )
    add_simulation(parser.add_argument_group("measurement simulated from a known volume"))
    _add_noise_level(parser.add_argument_group("noise in the measurement"))
    _add_measured(parser.add_argument_group("measurement from a file"))
    _add_priors(parser.add_argument_group("priors"))
    _add_sampler(parser.add_argument_group("sampler"))
    _add_results(parser.add_argument_group("results"))
    _add_survival(parser.add_argument_group("long runs"))
    _add_machine(parser.add_argument_group("machine"))
    return parser


def add_simulation(data: argparse._ArgumentGroup) -> None:
    """Options of `engine.problems.tasks.simulate`, for all command lines that simulate."""
    data.add_argument(
        "--volume",
        type=Path,
        help="volume to measure: NIfTI, .npy, .npz, TIFF stack, DICOM series (a folder), or a folder of .npy or .tif "
        "slices (default: the demonstration's head)",
    )
    data.add_argument(
        "--stack-axis",
        type=int,
        choices=(0, 1, 2),
        default=2,
        help="axis of the volume along which a folder's slices, or a TIFF's pages, are stacked",
    )
    data.add_argument(
        "--resample", type=float, metavar="MM", help="bring the volume to cubic voxels of this many mm beforehand"
    )
    data.add_argument(
        "--white",
        type=float,
        metavar="INTENSITY",
        help="intensity in the file's units that the priors see as 1 (default: estimated, the 99.5th percentile of "
        "tissue, of the classical reconstruction where there is no volume)",
    )
    data.add_argument("--acceleration", type=float, default=4.0, help="csmri: all k-space samples over those taken")
    data.add_argument("--coils", type=int, default=1, help="csmri: coils around the patient")
    data.add_argument(
        "--factor",
        type=int,
        help="mrzsr: thin slices from one thick one to the next (default: 4; with --thick what makes voxels cubic)",
    )
    data.add_argument(
        "--slice-profile", choices=PROFILES, default="box", help="mrzsr: what a thick slice sees across it"
    )
    data.add_argument(
        "--gap",
        type=float,
        default=0.0,
        help="mrzsr: thin slices between thick ones; the rest of the factor is thickness",
    )
    data.add_argument(
        "--thick-axis",
        type=int,
        choices=(0, 1, 2),
        help="mrzsr: axis of the volume (0 to the right, 1 to the front, 2 to the top) along which slices are thick "
        "(default: 2; with --thick that of the largest spacing)",
    )
    data.add_argument(
        "--views",
        type=int,
        default=None,
        help="svct: angles over 180 degrees (default: 36 for 256 pixels, in proportion)",
    )
    data.add_argument(
        "--noise",
        type=float,
        default=0.0,
        help="noise added to the measurement, as a part of the root mean square of its samples",
    )


def _add_noise_level(noise: argparse._ArgumentGroup) -> None:
    noise.add_argument(
        "--noise-level",
        type=_word_or_number,
        metavar="LEVEL",
        help="noise that proximal guidance, or dps with an adaptive λ, expects in the measurement: known (what --noise "
        "added), estimate (from the measurement), or a number in the unit of --noise (default: known; for a "
        "measurement from a file estimate)",
    )


def _add_measured(data: argparse._ArgumentGroup) -> None:
    data.add_argument(
        "--thick",
        type=Path,
        help="mrzsr: scan with thick slices, in any format of --volume; --factor, --thick-axis, --slice-profile and "
        "--gap describe it",
    )
    data.add_argument(
        "--kspace", type=Path, help="csmri: HDF5 file in the layout of fastMRI or ISMRMRD, of one coil or several"
    )
    data.add_argument(
        "--mask",
        type=Path,
        help="kspace: .npy of samples taken, (columns,) or (rows, columns) (default: the file's own)",
    )
    data.add_argument(
        "--coil-maps",
        type=Path,
        help="kspace: .npy or .h5 of sensitivities, complex (slices, coils, rows, columns) as in the file "
        "(default: by ESPIRiT)",
    )
    data.add_argument(
        "--phase",
        choices=PHASES,
        help="kspace: estimate the image's phase from the centre of k-space, or none for real images (default: "
        "estimate)",
    )
    data.add_argument(
        "--orientation",
        metavar="ABC",
        help="kspace: directions in which slices, rows and columns count, three of R or L, A or P, S or I (default: "
        "the file's own, else SPL)",
    )
    data.add_argument(
        "--sinogram", type=Path, help="svct: .npy, .npz, .h5 or .tif of line integrals, (slices, views, bins)"
    )
    data.add_argument("--geometry", type=Path, help="sinogram: JSON file that describes beam, detector and image")


def _add_priors(priors: argparse._ArgumentGroup) -> None:
    priors.add_argument(
        "--planes",
        type=_words,
        help="shipped priors to use, the primary one first, such as coronal,axial,sagittal (default: axial,coronal; "
        "mrzsr coronal,axial)",
    )
    for role in ROLES:
        shipped = "none" if role == "tertiary" else "a shipped one"
        priors.add_argument(f"--{role}", type=Path, help=f"engine bundle of the {role} plane (default: {shipped})")
        priors.add_argument(
            f"--{role}-plane", help="its plane, if the bundle does not know: axial, coronal, sagittal, or axes as 2,0,1"
        )


def _add_sampler(sampler: argparse._ArgumentGroup) -> None:
    sampler.add_argument(
        "--method",
        choices=tuple(METHODS),
        default="tpdm",
        help="tpdm: the product of perpendicular priors; single: the primary prior alone, slice by slice; dds, "
        "diffusionmbir: that with total variation across slices; tv, wavelet: total variation or sparse wavelets, "
        "without a network; classical: what the task's classical reconstruction is",
    )
    sampler.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        help="reference: the published sampler, as slow as published; fast: the mean of what is likely, in few steps; "
        "balanced: samples of it "
        "(default: fast, or what --sampler names)",
    )
    sampler.add_argument(
        "--sampler",
        choices=SAMPLERS,
        help="pc: the published predictor-corrector; ddim, heun: first and second order (default: ddim; uncond pc)",
    )
    sampler.add_argument(
        "--guidance",
        choices=GUIDANCE,
        help="proximal: estimates are moved to the measurement; dps: gradients through the network, as published "
        "(default: proximal; pc dps)",
    )
    sampler.add_argument("--mix", choices=MIXES, help=f"one prior a step, or the sum of all (default: {Settings.mix})")
    sampler.add_argument("--alpha", type=float, help="sum: share of the primary prior, 0 to 1 (default: 0.5)")
    sampler.add_argument(
        "--K",
        type=number,
        default=None,
        help="integer: every K-th step is the auxiliary's; with a point: each step with probability 1/K "
        "(default: 2; svct with pc 2.7)",
    )
    sampler.add_argument("--steps", type=int, help=f"noise levels (default: {_steps_help()})")
    sampler.add_argument(
        "--eta",
        type=float,
        help="ddim, heun, dds: part of each step's noise that is new, 0 to 1 (default: ddim 1, heun 0, dds 0.85)",
    )
    sampler.add_argument(
        "--noise-scale",
        type=float,
        help="ddim, heun: how much of that noise is added, 0 to 1, while the network is told all of it: 1 gives "
        f"samples, less their mean (default: ddim {NOISE_SCALE} with proximal guidance, else 1)",
    )
    sampler.add_argument(
        "--rho",
        type=float,
        help="proximal: weight of the estimate against the measurement, in units of the operator's squared norm "
        "(default: from the measurement's noise; 0 without)",
    )
    sampler.add_argument(
        "--sparsity-weight",
        type=float,
        help="tv, wavelet, dds, diffusionmbir: weight of total variation or wavelet coefficients against the "
        "measurement, without unit (default: one for each method and task)",
    )
    sampler.add_argument(
        "--dps-weight",
        type=float,
        help="dps: step size λ of data consistency (default: adaptive, from residual, operator and noise; with "
        "--unlimited-steps or --preset reference the published one, carried over to size and steps)",
    )
    sampler.add_argument(
        "--unlimited-steps",
        action="store_true",
        help="dps: let data consistency overshoot, as the published method may; for runs of thousands of steps",
    )
    sampler.add_argument(
        "--group",
        type=int,
        help="pc, dps with a fixed λ, diffusionmbir: slices over which norms are taken; changes the result "
        "(default: 6)",
    )
    sampler.add_argument(
        "--snr", type=float, help="pc, diffusionmbir: signal-to-noise ratio of the corrector (default: 0.16)"
    )
    sampler.add_argument("--sigma-min", type=float, help="last noise level (default: the trained one)")
    sampler.add_argument(
        "--sigma-max",
        type=float,
        help="first noise level (default: 0.3 for ddim and heun with a measurement, else the largest trained one)",
    )
    sampler.add_argument("--seed", type=int, default=Settings.seed, help="seed of noise and sampling mask")


def _add_results(results: argparse._ArgumentGroup) -> None:
    results.add_argument(
        "--samples",
        type=int,
        default=1,
        help="runs with seeds from --seed on; their mean is the result, their standard deviation a map of its "
        "uncertainty",
    )
    results.add_argument(
        "--format",
        choices=FORMATS,
        default="nifti",
        help="of the volumes: nifti (.nii.gz), npy, tif, or dicom, a derived series in a folder",
    )
    results.add_argument(
        "--keep-tags",
        type=_words,
        default=(),
        metavar="KEYWORDS",
        help="dicom: tags to copy from the series that was read, such as PatientID,StudyInstanceUID; no other that "
        "identifies is",
    )
    results.add_argument("--no-report", action="store_true", help="do not write report.html")
    results.add_argument(
        "--preview-every",
        type=int,
        default=0,
        metavar="STEPS",
        help="show the state in preview.png meanwhile; 0: never",
    )


def _add_survival(long: argparse._ArgumentGroup) -> None:
    long.add_argument(
        "--save-every",
        type=int,
        default=10,
        metavar="STEPS",
        help="save the state in the folder of the results; 0: only when interrupted",
    )
    long.add_argument(
        "--resume",
        type=Path,
        metavar="FOLDER",
        help="go on with the interrupted run in a folder, with its options, to the very same result",
    )
    long.add_argument("--overwrite", action="store_true", help="start anew where an interrupted run could be resumed")


def _add_machine(machine: argparse._ArgumentGroup) -> None:
    machine.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="what runs the networks; auto: the fastest that runs here, the plan says which and why",
    )
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda, or cuda:N for the N-th GPU")
    machine.add_argument(
        "--precision", choices=PRECISIONS, help="arithmetic of the networks (default: the most exact one that is built)"
    )
    machine.add_argument(
        "--batch-size",
        type=int,
        default=None,
        help="slices that go through a network together; does not change the result (default: 1 or 2 on a CPU; on a "
        "GPU what the graphs were optimised for)",
    )
    machine.add_argument("--threads", type=int, default=None, help="worker threads on a CPU (default: all cores)")
    add_told(machine, "bar; lines: JSON objects on standard output, one a step, for machines; none")


def add_told(group: argparse._ArgumentGroup, progress: str) -> None:
    """Options for what a program says while it works; `progress` is the help of --progress."""
    group.add_argument("--progress", choices=PROGRESS, default="bar", help=progress)
    group.add_argument(
        "--log-level", choices=LOG_LEVELS, default="warning", help="least important messages on standard error"
    )
    group.add_argument("--quiet", action="store_true", help="no progress, errors only")
