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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import kernels
from engine import demo
from engine.backends.select import BACKENDS, Request, Role, Selection, select
from engine.bundle import Bundle
from engine.cli import HelpFormatter, peak_memory_mb
from engine.compiled import PRECISIONS
from engine.errors import InputError
from engine.estimator import Prior
from engine.io import Volume, load_volume, save_nifti
from engine.metrics import per_plane
from engine.operators.thick_slices import PROFILES
from engine.preview import write_preview
from engine.reconstruct import Reconstruction, Settings, check_planes, default_dps_weight, reconstruct
from engine.sampler import State
from engine.schedule import Schedule, turns
from engine.tasks import TASKS, Measurement, Task, simulate
from engine.versions import versions
from engine.volume import Plane

log = logging.getLogger("engine")

#: Name of the file with the classical reconstruction.
_CLASSICAL = {"csmri": "zero_filled", "mrzsr": "repeated", "svct": "fbp"}
#: Published ratio of the two networks' turns.
_DEFAULT_K: dict[str, int | float] = {"csmri": 2, "mrzsr": 2, "svct": 2.7, "uncond": 2}
#: Beyond this ratio to the size it was trained on, a network sees anatomy at a scale that it does not know.
_FAR_FROM_TRAINED = 1.5


@dataclass(frozen=True)
class Job:
    """Everything that a run needs, checked."""

    task: Task
    primary: Prior
    auxiliary: Prior
    bundles: dict[str, Bundle]
    volume: Volume | None
    shape: tuple[int, int, int]
    affine: np.ndarray
    settings: Settings
    selection: Selection
    n_threads: int | None


def number(text: str) -> int | float:
    """An integer without, a float with a point: K means different things for the two."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engine.run",
        description="Reconstruct a volume with two perpendicular 2D diffusion priors.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--task", choices=TASKS, required=True, help="what is measured: k-space, thick slices, few CT views, or nothing"
    )
    parser.add_argument("--out", type=Path, default=None, help="folder for the results (default: runs/<task>)")
    parser.add_argument("--dry-run", action="store_true", help="check everything and show the plan, but do not sample")

    data = parser.add_argument_group("volume and measurement")
    data.add_argument(
        "--volume",
        type=Path,
        help="volume to measure: .nii, .nii.gz, .npy, or a folder of .npy slices (default: the demonstration's head)",
    )
    data.add_argument(
        "--stack-axis",
        type=int,
        choices=(0, 1, 2),
        default=2,
        help="volume axis along which a folder's slices are stacked",
    )
    data.add_argument("--acceleration", type=float, default=4.0, help="csmri: all k-space samples over those taken")
    data.add_argument("--factor", type=int, default=4, help="mrzsr: thin slices from one thick one to the next")
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
        "--thick-axis", type=int, choices=(0, 1, 2), default=2, help="mrzsr: volume axis along which slices are thick"
    )
    data.add_argument(
        "--views",
        type=int,
        default=None,
        help="svct: angles over 180 degrees (default: 36 for 256 pixels, in proportion)",
    )

    priors = parser.add_argument_group("priors")
    for role in ("primary", "auxiliary"):
        priors.add_argument(f"--{role}", type=Path, help=f"engine bundle of the {role} plane (default: a shipped one)")
        priors.add_argument(
            f"--{role}-plane", help="its plane, if the bundle does not know: axial, coronal, sagittal, or axes as 2,0,1"
        )

    sampler = parser.add_argument_group("sampler")
    sampler.add_argument(
        "--K",
        type=number,
        default=None,
        help="integer: every K-th step is the auxiliary's; with a point: each step with probability 1/K "
        "(default: 2; svct 2.7)",
    )
    sampler.add_argument("--steps", type=int, default=Settings.n_steps, help="noise levels")
    sampler.add_argument(
        "--dps-weight",
        type=float,
        help="step size of data consistency (default: the published one, carried over to size and steps)",
    )
    sampler.add_argument(
        "--unlimited-steps",
        action="store_true",
        help="let data consistency overshoot, as the published method may; for runs of thousands of steps",
    )
    sampler.add_argument(
        "--group", type=int, default=Settings.group, help="slices over which norms are taken; changes the result"
    )
    sampler.add_argument("--snr", type=float, default=Settings.snr, help="signal-to-noise ratio of the corrector")
    sampler.add_argument("--sigma-min", type=float, help="smallest noise level (default: the trained one)")
    sampler.add_argument("--sigma-max", type=float, help="largest noise level (default: the trained one)")
    sampler.add_argument("--seed", type=int, default=Settings.seed, help="seed of noise and sampling mask")

    machine = parser.add_argument_group("machine")
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
    machine.add_argument("--quiet", action="store_true", help="no progress bar, errors only")
    return parser


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
    primary_bundle, auxiliary_bundle = _bundles(args)
    primary_plane = _plane("primary", primary_bundle, args.primary_plane)
    auxiliary_plane = _plane("auxiliary", auxiliary_bundle, args.auxiliary_plane)
    check_planes([primary_plane, auxiliary_plane])

    volume = _volume(args)
    if volume is not None:
        shape, affine = volume.data.shape, volume.affine
    else:
        side = primary_bundle.trained_size or demo.SIZE
        shape, affine = (side, side, side), np.diag([demo.VOXEL_MM] * 3 + [1.0])
    for plane, bundle in ((primary_plane, primary_bundle), (auxiliary_plane, auxiliary_bundle)):
        _, rows, columns = plane.shape_of(shape)
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
        args.acceleration, args.factor, args.thick_axis, args.views, args.seed, args.slice_profile, args.gap
    )
    task = simulate(args.task, None if volume is None else volume.data, shape, primary_plane, how)
    sigma_min, sigma_max = _sigma_range(args, primary_bundle, auxiliary_bundle)
    settings = Settings(
        sampler="pc",
        guidance="dps",
        n_steps=args.steps,
        K=_DEFAULT_K[args.task] if args.K is None else args.K,
        dps_weight=args.dps_weight,
        group=args.group,
        snr=args.snr,
        stable=not args.unlimited_steps,
        seed=args.seed,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
    )
    # Both refuse what is out of range, before anything is computed or written.
    Schedule(settings.sigma_min, settings.sigma_max, settings.n_steps)
    turns(settings.K, settings.n_steps, settings.seed)
    bundles = {"primary": primary_bundle, "auxiliary": auxiliary_bundle}
    roles = {
        "primary": Role(primary_bundle, primary_plane.shape_of(shape)[1:], task.operator),
        "auxiliary": Role(auxiliary_bundle, auxiliary_plane.shape_of(shape)[1:]),
    }
    # Last, because it may load graphs onto a GPU.
    selection = select(roles, Request(args.backend, args.precision, args.device, args.batch_size, args.threads))
    primary = Prior(selection.denoisers["primary"], primary_plane)
    auxiliary = Prior(selection.denoisers["auxiliary"], auxiliary_plane)
    n_threads = (args.threads or kernels.available_cores()) if selection.device.name == "cpu" else None
    return Job(task, primary, auxiliary, bundles, volume, shape, affine, settings, selection, n_threads)


def _bundles(args: argparse.Namespace) -> tuple[Bundle, Bundle]:
    shipped = list(demo.PLANES)
    # Thick slices are seen in planes that contain the thick axis, so that the roles of the shipped priors change.
    if args.task == "mrzsr" and args.thick_axis == 2:
        shipped.reverse()
    folders = [args.primary or demo.bundle_folder(shipped[0]), args.auxiliary or demo.bundle_folder(shipped[1])]
    return Bundle.open(folders[0]), Bundle.open(folders[1])


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


def _sigma_range(args: argparse.Namespace, *bundles: Bundle) -> tuple[float, float]:
    low, high = max(b.sigma_min for b in bundles), min(b.sigma_max for b in bundles)
    for name in ("sigma_min", "sigma_max"):
        value = getattr(args, name)
        # Trained ranges are stored as rounded logarithms: a part in 1e6 is no difference.
        if value is not None and not low * (1 - 1e-6) <= value <= high * (1 + 1e-6):
            raise InputError(
                f"{name.replace('_', '-')}: expected {low:g} to {high:g}, on which both networks were trained, got "
                f"{value:g}; stay within"
            )
    return args.sigma_min or low, args.sigma_max or high


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
    primary_turns = turns(s.K, s.n_steps, s.seed)
    weight = s.dps_weight if s.dps_weight is not None else default_dps_weight(job.task, s)
    source = f"from {job.volume.source}" if job.volume else "to be generated"
    lines = [
        f"task       {job.task.name} {job.task.details or ''}",
        f"volume     {'×'.join(map(str, job.shape))} {source}",
        f"primary    {job.primary.plane} ({job.bundles['primary'].folder})",
        f"auxiliary  {job.auxiliary.plane} ({job.bundles['auxiliary'].folder})",
        f"steps      {s.n_steps}, σ {s.sigma_max:g} → {s.sigma_min:g}, {int(primary_turns.sum())} primary and "
        f"{int((~primary_turns).sum())} auxiliary turns (K {s.K})",
        f"weights    λ {weight:.4g}, snr {s.snr:g}, groups of {s.group}, seed {s.seed}",
        f"backend    {job.selection}",
    ]
    return "\n".join(lines)


def execute(job: Job, out: Path, quiet: bool = False) -> dict[str, Any]:
    """Sample, then write volumes, metrics, picture and record into `out`.

    Returns
    -------
    dict
        The metrics as written, empty without a truth.
    """
    with tqdm(total=job.settings.n_steps, unit="step", disable=quiet, dynamic_ncols=True) as bar:

        def show(state: State, sigma: float) -> None:
            residual = "–" if state.residual is None else f"{float(state.residual):.4g}"
            bar.set_postfix_str(f"σ {sigma:.3g}, residual {residual}", refresh=False)
            bar.update()

        # Without a bar nothing is read from a GPU while it works.
        callback = None if quiet else show
        result = reconstruct(job.task, (job.primary, job.auxiliary), job.shape, job.settings, callback=callback)

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
        "plan": result.plan.tolist(),
        "priors": {
            role: {
                "folder": str(bundle.folder),
                "plane": list(prior.plane.axes),
                "checkpoint": bundle.manifest["checkpoint"],
                "files": bundle.manifest["files"],
            }
            for (role, bundle), prior in zip(job.bundles.items(), (job.primary, job.auxiliary), strict=True)
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
