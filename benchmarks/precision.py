"""What half precision costs in image quality: ``python benchmarks/precision.py``.

The demonstration is reconstructed from the same noise with its networks in each precision, all else being equal: the
sampler, the operator and what an engine of half precision keeps in float32. The networks run in eager PyTorch, on a GPU
where there is one; so this is about numbers and says nothing about speed. The row `engine`, the bundle as it is shipped,
shows how much two float32 programs differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

# The script is run by its path: the packages that it measures lie one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

import kernels
from benchmarks.half import PRECISIONS, TorchDenoiser, half_network
from benchmarks.measure import machine
from benchmarks.weights import network_of
from engine import demo
from engine.bundle import Bundle
from engine.cli import HelpFormatter
from engine.metrics import per_plane
from engine.reconstruct import Settings, reconstruct
from engine.sampler import Prior
from engine.tasks import Measurement, simulate
from engine.volume import NAMED_PLANES
from networks import NCSNpp

#: PSNR may change by less than this, in dB, against float32.
BOUND_DB = 0.05
ENGINE = "engine"


def changes(metrics: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """PSNR of every row minus that of float32, in dB, for each plane."""
    exact = metrics["float32"]
    return {
        row: {plane: figures[plane]["psnr_db"] - exact[plane]["psnr_db"] for plane in NAMED_PLANES}
        for row, figures in metrics.items()
    }


def table(metrics: dict[str, dict[str, Any]]) -> str:
    """The rows as text: PSNR in dB, and its change against float32."""
    lines = [f"{'PSNR in dB (change)':20}" + "".join(f"{plane:>20}" for plane in NAMED_PLANES)]
    for row, change in changes(metrics).items():
        cells = [f"{metrics[row][plane]['psnr_db']:.3f} ({change[plane]:+.4f})" for plane in NAMED_PLANES]
        lines.append(f"{row:20}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def priors_of(name: str, networks: dict[str, NCSNpp], bundles: dict[str, Bundle], batch_size: int) -> list[Prior]:
    """The axial and the coronal prior of one row."""
    if name == ENGINE:
        return list(demo.priors())
    found = []
    for plane, network in networks.items():
        half = network if name == "float32" else half_network(network, PRECISIONS[name])
        axes = bundles[plane].plane
        assert axes is not None, "shipped bundles say their plane"
        found.append(Prior(TorchDenoiser(half, batch_size), axes))
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/precision.py",
        description="What half precision costs in image quality.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=50, help="noise levels of each run")
    parser.add_argument("--batch-size", type=int, default=8, help="slices in one pass through a network")
    parser.add_argument("--threads", type=int, default=kernels.available_cores(), help="threads of the networks")
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).parent / "results", help="folder for the JSON file"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bundles = {plane: Bundle.open(demo.bundle_folder(plane)) for plane in demo.PLANES}
    networks = {plane: network_of(bundle).to(device) for plane, bundle in bundles.items()}
    volume = demo.volume().data
    metrics: dict[str, dict[str, Any]] = {}
    volumes: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    for name in (ENGINE, *PRECISIONS):
        axial, coronal = priors_of(name, networks, bundles, args.batch_size)
        task = simulate("csmri", volume, volume.shape, axial.plane, Measurement())
        started = time.perf_counter()
        volumes[name] = reconstruct(task, axial, coronal, volume.shape, Settings(n_steps=args.steps)).volume
        seconds[name] = time.perf_counter() - started
        # A run that left the range of its numbers has no metrics; it must not pass for one that has.
        if not np.isfinite(volumes[name]).all():
            raise ArithmeticError(f"{name}: the reconstruction has NaN or infinite values")
        metrics[name] = per_plane(volume, volumes[name])
        print(f"{name}: {metrics[name]['psnr_db']:.3f} dB in {seconds[name]:.0f} s", flush=True)

    exact = volumes["float32"]
    norm = float(np.linalg.norm(exact))
    largest = {row: max(abs(c) for c in change.values()) for row, change in changes(metrics).items()}
    report = {
        "command": " ".join(["python benchmarks/precision.py", *(argv if argv is not None else sys.argv[1:])]),
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": {p: metadata.version(p) for p in ("torch", "onnxruntime", "numpy", "tpdm-engine")},
        "emulated_by": f"eager PyTorch on {torch.cuda.get_device_name() if device == 'cuda' else 'the CPU'}; "
        "convolutions, attention and sums in the named precision, embedding, normalisation and x + σ·raw in float32; "
        f"'{ENGINE}' is the shipped bundle in ONNX Runtime",
        "task": "csmri",
        "measurement": task.details,
        "shape": list(volume.shape),
        "n_steps": args.steps,
        "bound_db": BOUND_DB,
        "passes": {row: change < BOUND_DB for row, change in largest.items()},
        "largest_change_db": largest,
        "change_db": changes(metrics),
        "relative_difference": {row: float(np.linalg.norm(v - exact)) / norm for row, v in volumes.items()},
        "metrics": metrics,
        "sampling_seconds": seconds,
    }
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / f"precision-{date.today().isoformat()}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(table(metrics))
    print(f"written to {path}")
    return 0 if all(report["passes"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
