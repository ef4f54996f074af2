"""What a guided step spends outside the networks: ``python benchmarks/step.py``.

Whole sampler steps on the demonstration's volume with its priors and default settings, on the primary's turn. Every
figure is core time over the number of cores, so that a row's parts add up to the time of its step: the networks and the
operators run in worker threads and count by the time that each thread is inside them, everything else holds all cores
for as long as it lasts. What is left over, cores that wait for the last slice and the interpreter, is the last part.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

import kernels
from benchmarks.lib.command import parser_of, report_of, write
from benchmarks.lib.machine import slug
from benchmarks.lib.measure import alternate, spread
from engine import demo
from engine.parallel.decomposition import Undivided
from engine.parallel.stack import Stack
from engine.problems import Measurement, simulate
from engine.sampling.denoiser import CotangentOf, Denoiser
from engine.sampling.noise import CounterNoise, Phase
from engine.sampling.posterior_mean import Prior
from engine.sampling.problem import InverseProblem
from engine.sampling.reconstruction import compose, trained_range
from engine.sampling.sampler import State
from engine.sampling.settings import Settings
from kernels import available_cores
from kernels.network import Workspace

#: Rows of the table: task and measurement. By default svct has 9 views at this size; 36 is the published number.
ROWS = {
    "csmri": ("csmri", Measurement()),
    "mrzsr": ("mrzsr", Measurement()),
    "svct": ("svct", Measurement()),
    "svct, 36 views": ("svct", Measurement(views=36)),
}
NETWORK, OPERATOR, ARITHMETIC, NOISE, ORDER = "network", "operator", "arithmetic", "noise", "re-ordering"
PARTS = (NETWORK, OPERATOR, ARITHMETIC, NOISE, ORDER)
_WARMUP = 2


class Stopwatch:
    """Adds up the seconds that threads spend in named parts."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._guard = threading.Lock()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added to `part`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds = time.perf_counter() - started
                with self._guard:
                    self.seconds[part] += seconds

        return call

    def take(self) -> Counter[str]:
        """The seconds since the last call of this."""
        with self._guard:
            taken, self.seconds = self.seconds, Counter()
        return taken


class TimedDenoiser(Denoiser):
    """A denoiser whose cotangents are timed, thread by thread."""

    def __init__(self, inner: Denoiser, watch: Stopwatch):
        self.inner, self.watch, self.sigma_range = inner, watch, inner.sigma_range

    def _denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        return self.inner.denoise(x, sigma)

    def _vjp(self, x: np.ndarray, sigma: float, cotangent: CotangentOf) -> tuple[np.ndarray, np.ndarray]:
        return self.inner.vjp(x, sigma, self.watch.timed(OPERATOR, cotangent))


@contextmanager
def timed_parts(watch: Stopwatch) -> Iterator[None]:
    """Time the networks, in every thread, and what the sampler calls in its own, for as long as this lasts."""
    with (
        mock.patch.multiple(
            Workspace,
            denoise=watch.timed(NETWORK, Workspace.denoise),
            pullback=watch.timed(NETWORK, Workspace.pullback),
        ),
        mock.patch.multiple(
            kernels,
            score_norms=watch.timed(ARITHMETIC, kernels.score_norms),
            langevin_steps=watch.timed(ARITHMETIC, kernels.langevin_steps),
            sampler_update=watch.timed(ARITHMETIC, kernels.sampler_update),
            philox_slices=watch.timed(NOISE, kernels.philox_slices),
        ),
        mock.patch.object(Undivided, "between", watch.timed(ORDER, Undivided.between)),
    ):
        yield


class Row:
    """Steps of one task, and the parts of every one of them.

    Calling it does one step from the same state each time: a step is pure, so all of them do the same work.
    """

    def __init__(
        self, problem: InverseProblem, priors: tuple[Prior, Prior], volume: np.ndarray, step: int, watch: Stopwatch
    ):
        plane, noise = priors[0].plane, CounterNoise(0)
        settings = Settings(sampler="pc", guidance="dps", n_steps=60).resolved(problem, trained_range(priors))
        self.sampler = compose(problem, priors, settings, noise)
        if settings.plan(2)[step] != 0:
            raise ValueError(f"step: expected a turn of the primary's, got {step}; choose an even one")
        x = Stack.scattered(volume, plane)
        normal = noise.draw(0, Phase.START, plane, volume.shape)
        # In the slices of the other plane, in which the step before left it.
        self.state = State(x.of(x.data + np.float32(self.sampler.sigmas[step]) * normal).to(priors[1].plane), step)
        self.watch, self.details = watch, problem.details
        self.parts: list[Counter[str]] = []
        draw = {"draw": lambda: noise.draw(step, Phase.CORRECTOR, plane, volume.shape)}
        self.noise_seconds = statistics.median(alternate(draw, 20)["draw"])

    def __call__(self) -> State:
        self.watch.take()
        state = self.sampler.step(self.state)
        seconds = self.watch.take()
        # The corrector's noise is made inside the norms and inside the update, once each.
        within = min(2 * self.noise_seconds, seconds[ARITHMETIC])
        seconds[ARITHMETIC] -= within
        seconds[NOISE] += within
        self.parts.append(seconds)
        return state


def row_of(name: str, volume: np.ndarray, priors: tuple[Prior, Prior], step: int, watch: Stopwatch) -> Row:
    """One of `ROWS` on a volume, measured in the axial plane or, with thick axial slices, in the coronal one."""
    task_name, how = ROWS[name]
    if priors[0].plane.slice_axis == how.thick_axis and task_name == "mrzsr":
        priors = priors[1], priors[0]
    return Row(simulate(task_name, volume, priors[0].plane, how), priors, volume, step, watch)


def shares(seconds: list[float], parts: list[Counter[str]], cores: int) -> dict[str, Any]:
    """Seconds of a step and of its parts, medians over the calls, and the share that is not the network's.

    Parameters
    ----------
    seconds : list of float
        Wall time of every step.
    parts : list of Counter
        What the threads spent where, one for each step.
    cores : int

    Returns
    -------
    dict
    """
    # Worker threads: each holds one core. The rest is done by one thread that the other cores wait for, or by kernels
    # that use all of them.
    threads = {NETWORK: cores, OPERATOR: cores, ARITHMETIC: 1, NOISE: 1, ORDER: 1}
    columns = {part: [p[part] / threads[part] for p in parts] for part in PARTS}
    columns["rest"] = [whole - sum(columns[p][i] for p in PARTS) for i, whole in enumerate(seconds)]
    own = [part for part in PARTS if part != NETWORK]
    return {
        "seconds": spread(seconds),
        "parts": {name: spread(values) for name, values in columns.items()},
        "share_outside_network": spread([sum(columns[p][i] for p in own) / t for i, t in enumerate(seconds)]),
        "share_rest": spread([columns["rest"][i] / t for i, t in enumerate(seconds)]),
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as text: medians in milliseconds, and the share outside the network in per cent."""
    names = ["step", *PARTS, "rest", "outside"]
    lines = [f"{'milliseconds a step':22}" + "".join(f"{name:>13}" for name in names)]
    for title, row in rows.items():
        cells = [row["seconds"], *row["parts"].values()]
        text = "".join(f"{1e3 * cell['median']:13.2f}" for cell in cells)
        lines.append(f"{title:22}{text}{100 * row['share_outside_network']['median']:11.2f} %")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("step", "What a guided step spends outside the networks.")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="which of the tasks")
    parser.add_argument("--repeats", type=int, default=20, help="timed steps of every row")
    parser.add_argument("--step", type=int, default=30, help="which step of the run is repeated: an even one")
    args = parser.parse_args(argv)
    volume, cores, watch = demo.volume().data, available_cores(), Stopwatch()
    axial, coronal = (Prior(TimedDenoiser(prior.denoiser, watch), prior.plane) for prior in demo.priors())
    rows = {name: row_of(name, volume, (axial, coronal), args.step, watch) for name in args.rows}
    with timed_parts(watch):
        seconds = alternate(rows, args.repeats, _WARMUP)
    found = {
        name: {"measurement": row.details, **shares(seconds[name], row.parts[_WARMUP:], cores)}
        for name, row in rows.items()
    }
    sizes = {"shape": list(volume.shape), "threads": cores, "batch_size": axial.denoiser.inner.batch_size}
    report = report_of("step", argv, **sizes, step=args.step, rows=found)
    print(table(found))
    write(report, args.results, f"step-{slug(report['machine'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
