"""What half precision costs in image quality: ``python benchmarks/precision.py``.

The demonstration is reconstructed from the same noise with its networks in each precision, all else being equal: the
sampler, the operator and what an engine of half precision keeps in float32. The networks run in eager PyTorch, on a GPU
where there is one; so this is about numbers and says nothing about speed. All rows are compared with the bundle as it
is shipped, float32 in native kernels; the row of float32 in PyTorch shows how much two float32 programs differ, several
seeds how much two samples do.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch

import kernels
from benchmarks.lib.command import parser_of, report_of, write
from benchmarks.lib.half import TorchDenoiser, half_network
from engine import demo
from engine.backends.bundle import Bundle
from engine.problems import simulate
from engine.report.metrics import per_plane
from engine.sampling.posterior_mean import Prior
from engine.sampling.reconstruction import Settings, reconstruct
from engine.volume import NAMED_PLANES
from export.restore import network_of
from networks import NCSNpp

#: PSNR may change by less than this, in dB, against float32.
BOUND_DB = 0.05
ENGINE = "engine, float32"
#: Precision, and whether the layers at the ends are halved too, by row; None for the network as it is.
ROWS: dict[str, tuple[torch.dtype, bool] | None] = {
    "float16": (torch.float16, False),
    "bfloat16": (torch.bfloat16, False),
    "float16, ends too": (torch.float16, True),
    "bfloat16, ends too": (torch.bfloat16, True),
    "float32": None,
}


def changes(metrics: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """PSNR of every row minus that of the engine in float32, in dB, for each plane."""
    exact = metrics[ENGINE]
    return {
        row: {plane: figures[plane]["psnr_db"] - exact[plane]["psnr_db"] for plane in NAMED_PLANES}
        for row, figures in metrics.items()
        if row != ENGINE
    }


def summary(metrics: dict[int, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What every row changes over the seeds that it has run with.

    Parameters
    ----------
    metrics : dict
        `engine.report.metrics.per_plane` by seed and row.

    Returns
    -------
    dict of str to dict
        ``mean_change_db`` by plane; ``largest_change_db`` of any plane and seed, without its sign; ``passes``, whether
        that is below `BOUND_DB`; ``seeds``.
    """
    by_row: dict[str, list[dict[str, float]]] = {}
    for rows in metrics.values():
        for row, change in changes(rows).items():
            by_row.setdefault(row, []).append(change)
    found = {}
    for row, all_changes in by_row.items():
        # NumPy's, through which NaN comes: it must not pass.
        largest = float(np.max([abs(value) for change in all_changes for value in change.values()]))
        found[row] = {
            "mean_change_db": {plane: float(np.mean([c[plane] for c in all_changes])) for plane in NAMED_PLANES},
            "largest_change_db": largest,
            "passes": largest < BOUND_DB,
            "seeds": len(all_changes),
        }
    return found


def table(metrics: dict[int, dict[str, dict[str, Any]]]) -> str:
    """PSNR in dB and its change by seed and row."""
    lines = [f"{'PSNR in dB (change)':36}" + "".join(f"{plane:>20}" for plane in NAMED_PLANES)]
    for seed, rows in metrics.items():
        change = {ENGINE: dict.fromkeys(NAMED_PLANES, 0.0), **changes(rows)}
        for row, figures in rows.items():
            cells = "".join(f"{_cell(figures[p]['psnr_db'], change[row][p]):>20}" for p in NAMED_PLANES)
            lines.append(f"{f'seed {seed}, {row}':36}{cells}")
    return "\n".join(lines)


def _cell(psnr_db: float, change: float) -> str:
    return f"{psnr_db:.3f} ({change:+.4f})"


def priors_of(row: str, networks: dict[str, NCSNpp], planes: list[Prior], batch_size: int) -> list[Prior]:
    """The axial and the coronal prior of one row."""
    if row == ENGINE:
        return planes
    how = ROWS[row]
    halves = [network if how is None else half_network(network, *how) for network in networks.values()]
    return [Prior(TorchDenoiser(half, batch_size), p.plane) for half, p in zip(halves, planes, strict=True)]


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("precision", "What half precision costs in image quality.")
    parser.add_argument("--steps", type=int, default=50, help="noise levels of each run")
    parser.add_argument("--seeds", type=int, default=2, help="runs of every row, each with noise of its own")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="precisions to compare")
    parser.add_argument("--batch-size", type=int, default=8, help="slices in one pass through a network")
    parser.add_argument("--threads", type=int, default=kernels.available_cores(), help="threads of the networks")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks = {plane: network_of(Bundle.open(demo.bundle_folder(plane))).to(device) for plane in demo.PLANES}
    shipped = list(demo.priors())
    volume = demo.volume().data
    problem = simulate("csmri", volume, shipped[0].plane)
    emulated_by = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    report: dict[str, Any] = {
        **report_of("precision", argv, "torch"),
        "emulated_by": f"eager PyTorch on {emulated_by}: convolutions, attention and sums in the named precision; "
        "embedding, normalisation, the layers that read or write images, and x + σ·raw in float32, as in the engines; "
        f"'ends too': the layers that read or write images in half as well; '{ENGINE}': the shipped bundle in ONNX "
        "Runtime",
        "task": "csmri",
        "measurement": problem.details,
        "shape": list(volume.shape),
        "n_steps": args.steps,
        "bound_db": BOUND_DB,
    }
    metrics: dict[int, dict[str, dict[str, Any]]] = {}
    differences: dict[int, dict[str, float]] = {}
    seconds: dict[int, dict[str, float]] = {}
    for seed in range(args.seeds):
        exact = np.zeros(0)
        for row in (ENGINE, *args.rows):
            axial, coronal = priors_of(row, networks, shipped, args.batch_size)
            started = time.perf_counter()
            settings = Settings(sampler="pc", guidance="dps", n_steps=args.steps, seed=seed)
            found = reconstruct(problem, (axial, coronal), settings).volume
            seconds.setdefault(seed, {})[row] = time.perf_counter() - started
            # A run that left the range of its numbers has no metrics; it must not pass for one that has.
            if not np.isfinite(found).all():
                raise ArithmeticError(f"{row}: the reconstruction has NaN or infinite values")
            exact = found if row == ENGINE else exact
            metrics.setdefault(seed, {})[row] = per_plane(volume, found)
            difference = float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
            differences.setdefault(seed, {})[row] = difference
            print(f"seed {seed}, {row}: {metrics[seed][row]['psnr_db']:.3f} dB", flush=True)
            # Written after every run: the whole takes long.
            figures = {"relative_difference": differences, "metrics": metrics, "sampling_seconds": seconds}
            write({**report, "summary": summary(metrics), **figures}, args.results, "precision")
    print(table(metrics))
    return 0 if all(row["passes"] for row in summary(metrics).values()) else 1


if __name__ == "__main__":
    sys.exit(main())
