"""Reconstruct a volume: ``python -m engine.run --task csmri``.

Without further arguments the demonstration runs: shipped priors, a head that they have never seen, a simulated
measurement.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import kernels
from engine import demo
from engine.backends.select import Request, Role, Selection, select
from engine.bundle import Bundle
from engine.cli import peak_memory_mb
from engine.errors import InputError
from engine.estimator import ALL, Prior
from engine.io import Volume, load_volume, save_nifti
from engine.methods import METHODS, check, solve
from engine.metrics import per_plane
from engine.noise_level import with_noise_level
from engine.options import ROLES, build_parser, settings_of
from engine.preview import write_preview
from engine.reconstruct import Reconstruction, Settings, check_planes
from engine.sampler import State
from engine.tasks import Measurement, Task, simulate
from engine.versions import versions
from engine.volume import Plane

log = logging.getLogger("engine")

#: Name of the file with the classical reconstruction.
_CLASSICAL = {"csmri": "zero_filled", "mrzsr": "repeated", "svct": "fbp"}
#: How the record shows a step of all priors, of the primary one, and of the others.
_TURNS = "+PAT"
#: Beyond this ratio to the size it was trained on, a network sees anatomy at a scale that it does not know.
_FAR_FROM_TRAINED = 1.5


@dataclass(frozen=True)
class Job:
    """Everything that a run needs, checked."""

    method: str
    task: Task
    priors: tuple[Prior, ...]
    bundles: dict[str, Bundle]
    volume: Volume | None
    shape: tuple[int, int, int]
    affine: np.ndarray
    settings: Settings
    selection: Selection
    n_threads: int | None


def prepare(args: argparse.Namespace) -> Job:
    """Turn arguments into a checked job.

    Raises
    ------
    InputError
        Anything that would fail later.
    """
    if args.batch_size is not None and args.batch_size < 1:
        raise InputError(f"batch-size: expected at least 1, got {args.batch_size}; leave it out for the backend's own")
    if args.threads is not None and args.threads < 1:
        raise InputError(
            f"threads: expected at least 1, got {args.threads}; leave it out for all {kernels.available_cores()} cores"
        )
    if args.threads:
        kernels.set_threads(args.threads)
    bundles = _bundles(args)
    planes = {role: _plane(role, bundle, getattr(args, f"{role}_plane")) for role, bundle in bundles.items()}
    check_planes(list(planes.values()))

    volume = _volume(args)
    if volume is not None:
        shape, affine = volume.data.shape, volume.affine
    else:
        side = bundles["primary"].trained_size or demo.SIZE
        shape, affine = (side, side, side), np.diag([demo.VOXEL_MM] * 3 + [1.0])
    for role, bundle in bundles.items():
        _, rows, columns = planes[role].shape_of(shape)
        bundle.check_slice((rows, columns))
        trained = bundle.trained_size
        if trained and max(rows, columns) > _FAR_FROM_TRAINED * trained:
            log.warning(
                "the network of '%s' was trained on %d×%d slices and gets %d×%d: expect less of it",
                bundle.folder,
                trained,
                trained,
                rows,
                columns,
            )

    how = Measurement(
        args.acceleration,
        args.factor,
        args.thick_axis,
        args.views,
        args.seed,
        args.slice_profile,
        args.gap,
        args.noise,
    )
    task = simulate(args.task, None if volume is None else volume.data, shape, planes["primary"], how)
    check(args.method, task, len(bundles))
    settings = METHODS[args.method].resolved(settings_of(args, *_sigma_range(args, bundles.values())), task)
    if task.operator is not None:
        task = with_noise_level(task, args.noise_level)
    # The operator that the primary network's guided steps compare with; proximal steps need none of the backend.
    guided = task.operator if settings.guidance == "dps" else None
    roles = {
        role: Role(bundle, planes[role].shape_of(shape)[1:], guided if role == "primary" else None)
        for role, bundle in bundles.items()
    }
    # Last, because it may load graphs onto a GPU.
    selection = select(roles, Request(args.backend, args.precision, args.device, args.batch_size, args.threads))
    priors = tuple(Prior(selection.denoisers[role], planes[role]) for role in roles)
    n_threads = (args.threads or kernels.available_cores()) if selection.device.name == "cpu" else None
    return Job(args.method, task, priors, bundles, volume, shape, affine, settings, selection, n_threads)


def _bundles(args: argparse.Namespace) -> dict[str, Bundle]:
    """The bundles by their roles: those that are named, and shipped ones for primary and auxiliary."""
    shipped = args.planes or demo.PLANES
    if args.planes is None and args.task == "mrzsr" and args.thick_axis == 2:
        # Thick slices are seen in planes that contain the thick axis, so that the roles of the shipped priors change.
        shipped = shipped[::-1]
    if args.planes and any(getattr(args, role) for role in ROLES):
        raise InputError("planes: expected no bundles beside the shipped ones, got some; drop --planes or the bundles")
    if not 2 <= len(shipped) <= len(ROLES):
        raise InputError(f"planes: expected two or three, got {len(shipped)}; name them as axial,coronal")
    if args.auxiliary is None and args.tertiary is not None and args.primary is not None:
        raise InputError("tertiary: expected an auxiliary bundle before a third one, got none; pass --auxiliary")
    folders = dict(zip(ROLES, map(demo.bundle_folder, shipped), strict=False))
    folders |= {role: getattr(args, role) for role in ROLES if getattr(args, role)}
    # A method that asks no network still has a plane in which it measures.
    n_needed = METHODS[args.method].n_priors
    roles = list(folders)[: None if n_needed is None else max(1, n_needed)]
    return {role: Bundle.open(folders[role]) for role in roles}


def _plane(role: str, bundle: Bundle, stated: str | None) -> Plane:
    plane = Plane.parse(stated) if stated else bundle.plane
    if plane is None:
        raise InputError(
            f"{role}: expected a plane, the bundle '{bundle.folder}' does not know its own; state it with "
            f"--{role}-plane"
        )
    if bundle.plane is not None and plane != bundle.plane:
        raise InputError(
            f"{role}-plane: expected {bundle.plane}, which '{bundle.folder}' was trained on, got {plane}; drop the "
            f"option or give another engine"
        )
    return plane


def _volume(args: argparse.Namespace) -> Volume | None:
    if args.volume is not None:
        return load_volume(args.volume, args.stack_axis)
    return None if args.task == "uncond" else demo.volume()


def _sigma_range(args: argparse.Namespace, bundles: Collection[Bundle]) -> tuple[float, float]:
    low, high = max(b.sigma_min for b in bundles), min(b.sigma_max for b in bundles)
    for name in ("sigma_min", "sigma_max"):
        value = getattr(args, name)
        # Trained ranges are stored as rounded logarithms: a part in 1e6 is no difference.
        if value is not None and not low * (1 - 1e-6) <= value <= high * (1 + 1e-6):
            raise InputError(
                f"{name.replace('_', '-')}: expected {low:g} to {high:g}, on which all networks were trained, got "
                f"{value:g}; stay within"
            )
    return low, high


def open_folder(out: Path) -> bool:
    """Make sure that results can be written; return whether the folder is new.

    Raises
    ------
    InputError
        It cannot be made, is no folder, or cannot be written.
    """
    is_new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"out: expected a folder that can be written, got '{out}' ({error.strerror}); choose another with --out"
        ) from error
    return is_new


def describe(job: Job) -> str:
    """The plan as text."""
    s = job.settings
    source = f"from {job.volume.source}" if job.volume else "to be generated"
    lines = [
        f"task       {job.task.name} {job.task.details or ''}",
        f"volume     {'×'.join(map(str, job.shape))} {source}",
        *(
            f"{role:10} {prior.plane} ({job.bundles[role].folder})"
            for role, prior in zip(job.bundles, job.priors, strict=True)
        ),
        f"method     {METHODS[job.method].title}",
    ]
    method = METHODS[job.method]
    if method.n_priors != 0:
        levels = f"{s.n_steps} steps, σ {s.sigma_max:g} → {s.sigma_min:g}, seed {s.seed}"
        if "sampler" in method.reads:
            lines += [f"sampler    {s.sampler}, {levels}; {_turns(job)}", f"guidance   {_guidance(job)}"]
        else:
            lines.append(f"sampler    {levels}")
    if "sparsity_weight" in method.reads:
        lines.append(f"sparsity   weight {s.sparsity_weight:g}")
    if method.n_priors != 0:
        lines.append(f"backend    {job.selection}")
    return "\n".join(lines)


def _turns(job: Job) -> str:
    plan = job.settings.plan(len(job.priors))
    if (plan == ALL).all():
        return "all priors at every step, shares " + ", ".join(f"{x:g}" for x in job.settings.shares(len(job.priors)))
    counts = [f"{int((plan == i).sum())} {role}" for i, role in enumerate(job.bundles)]
    return f"{', '.join(counts)} turns (K {job.settings.K})"


def _guidance(job: Job) -> str:
    s = job.settings
    if job.task.operator is None:
        return "none"
    if s.guidance == "dps":
        return "dps, λ adaptive" if s.dps_weight is None else f"dps, λ {s.dps_weight:.4g}, groups of {s.group}"
    return "proximal, " + ("ρ from the noise of the measurement" if s.rho is None else f"ρ {s.rho:g} ‖A‖²")


def execute(job: Job, out: Path, quiet: bool = False) -> dict[str, Any]:
    """Sample, then write volumes, metrics, picture and record into `out`.

    Returns
    -------
    dict
        The metrics as written, empty without a truth.
    """
    # Methods without a network take no such steps.
    hidden = quiet or METHODS[job.method].n_priors == 0
    with tqdm(total=job.settings.n_steps, unit="step", disable=hidden, dynamic_ncols=True) as bar:

        def show(state: State, sigma: float) -> None:
            residual = "–" if state.residual is None else f"{float(state.residual):.4g}"
            bar.set_postfix_str(f"σ {sigma:.3g}, residual {residual}", refresh=False)
            bar.update()

        # Without a bar nothing is read from a GPU while it works.
        callback = None if quiet else show
        result = solve(job.method, job.task, job.priors, job.shape, job.settings, callback)

    scale = np.float32(job.volume.scale if job.volume else 1.0)
    classical = job.task.classical()
    pictures = {"result": result.volume}
    metrics: dict[str, Any] = {}
    save_nifti(out / "recon.nii.gz", result.volume * scale, job.affine)
    if classical is not None and job.volume is not None:
        name = _CLASSICAL[job.task.name]
        save_nifti(out / f"{name}.nii.gz", classical * scale, job.affine)
        truth = job.volume.data
        metrics = {"reconstruction": per_plane(truth, result.volume), name: per_plane(truth, classical)}
        pictures = {"truth": truth, name.replace("_", " "): classical, "result": result.volume}
        _write_json(out / "metrics.json", metrics)
    voxel_mm = np.sqrt((job.affine[:3, :3] ** 2).sum(axis=0))
    write_preview(out / "preview.png", pictures, "truth" if "truth" in pictures else None, voxel_mm=voxel_mm)
    _write_json(out / "run.json", record(job, result))
    return metrics


def record(job: Job, result: Reconstruction) -> dict[str, Any]:
    """Everything needed to repeat the run, and what it cost."""
    volume = None
    if job.volume is not None:
        digest = hashlib.sha256(np.ascontiguousarray(job.volume.data).tobytes()).hexdigest()
        volume = {"source": job.volume.source, "sha256": digest, "scale": job.volume.scale}
    return {
        "task": {"name": job.task.name, **job.task.details},
        "shape": list(job.shape),
        "volume": volume,
        "settings": asdict(result.settings),
        "method": job.method,
        "plan": "".join(_TURNS[which + 1] for which in result.plan),
        "network_evaluations": result.n_evaluations,
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
        "sampling_seconds": round(result.seconds, 3),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "backend": job.selection.record(),
        "threads": job.n_threads,
        "batch_size": job.selection.batch_size,
        "versions": versions(),
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


def summary(metrics: dict[str, Any], out: Path) -> str:
    """The metrics as a small table."""
    lines = [f"{'PSNR (dB) / SSIM':18}" + "".join(f"{p:>18}" for p in ("axial", "coronal", "sagittal"))]
    for name, figures in reversed(metrics.items()):
        cells = "".join(
            f"{figures[p]['psnr_db']:>11.2f} / {figures[p]['ssim']:.2f}" for p in ("axial", "coronal", "sagittal")
        )
        lines.append(f"{name:18}{cells}")
    return "\n".join([*(lines if metrics else []), f"results in {out}"])


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.ERROR if args.quiet else logging.WARNING, format="%(levelname)s: %(message)s")
    out = args.out or Path("runs") / args.task
    is_new = False
    try:
        job = prepare(args)
        if not args.quiet or args.dry_run:
            print(describe(job))
        if args.dry_run:
            return 0
        is_new = open_folder(out)
        metrics = execute(job, out, args.quiet)
    except InputError as error:
        print(f"engine.run: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"engine.run: out: expected room and permission to write in '{out}', got '{error.strerror or error}'; "
            "make room or choose another with --out",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("engine.run: interrupted", file=sys.stderr)
        return 130
    finally:
        # A run that ended early leaves no empty folder behind.
        if is_new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    if not args.quiet:
        print(summary(metrics, out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
