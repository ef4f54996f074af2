"""Generate volumes from nothing and compare them with training volumes: ``python benchmarks/generation.py``.

Intensities and spatial spectra of what the samplers draw, beside those of the heads that are named; the distance of one
such head from another says how far is near. Finished samples are kept in the results' folder ``cells``.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy import stats

import kernels
from benchmarks.lib.cells import Store, Truth
from benchmarks.lib.command import parser_of, report_of, write
from benchmarks.reports import generation as generation_report
from engine import demo
from engine.backends.bundle import Bundle
from engine.backends.native import NativeDenoiser
from engine.cli import exit_code
from engine.errors import InputError
from engine.job.choices import settings_of
from engine.job.configuration import parse
from engine.job.parser import build_parser
from engine.methods import solve
from engine.problems import simulate
from engine.sampling.posterior_mean import Prior
from engine.sampling.reconstruction import Settings
from engine.volume import NAMED_PLANES, Plane

#: What is compared: sampler and number of steps; the first is what the command line runs without options.
SAMPLERS = {"pc-200": ("pc", 200), "ddim-100": ("ddim", 100), "heun-100": ("heun", 100)}
#: Ends of the bands of spatial frequency, in cycles a voxel: half a cycle is the finest that an axis holds.
BANDS = {"coarse": (0.0, 0.1), "middle": (0.1, 0.25), "fine": (0.25, 0.5)}
_N_BINS = 100
#: Raised by hand where the same settings no longer give the same sample.
_VERSION = 1


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)

    def body() -> int:
        _check(args)
        kernels.set_threads(args.threads)
        heads = read(args.volumes)
        priors, bundles = _priors(args.threads)
        store = Store(args.results / "cells")
        samples: dict[str, list[np.ndarray]] = {}
        costs: dict[str, list[dict[str, Any]]] = {}
        for name in args.samplers:
            for seed in range(args.seeds):
                settings = settings_for(name, seed, args.steps)
                identity = {
                    **{"version": _VERSION, "task": "uncond", "settings": asdict(settings), "threads": args.threads},
                    "priors": [bundle.manifest["key"] for bundle in bundles],
                }
                cost, volume = drawn(settings, priors, store, identity)
                samples.setdefault(name, []).append(volume)
                costs.setdefault(name, []).append(cost)
                print(f"{name}, seed {seed}: {cost['seconds']:.0f} s", flush=True)
        found = compared(heads, samples)
        for name, entry in found["samplers"].items():
            entry |= {key: statistics.mean(cost[key] for cost in costs[name]) for key in costs[name][0]}
        report = report_of("generation", argv, threads=args.threads, seeds=args.seeds, **found)
        print(f"\n{generation_report.table(report)}")
        path = write(report, args.results, "generation")
        generation_report.plot(report, heads, samples, path.with_suffix(".png"))
        return 0

    return exit_code("generation", body, interrupted="the same command goes on where this one stopped")


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("generation", "Generate volumes from nothing and compare them with training volumes.")
    parser.add_argument(
        "--volumes",
        nargs="*",
        default=[],
        metavar="FILE",
        help="two or more heads, NIfTI or .npy, the one that the priors were trained on first (ch2better.nii.gz of "
        "Debian's mricron-data); demo: the demonstration's",
    )
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), help=f"of {', '.join(SAMPLERS)}")
    parser.add_argument("--seeds", type=int, default=2, help="samples of every sampler")
    parser.add_argument("--steps", type=int, help="another number of steps for all, for a quick look")
    parser.add_argument("--threads", type=int, default=kernels.available_cores(), help="for networks and operators")
    return parser


def _check(args: argparse.Namespace) -> None:
    for name in ("seeds", "threads"):
        if getattr(args, name) < 1:
            raise InputError(name, "at least 1", f"{getattr(args, name)}", "ask for more")
    for name in args.samplers:
        if name not in SAMPLERS:
            raise InputError("samplers", f"some of {', '.join(SAMPLERS)}", f"'{name}'", "choose from these")
    if len(args.volumes) < 2:
        raise InputError(
            "volumes",
            "at least two heads, which tell how far one is from another",
            f"{len(args.volumes)}",
            "name files with --volumes, the one that the priors were trained on first",
        )
    args.results.mkdir(parents=True, exist_ok=True)


def read(files: Sequence[str]) -> dict[str, np.ndarray]:
    """Heads by their files' names, resampled as for training; "demo" is the demonstration's."""
    truths = [Truth.read(file) for file in files]
    heads = {truth.name: truth.data for truth in truths}
    if len(heads) < len(files):
        raise InputError("volumes", "files of different names", f"{', '.join(files)}", "rename one")
    return heads


def _priors(n_threads: int) -> tuple[list[Prior], list[Bundle]]:
    bundles = [Bundle.open(demo.bundle_folder(plane)) for plane in demo.PLANES]
    priors = [
        Prior(NativeDenoiser(bundle, n_threads=n_threads), Plane(NAMED_PLANES[plane]))
        for bundle, plane in zip(bundles, demo.PLANES, strict=True)
    ]
    return priors, bundles


def settings_for(name: str, seed: int, n_steps: int | None) -> Settings:
    """What ``python -m engine.run --task uncond`` takes for a sampler and a number of steps."""
    sampler, steps = SAMPLERS[name]
    argv = ["--task", "uncond", "--sampler", sampler, "--steps", str(n_steps or steps), "--seed", str(seed)]
    return settings_of(parse(build_parser(), argv))


def drawn(
    settings: Settings, priors: Sequence[Prior], store: Store, identity: dict[str, Any]
) -> tuple[dict[str, Any], np.ndarray]:
    """What a sample of the demonstration's size cost, and the sample, from the store where it is there."""
    kept, volume = store.read(identity), store.volume(identity)
    if kept is not None and volume is not None:
        return kept["figures"], volume
    problem = simulate("uncond", None, priors[0].plane, shape=(demo.SIZE,) * 3)
    started, cpu = time.perf_counter(), time.process_time()
    result = solve("tpdm", problem, priors, settings)
    record = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    record["n_evaluations"] = result.n_evaluations
    store.write(identity, {"figures": record}, result.volume)
    return record, result.volume


def spectrum(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power of a volume's spatial frequencies, averaged over all directions.

    Parameters
    ----------
    volume : float32 (d0, d1, d2)

    Returns
    -------
    frequency : float64 (n,)
        In cycles a voxel: middles of shells as wide as the longest side's steps, from its first one to ½.
    power : float64 (n,)
        Mean |F x|² / number of voxels in each shell: that of white noise is its variance. Means of no frequency are
        NaN. The zero frequency, and the corners beyond ½, are left out.
    """
    power = abs(np.fft.fftn(volume.astype(np.float64))) ** 2 / volume.size
    axes = np.meshgrid(*[np.fft.fftfreq(n) for n in volume.shape], indexing="ij", sparse=True)
    longest = max(volume.shape)
    shell = np.rint(np.sqrt(sum(axis**2 for axis in axes)) * longest).astype(int)
    total, count = np.bincount(shell.ravel(), power.ravel()), np.bincount(shell.ravel())
    n = longest // 2 + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.arange(1, n) / longest, (total / count)[1:n]


def spectral_distance(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Mean |log₁₀ of the ratio of two volumes' spectra| in every band: 1 is a factor of ten."""
    frequency, ours = spectrum(one)
    _, theirs = spectrum(other)
    floor = np.finfo(np.float32).tiny
    ratio = abs(np.log10(np.maximum(ours, floor) / np.maximum(theirs, floor)))
    return {name: float(ratio[(frequency > low) & (frequency <= high)].mean()) for name, (low, high) in BANDS.items()}


def intensity_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Wasserstein distance of the voxels' values: how far, on average, they would have to be moved; white is 1."""
    return float(stats.wasserstein_distance(one.ravel(), other.ravel()))


def distances(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    return {"intensity": intensity_distance(one, other), **spectral_distance(one, other)}


def compared(heads: dict[str, np.ndarray], samples: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """Distances of samples to the first head and to the nearest of all, of heads to each other, and the curves."""
    names = list(heads)
    pairs = [
        {"heads": list(pair), **distances(heads[pair[0]], heads[pair[1]])} for pair in itertools.combinations(names, 2)
    ]
    found: dict[str, Any] = {"heads": pairs, "samplers": {}}
    for sampler, volumes in samples.items():
        each = [{name: distances(volume, head) for name, head in heads.items()} for volume in volumes]
        found["samplers"][sampler] = {
            "distances": {
                name: {key: statistics.mean(one[name][key] for one in each) for key in ("intensity", *BANDS)}
                for name in names
            },
            "each": each,
        }
    edges = np.linspace(-0.2, 1.4, _N_BINS + 1)
    every = {**{name: [head] for name, head in heads.items()}, **samples}
    found["histogram"] = {
        "edges": edges.tolist(),
        "share": {
            name: np.mean([np.histogram(v, edges)[0] / v.size for v in volumes], 0).tolist()
            for name, volumes in every.items()
        },
    }
    found["spectrum"] = {
        "cycles per voxel": spectrum(next(iter(heads.values())))[0].tolist(),
        "power": {name: np.mean([spectrum(v)[1] for v in volumes], 0).tolist() for name, volumes in every.items()},
    }
    return found


if __name__ == "__main__":
    sys.exit(main())
