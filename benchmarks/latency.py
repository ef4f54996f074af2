"""Latency of the engine beside eager PyTorch: ``python benchmarks/latency.py``.

Both run the same network on the same slices with the same number of threads, in one process, by turns. A guided step is
x̂₀ and the gradient of the k-space residual through the network.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import date
from importlib import metadata
from pathlib import Path

import numpy as np

# The script is run by its path: the packages that it measures lie one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import kernels
from benchmarks import eager
from benchmarks.measure import alternate, machine, spread
from engine import demo
from engine.backends.onnx import OnnxDenoiser
from engine.bundle import Bundle
from engine.cli import HelpFormatter, peak_memory_mb
from engine.guidance import Dps
from engine.masks import poisson_disc
from engine.operators import MaskedFourier
from engine.sampler import groups_of
from export.build_engine import build_engine
from networks import Architecture, load_checkpoint
from networks.architecture import PUBLISHED
from networks.checkpoint import random_checkpoint

GROUP = 6


def demo_architecture() -> Architecture:
    """The architecture of the shipped priors."""
    return Architecture.from_dict(Bundle.open(demo.bundle_folder("axial")).manifest["architecture"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/latency.py",
        description="Latency of the engine beside eager PyTorch.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--arch", choices=("demo", "published"), default="demo", help="network: the shipped priors', or the paper's"
    )
    parser.add_argument(
        "--size", type=int, default=None, help="side of the slices (default: 64 for demo, 256 for published)"
    )
    parser.add_argument(
        "--slices", type=int, default=None, help="slices in a step (default: 24 for demo, 2 for published)"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=None,
        help="slices in one run of a graph (default: 2 for demo, 1 for published)",
    )
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of every row")
    parser.add_argument("--threads", type=int, default=kernels.available_cores(), help="threads for either side")
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).parent / "results", help="folder for the JSON file"
    )
    args = parser.parse_args(argv)
    is_demo = args.arch == "demo"
    size = args.size or (64 if is_demo else 256)
    n = args.slices or (24 if is_demo else 2)
    batch_size = args.batch_size or (2 if is_demo else 1)
    architecture = demo_architecture() if is_demo else PUBLISHED
    torch.set_num_threads(args.threads)

    with tempfile.TemporaryDirectory() as folder:
        # Weights do not change the time: random ones serve, so that nothing has to be at hand.
        ckpt = Path(folder) / "network.pt"
        random_checkpoint(ckpt, architecture)
        manifest = build_engine(ckpt, Path(folder) / "network")
        build_peak_mb = peak_memory_mb()
        network, _ = load_checkpoint(ckpt)
        engine = OnnxDenoiser(Bundle.open(Path(folder) / "network"), batch_size, args.threads)
        seconds, errors = measure(network, engine, n, size, args.repeats)

    rows = {name: spread(values) for name, values in seconds.items()}
    report = {
        "command": "python benchmarks/latency.py " + " ".join(argv if argv is not None else sys.argv[1:]),
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": {p: metadata.version(p) for p in ("torch", "onnxruntime", "numpy", "tpdm-engine")},
        "architecture": architecture.to_dict(),
        "n_parameters": manifest["n_parameters"],
        "slices": n,
        "size": size,
        "batch_size": batch_size,
        "threads": args.threads,
        "build_seconds": manifest["build_seconds"],
        "build_peak_memory_mb": round(build_peak_mb, 1),
        "seconds": rows,
        "ratio_to_eager": {
            kind: rows[f"eager {kind}"]["median"] / rows[f"onnx {kind}"]["median"]
            for kind in ("denoise", "guided step")
        },
        "relative_error_to_eager": errors,
    }
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / f"latency-{args.arch}-{machine()['cores']}cores-{date.today().isoformat()}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(table(rows, n))
    for kind, ratio in report["ratio_to_eager"].items():
        print(f"{kind}: {ratio:.2f} times as fast as eager PyTorch")
    print(f"written to {path}")
    return 0


def measure(
    network: torch.nn.Module, engine: OnnxDenoiser, n: int, size: int, repeats: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Time both sides; also compare what they return."""
    rng = np.random.default_rng(0)
    sigma = 0.5
    x = (rng.random((n, size, size)) + sigma * rng.standard_normal((n, size, size))).astype(np.float32)
    mask = poisson_disc((size, size), 4.0, 0)
    operator = MaskedFourier(mask)
    measurement = operator.apply(rng.random((n, size, size)).astype(np.float32))
    groups = groups_of(n, GROUP)
    guidance = Dps(operator, measurement, weight=1.0)
    tensors = torch.from_numpy(x)[:, None], torch.full((n,), sigma), torch.from_numpy(mask)
    target = torch.from_numpy(measurement)[:, None]

    rows = {
        "eager denoise": lambda: eager.denoise(network, *tensors[:2]),
        "onnx denoise": lambda: engine.denoise(x, sigma),
        "eager guided step": lambda: eager.guided_step(network, *tensors, target, GROUP),
        "onnx guided step": lambda: guidance(engine, x, sigma, groups),
    }
    x0, gradient = (t[:, 0].numpy() for t in rows["eager guided step"]())
    ours_x0, pullback, weights, _ = rows["onnx guided step"]()
    ours_gradient = weights[:, None, None] * pullback
    errors = {
        "x0": float(np.linalg.norm(ours_x0 - x0) / np.linalg.norm(x0)),
        "gradient": float(np.linalg.norm(ours_gradient - gradient) / np.linalg.norm(gradient)),
    }
    return alternate(rows, repeats), errors


def table(rows: dict[str, dict[str, float]], n: int) -> str:
    """The rows as text: milliseconds a slice, median and quartiles."""
    lines = [f"{'milliseconds a slice':22}{'median':>10}{'quartiles':>20}"]
    for name, r in rows.items():
        low, median, high = (1e3 * r[k] / n for k in ("quartile_1", "median", "quartile_3"))
        lines.append(f"{name:22}{median:10.2f}{f'{low:.2f} … {high:.2f}':>20}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
