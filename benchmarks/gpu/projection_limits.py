"""Projections on a GPU beside the card's limits: ``python -m benchmarks.gpu.projection_limits``.

Counts what the projections of one stack must do (sums of products, bytes from the nearest cache, bytes from memory) and
says which share of the card's rates that is.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import kernels
from benchmarks.lib.command import parser_of, report_of, write
from benchmarks.lib.machine import copy_rate, has_gpu, slug
from benchmarks.lib.measure import spread
from benchmarks.lib.rows import Setting, load

#: Single-precision units of a multiprocessor, the same on every card since compute capability 8.6; 64 before.
_UNITS = {(7, 5): 64, (8, 0): 64}
#: Bytes that a multiprocessor's nearest cache delivers in a cycle.
_CACHE_BYTES = 128


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("gpu/projection_limits", "Time projections on a GPU beside the card's limits.")
    parser.add_argument("--slices", type=int, default=256, help="slices in the stack")
    parser.add_argument("--size", type=int, default=256, help="side of the slices")
    parser.add_argument("--views", type=int, default=256, help="views over half a turn")
    parser.add_argument("--repeats", type=int, default=20, help="timed turns, at least 2")
    args = parser.parse_args(argv)
    if not has_gpu():
        parser.error("expected a CUDA device that CuPy can use, got none; run it on a machine with an NVIDIA GPU")

    cupy = load("cupy")
    geometry = kernels.ParallelGeometry.from_views(args.size, args.views)
    images = cupy.asarray(np.random.default_rng(0).random((args.slices, *geometry.shape), np.float32))
    sinogram = kernels.radon_forward(images, geometry)
    calls = {
        "forward": lambda: kernels.radon_forward(images, geometry),
        "adjoint": lambda: kernels.radon_adjoint(sinogram, geometry),
    }
    seconds = {name: spread(time_calls(cupy, call, args.repeats)) for name, call in calls.items()}
    limits = limits_of(cupy, copy_rate(Setting(args.slices, args.size, args.views, 1, "cuda")))
    # A sample is a sum of four products; a pixel of the adjoint one of as many products as rays touch it.
    n_samples = count_samples(geometry)
    n_entries = count_entries(geometry)
    work = {
        "forward": {"operations": 8.0 * n_samples * args.slices, "cache_bytes": 16.0 * n_samples * args.slices},
        "adjoint": {"operations": 2.0 * n_entries * args.slices, "cache_bytes": 4.0 * n_entries * args.slices},
    }
    sizes = {"slices": args.slices, "size": args.size, "views": args.views}
    name = "gpu/projection_limits"
    report = report_of(name, argv, device="cuda", limits=limits, **sizes, seconds=seconds, work=work)
    memory_bytes = 4.0 * (images.size + sinogram.size)
    for name, counted in work.items():
        counted["memory_bytes"] = memory_bytes
        median = seconds[name]["median"]
        counted["share_of_operations"] = counted["operations"] / median / limits["operations_per_second"]
        counted["share_of_cache"] = counted["cache_bytes"] / median / limits["cache_bytes_per_second"]
        counted["share_of_memory"] = memory_bytes / median / limits["memory_bytes_per_second"]
        shares = ", ".join(
            f"{100 * counted[f'share_of_{kind}']:.0f} % of {kind}" for kind in ("operations", "cache", "memory")
        )
        print(f"{name}: {1e3 * median:.2f} ms; {shares}")
    write(report, args.results, f"projection-limits-{slug(report['machine'])}")
    return 0


def time_calls(cupy: Any, call: Any, repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls, by the device's clock, after three calls to warm up."""
    start, stop, seconds = cupy.cuda.Event(), cupy.cuda.Event(), []
    for turn in range(repeats + 3):
        start.record()
        call()
        stop.record()
        stop.synchronize()
        if turn >= 3:
            seconds.append(1e-3 * cupy.cuda.get_elapsed_time(start, stop))
    return seconds


def limits_of(cupy: Any, copy_rate: float) -> dict[str, float]:
    """The card's rates: single-precision operations and cache by its clock and units, memory by a measured copy."""
    device = cupy.cuda.Device()
    attributes = device.attributes
    n_processors, clock_hz = attributes["MultiProcessorCount"], 1e3 * attributes["ClockRate"]
    units = _UNITS.get((attributes["ComputeCapabilityMajor"], attributes["ComputeCapabilityMinor"]), 128)
    return {
        "operations_per_second": 2.0 * units * n_processors * clock_hz,
        "cache_bytes_per_second": float(_CACHE_BYTES * n_processors * clock_hz),
        "memory_bytes_per_second": copy_rate,
    }


def count_samples(geometry: kernels.Geometry) -> int:
    """Samples of all rays of one slice that touch the image."""
    n = 0
    along = np.arange(geometry.n_samples) - (geometry.n_samples - 1) / 2
    for angle_rad in geometry.angles_rad:
        feet, directions = geometry.rays_of(angle_rad)
        inside = np.ones((geometry.n_bins, geometry.n_samples), bool)
        for axis in (0, 1):
            position = feet[:, axis, None] + along * directions[:, axis, None]
            inside &= (position >= -1) & (position < geometry.shape[axis])
        n += int(inside.sum())
    return n


def count_entries(geometry: kernels.Geometry) -> int:
    """Pairs of a pixel and a ray of one slice with a weight above zero; counted at 64 pixels, and scaled.

    Counted on the adjoint itself: no pixel takes from two rays that are three bins apart, so a sinogram of ones in
    every third bin marks each pair by one pixel.
    """
    host = kernels.ParallelGeometry(min(geometry.shape[0], 64), geometry.angles_rad)
    one = np.zeros((1, host.n_views, host.n_bins), np.float32)
    n = 0
    for first in range(3):
        one[:] = 0
        one[:, :, first::3] = 1
        for view in range(host.n_views):
            single = kernels.ParallelGeometry(host.n, host.angles_rad[view : view + 1])
            n += int((kernels.radon_adjoint(one[:, view : view + 1], single) > 0).sum())
    return int(n * (geometry.shape[0] / host.n) ** 2)


if __name__ == "__main__":
    sys.exit(main())
