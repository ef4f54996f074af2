"""The files that a finished run leaves."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
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
from engine.job.output import ENDINGS, Output
from engine.job.plan import describe
from engine.job.residual_check import ResidualCheck
from engine.job.self_check import SelfCheck
from engine.job.statistics import Statistics
from engine.methods import METHODS
from engine.report.metrics import check_truth, per_plane
from engine.report.page import Report, write_report
from engine.report.preview import write_preview
from engine.sampling.reconstruction import Reconstruction
from engine.versions import versions

log = logging.getLogger("engine")

_CLASSICAL = {"csmri": "zero_filled", "mrzsr": "cubic", "svct": "fbp"}
#: How the record shows a step of all priors, of the primary one, and of the others.
_TURNS = "+PAT"


@dataclass(frozen=True)
class Checks:
    """What a run found out about itself."""

    of_priors: SelfCheck | None = None
    of_residual: ResidualCheck | None = None

    def record(self) -> dict[str, Any]:
        """For the record of a run."""
        return {
            "self_check": self.of_priors and self.of_priors.record(),
            "residual_check": self.of_residual and self.of_residual.record(),
        }

    def lines(self) -> list[str]:
        """For the plan of a report."""
        return [f"check      {check}" for check in (self.of_priors, self.of_residual) if check]


def classical_name(task: str, details: Mapping[str, Any]) -> str:
    """Name of the classical reconstruction of a task with these details; empty where there is none."""
    return "fdk" if details.get("beam") == "cone" else _CLASSICAL.get(task, "")


def check_results(job: Job, output: Output) -> None:
    """Refuse what would fail only when results are written.

    Raises
    ------
    InputError
        A truth too thin to compare with, a volume that has no place in DICOM, or tags that cannot be kept.
    """
    if job.acquisition.truth is not None:
        with _as_options({"truth": "volume"}):
            check_truth(job.acquisition.truth.shape)
    if output.format != "dicom":
        return
    # The shape alone counts: all voxels are the same one.
    data, affine = job.acquisition.shown(np.broadcast_to(np.float32(0), job.problem.shape))
    if job.acquisition.orientation is not None:
        _, affine = job.acquisition.orientation.file_of(data, affine)
    from engine.io.volumes.dicom_write import check_series

    with _as_options({"keep": "keep-tags", "affine": "format", "source": "keep-tags"}):
        check_series(affine, _series_of(job), output.keep_tags)


def check_places(out: Path, job: Job, output: Output) -> None:
    """Refuse folders of results that hold what no run has written.

    Raises
    ------
    InputError
    """
    if output.format != "dicom":
        return
    from engine.io.volumes.dicom_write import check_target

    classical = classical_name(job.problem.name, job.problem.details)
    names = [
        "recon",
        *(["phase"] if job.problem.shows_magnitude else []),
        *(["deviation"] if job.n_samples > 1 else []),
        *([classical] if classical else []),
    ]
    with _as_options({"folder": "out"}):
        for name in names:
            check_target(out / name)


@contextmanager
def _as_options(named: Mapping[str, str]) -> Iterator[None]:
    """Name the options of a run in a refusal of what they are handed to."""
    try:
        yield
    except InputError as error:
        argument = named.get(error.argument, error.argument)
        raise InputError(argument, error.expected, error.got, error.remedy) from error


def _series_of(job: Job) -> Path | None:
    """The folder or file of the DICOM series that was measured or simulated from, if it was one."""
    source = Path(job.acquisition.source)
    return source if is_series(source) else None


def write_results(
    out: Path,
    job: Job,
    result: Reconstruction,
    statistics: Statistics,
    options: dict[str, Any],
    output: Output,
    warnings: Sequence[str] = (),
    checks: Checks | None = None,
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
    checks : Checks, optional

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
    crude = classical_name(job.problem.name, job.problem.details)

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
    if result.phase is not None:
        save("phase", _wrapped(result.phase, scan.phase))
    if deviation is not None:
        save("deviation", deviation * np.float32(scan.scale))
    metrics: dict[str, Any] = {}
    pictures = {"result": volume}
    if classical is not None:
        save(crude, scan.in_file_units(classical))
        pictures = {crude.replace("_", " "): classical, "result": volume}
        if truth is not None:
            metrics = {"reconstruction": per_plane(truth, volume), crude: per_plane(truth, classical)}
            write_json(out / "metrics.json", metrics)
            pictures = {"truth": truth, **pictures}
    write_preview(out / "preview.png", pictures, "truth" if "truth" in pictures else None, voxel_mm=scan.voxel_mm)
    checks = checks or Checks()
    content = record(job, result, options, statistics.seconds) | checks.record() | {"warnings": list(warnings)}
    write_json(out / "run.json", content)
    if not output.no_report:
        report = Report(
            title=f"{job.problem.name} · {METHODS[job.method].title}",
            result=volume,
            affine=scan.affine,
            classical=classical,
            truth=truth,
            deviation=deviation,
            classical_title=crude.replace("_", " "),
            metrics=metrics or None,
            residuals=content["residuals"],
            sigmas=result.sigmas.tolist(),
            plan=[*describe(job).splitlines(), *checks.lines()],
            settings=content["settings"],
            record=content,
            command=f"python -m engine.run --config {shlex.quote(str(out / 'run.json'))}",
            warnings=warnings,
        )
        write_report(out / "report.html", report)
    return metrics


def _wrapped(phase: np.ndarray, known: np.ndarray | None) -> np.ndarray:
    """The whole phase of an image, in (−π, π], from that beside what the operator knows."""
    return np.angle(np.exp(1j * (phase if known is None else phase + known))).astype(np.float32)


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
        "phase_choice": job.phase_choice and job.phase_choice.record(),
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
                "voxel_mm": bundle.voxel_mm,
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
