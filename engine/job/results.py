"""The files that a finished run leaves."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.cli import peak_memory_mb
from engine.errors import InputError
from engine.io.files import replacing
from engine.io.volumes import save_volume
from engine.io.volumes.dicom_files import is_series
from engine.job.job import Job, digest_of
from engine.job.plan import describe
from engine.job.statistics import Statistics
from engine.methods import METHODS
from engine.options import Options, option
from engine.report.metrics import per_plane
from engine.report.page import Report, write_report
from engine.report.preview import write_preview
from engine.sampling.reconstruction import Reconstruction
from engine.versions import versions

log = logging.getLogger("engine")

#: Name of the classical reconstruction.
CLASSICAL = {"csmri": "zero_filled", "mrzsr": "repeated", "svct": "fbp"}
#: Endings of files by format; a DICOM series is a folder.
ENDINGS = {"nifti": ".nii.gz", "npy": ".npy", "tif": ".tif", "dicom": ""}
#: How the record shows a step of all priors, of the primary one, and of the others.
_TURNS = "+PAT"
#: Room that pictures, records and the report need, in bytes, beside the volumes.
_SMALL_FILES = 32 << 20


@dataclass(frozen=True)
class Output(Options):
    """Results, and their files."""

    samples: int = option(
        1,
        low=1,
        high=10_000,
        help="runs with seeds from --seed on; their mean is the result, their standard deviation a map of its "
        "uncertainty",
        remedy="8 show where results are uncertain",
    )
    format: str = option(
        "nifti",
        choices=tuple(ENDINGS),
        help="of the volumes: nifti (.nii.gz), npy, tif, or dicom, a derived series in a folder",
    )
    keep_tags: tuple[str, ...] = option(
        (),
        metavar="KEYWORDS",
        needs={"format": ("dicom",)},
        help="tags to copy from the series that was read, such as PatientID,StudyInstanceUID; no other that identifies "
        "is",
    )
    no_report: bool = option(False, help="do not write report.html")
    preview_every: int = option(
        0,
        low=0,
        high=1_000_000,
        metavar="STEPS",
        help="show the state in preview.png meanwhile; 0: never",
        remedy="leave it out for none",
    )


@contextmanager
def new_folder(out: Path, is_root: bool = True) -> Iterator[None]:
    """Take away the empty folders that a run which ended early has made for its results."""
    made = [folder for folder in (out, *out.parents) if is_root and not folder.exists()]
    try:
        yield
    finally:
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def open_folder(out: Path) -> None:
    """Make sure that results can be written.

    Raises
    ------
    InputError
        It cannot be made, is no folder, or cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except (OSError, ValueError) as error:  # the second of names that no file system has
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            "out", "a folder that can be written", f"'{out}' ({reason})", "choose another with --out"
        ) from error


def check_room(out: Path, job: Job, saves: bool) -> None:
    """Refuse a disk without room for results and states.

    Raises
    ------
    InputError
    """
    n_bytes = 4 * int(np.prod(job.problem.shape))
    # Result, classical reconstruction, and with several samples a deviation; each replaces an older one, which stays
    # until it is complete.
    n_files = 2 + (job.problem.operator is not None) + (job.n_samples > 1)
    # Two states at a time, of x, two more for methods that split, and two moments of double precision.
    n_states = 2 * (1 + 2 + (4 if job.n_samples > 1 else 0)) if saves else 0
    needed = n_bytes * (n_files + n_states) + _SMALL_FILES
    free = shutil.disk_usage(out).free
    if free < needed:
        raise InputError(
            "out",
            f"{needed / 2**20:.0f} MB free for results and states in '{out}'",
            f"{free / 2**20:.0f} MB",
            "make room or choose another with --out",
        )


def check_format(job: Job, output: Output) -> None:
    """Refuse a format that would fail only when results are written.

    Raises
    ------
    InputError
        A volume that has no place in DICOM, or tags that cannot be kept.
    """
    if output.format != "dicom":
        return
    # The shape alone counts: all voxels are the same one.
    data, affine = job.acquisition.shown(np.broadcast_to(np.float32(0), job.problem.shape))
    if job.acquisition.orientation is not None:
        _, affine = job.acquisition.orientation.file_of(data, affine)
    try:
        from engine.io.volumes.dicom_write import check_series

        check_series(affine, _series_of(job), output.keep_tags)
    except InputError as error:
        named = {"keep": "keep-tags", "affine": "format", "source": "keep-tags"}
        argument = named.get(error.argument, error.argument)
        raise InputError(argument, error.expected, error.got, error.remedy) from error


def _series_of(job: Job) -> Path | None:
    """The folder of the DICOM series that was measured or simulated from, if it was one."""
    source = Path(job.acquisition.source)
    return source if source.is_dir() and is_series(source) else None


def write_results(
    out: Path,
    job: Job,
    result: Reconstruction,
    statistics: Statistics,
    options: dict[str, Any],
    output: Output,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Write volumes, metrics, pictures, record and report.

    Parameters
    ----------
    out : Path
    job : Job
    result : Reconstruction
        Of the last sample.
    statistics : Statistics
        Of all samples; their mean is what is written.
    options : dict
        That repeat the run, see `engine.job.configuration.options_of`.
    output : Output
    warnings : sequence of str
        Of the run, for the report.

    Returns
    -------
    dict
        The metrics as written, empty without a truth.
    """
    scan = job.acquisition
    volume = result.volume if statistics.n < 2 else np.asarray(statistics.mean, np.float32)
    if not np.isfinite(volume).all():
        raise InputError(
            "result",
            "finite intensities",
            f"{int((~np.isfinite(volume)).sum())} others",
            "go back to the defaults of weights, snr and noise levels",
        )
    deviation, classical, truth = statistics.deviation, job.problem.classical(), scan.truth
    classical_name = CLASSICAL.get(job.problem.name, "")

    def save(name: str, data: np.ndarray) -> None:
        path = out / f"{name}{ENDINGS[output.format]}"
        data, affine = scan.shown(data)
        if output.format != "dicom":
            save_volume(path, data, affine, scan.orientation)
            return
        data, affine = (data, affine) if scan.orientation is None else scan.orientation.file_of(data, affine)
        from engine.io.volumes.dicom_write import write_series

        write_series(path, data, affine, _series_of(job), output.keep_tags)

    save("recon", scan.in_file_units(volume))
    if deviation is not None:
        save("deviation", deviation * np.float32(scan.scale))
    metrics: dict[str, Any] = {}
    pictures = {"result": volume}
    if classical is not None:
        save(classical_name, scan.in_file_units(classical))
        pictures = {classical_name.replace("_", " "): classical, "result": volume}
        if truth is not None:
            metrics = {"reconstruction": per_plane(truth, volume), classical_name: per_plane(truth, classical)}
            write_json(out / "metrics.json", metrics)
            pictures = {"truth": truth, **pictures}
    write_preview(out / "preview.png", pictures, "truth" if "truth" in pictures else None, voxel_mm=scan.voxel_mm)
    content = record(job, result, options, statistics.seconds)
    write_json(out / "run.json", content)
    if not output.no_report:
        report = Report(
            title=f"{job.problem.name} · {METHODS[job.method].title}",
            result=volume,
            affine=scan.affine,
            classical=classical,
            truth=truth,
            deviation=deviation,
            classical_title=classical_name.replace("_", " "),
            metrics=metrics or None,
            residuals=content["residuals"],
            sigmas=result.sigmas.tolist(),
            plan=describe(job).splitlines(),
            settings=content["settings"],
            record=content,
            command=f"python -m engine.run --config {shlex.quote(str(out / 'run.json'))}",
            warnings=warnings,
        )
        write_report(out / "report.html", report)
    return metrics


def write_meanwhile(out: Path, job: Job, x: np.ndarray) -> None:
    """Show the state of a run in its picture."""
    try:
        write_preview(out / "preview.png", {"state": x}, result_key="state", voxel_mm=job.acquisition.voxel_mm)
    except OSError as error:
        # A picture is not worth the run.
        log.warning("the preview could not be written (%s)", error.strerror or error)


def record(job: Job, result: Reconstruction, options: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Everything needed to repeat the run, and what it cost."""
    truth = job.acquisition.truth
    digest = None if truth is None else digest_of(truth)
    return {
        "options": options,
        "task": {"name": job.problem.name, **job.problem.details},
        "shape": list(job.problem.shape),
        "volume": None
        if job.problem.operator is None
        else {
            "source": job.acquisition.source,
            "sha256": digest,
            "scale": job.acquisition.scale,
            "offset": job.acquisition.offset,
        },
        "measurement_sha256": job.identity["measurement"],
        "affine": job.acquisition.affine.tolist(),
        # A sample's own seed is this plus its number.
        "settings": {**asdict(result.settings), "seed": job.settings.seed},
        "method": job.method,
        "samples": job.n_samples,
        "plan": "".join(_TURNS[which + 1] for which in result.plan),
        "network_evaluations": result.n_evaluations * job.n_samples,
        "priors": {
            role: {
                "folder": str(bundle.folder),
                "plane": list(prior.plane.axes),
                "checkpoint": bundle.manifest["checkpoint"],
                "files": bundle.manifest["files"],
            }
            for (role, bundle), prior in zip(job.bundles.items(), job.priors, strict=True)
        },
        "residuals": [None if np.isnan(r) else r for r in result.residuals],
        "sampling_seconds": round(seconds, 3),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "backend": job.selection.record(),
        "ranks": job.n_ranks,
        "threads": job.n_threads,
        "batch_size": job.selection.batch_size,
        "versions": versions(),
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def summary(metrics: dict[str, Any], out: Path) -> str:
    """The metrics as a small table."""
    lines = [f"{'PSNR (dB) / SSIM':18}" + "".join(f"{p:>18}" for p in ("axial", "coronal", "sagittal"))]
    for name, figures in reversed(metrics.items()):
        cells = "".join(
            f"{figures[p]['psnr_db']:>11.2f} / {figures[p]['ssim']:.2f}" for p in ("axial", "coronal", "sagittal")
        )
        lines.append(f"{name:18}{cells}")
    return "\n".join([*(lines if metrics else []), f"results in {out}"])
