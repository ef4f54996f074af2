"""Estimate the noise of measurements and reconstruct with what was found: ``python benchmarks/noise_levels.py``.

Every problem of the demonstration's head with every level of noise: the estimate of `engine.problems.noise_level`, and
the fast preset's reconstruction with the true level, with the estimate, and with none.
"""

from __future__ import annotations

import sys
from typing import Any

import kernels
from benchmarks.lib.cells import psnr_figures
from benchmarks.lib.command import parser_of, report_of, write
from benchmarks.lib.table import aligned
from engine import demo
from engine.backends.bundle import Bundle
from engine.backends.native import NativeDenoiser
from engine.cli import exit_code
from engine.errors import InputError
from engine.problems import Measurement, simulate
from engine.problems.noise_level import with_noise_level
from engine.report.metrics import per_plane
from engine.sampling import InverseProblem, Settings, reconstruct
from engine.sampling.posterior_mean import Prior
from engine.volume import NAMED_PLANES, Plane

#: Task, settings of its measurement, and what the tables call it.
MEASUREMENTS: list[tuple[str, dict[str, float | int], str]] = [
    *(("csmri", {"acceleration": a}, f"CS-MRI ×{a:g}") for a in (4.0, 8.0)),
    *(("svct", {"views": v}, f"SV-CT, {v} views") for v in (9, 20, 36)),
    *(("mrzsr", {"factor": f}, f"MR-ZSR ×{f}") for f in (2, 3, 4, 5)),
]
#: The hard problem of every task is reconstructed.
RECONSTRUCTED = ("CS-MRI ×8", "SV-CT, 9 views", "MR-ZSR ×4")
#: Part of the root mean square of the samples.
NOISE = (0.0, 0.01, 0.02, 0.05, 0.1)
RECONSTRUCTED_NOISE = (0.0, 0.02, 0.1)


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("noise_levels", __doc__.split(":")[0])
    parser.add_argument("--noise", type=float, nargs="+", default=NOISE, help="levels to estimate")
    parser.add_argument(
        "--reconstructed-noise", type=float, nargs="*", default=RECONSTRUCTED_NOISE, help="levels to reconstruct with"
    )
    parser.add_argument("--steps", type=int, default=Settings.n_steps, help="of the fast preset")
    parser.add_argument("--threads", type=int, default=kernels.available_cores(), help="for networks and operators")
    args = parser.parse_args(argv)

    def body() -> int:
        if args.threads < 1:
            raise InputError("threads", "at least 1", args.threads, "ask for more")
        kernels.set_threads(args.threads)
        head = demo.volume().data
        estimates = [estimate(head, *which, noise) for which in MEASUREMENTS for noise in args.noise]
        print(estimate_table(estimates), flush=True)
        runs = [
            reconstructed(head, *which, noise, Settings(n_steps=args.steps), args.threads)
            for which in MEASUREMENTS
            if which[2] in RECONSTRUCTED
            for noise in args.reconstructed_noise
        ]
        print(f"\n{reconstruction_table(runs)}")
        write(report_of("noise_levels", argv, estimates=estimates, reconstructions=runs), args.results, "noise-levels")
        return 0

    return exit_code("noise_levels", body)


def measured(head: Any, name: str, how: dict[str, Any], noise: float) -> InverseProblem:
    """The problem, in the plane in which the demonstration measures it."""
    plane = Plane(NAMED_PLANES["coronal" if name == "mrzsr" else "axial"])
    return simulate(name, head, plane, Measurement(noise=noise, **how))


def estimate(head: Any, name: str, how: dict[str, Any], title: str, noise: float) -> dict[str, Any]:
    """The true and the estimated level, both as parts of the root mean square of the samples."""
    problem = measured(head, name, how, noise)
    found = with_noise_level(problem, "estimate").noise_level
    return {"problem": title, "noise": noise, "estimate": found / problem.sample_rms}


def reconstructed(
    head: Any, name: str, how: dict[str, Any], title: str, noise: float, settings: Settings, n_threads: int
) -> dict[str, Any]:
    """PSNR in dB of the worst plane, and of the volume, by the level that was expected."""
    problem = measured(head, name, how, noise)
    planes = ("coronal", "axial") if name == "mrzsr" else ("axial", "coronal")
    priors = [
        Prior(NativeDenoiser(Bundle.open(demo.bundle_folder(p)), n_threads=n_threads), Plane(NAMED_PLANES[p]))
        for p in planes
    ]
    figures: dict[str, Any] = {}
    found = with_noise_level(problem, "estimate").noise_level / problem.sample_rms
    for level, value in (("known", noise), ("estimated", found), ("none", 0.0)):
        # What is asked for twice is run once.
        same = [other for other in figures.values() if other["level"] == value]
        if not same:
            volume = reconstruct(with_noise_level(problem, value), priors, settings).volume
            same = [{"level": value, **psnr_figures(per_plane(head, volume))}]
        figures[level] = same[0]
    return {"problem": title, "noise": noise, "levels": figures}


def estimate_table(estimates: list[dict[str, Any]]) -> str:
    """What was found, in per cent of the samples' root mean square: a row a problem, a column a level of noise."""
    levels = sorted({entry["noise"] for entry in estimates})
    rows = []
    for problem in dict.fromkeys(entry["problem"] for entry in estimates):
        cells = {entry["noise"]: entry["estimate"] for entry in estimates if entry["problem"] == problem}
        rows.append((problem, *(f"{100 * cells[noise]:.3g}" for noise in levels)))
    return aligned(("estimate, %", *(f"{100 * noise:.4g}" for noise in levels)), rows)


def reconstruction_table(runs: list[dict[str, Any]]) -> str:
    """PSNR of the worst plane by the level that was expected."""
    rows = []
    for run in runs:
        cells = [f"{run['levels'][name]['worst_plane_psnr_db']:.2f}" for name in ("known", "estimated", "none")]
        rows.append((run["problem"], f"{100 * run['noise']:.4g}", *cells))
    return aligned(("worst plane, dB", "noise, %", "known", "estimated", "none"), rows)


if __name__ == "__main__":
    sys.exit(main())
