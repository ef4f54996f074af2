"""What a guided step spends outside the networks: ``python benchmarks/step.py``.

Whole sampler steps on the demonstration's volume with its priors and default settings, on the primary's turn. Every
figure is core time over the number of cores, so that a row's parts add up to the time of its step: the networks and the
operators run in worker threads and count by the time that each thread is inside them, everything else holds all cores
for as long as it lasts. What is left over, cores that wait for the last slice and the interpreter, is the last part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

# The script is run by its path: the packages that it measures lie one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import kernels
from benchmarks.measure import alternate, machine, spread
from engine import demo
from engine.cli import HelpFormatter
from engine.parallel.decomposition import Undivided
from engine.problems.tasks import Measurement, Task, simulate
from engine.sampling.denoiser import CotangentOf, Denoiser
from engine.sampling.noise import CounterNoise, Phase
from engine.sampling.posterior_mean import Prior
from engine.sampling.reconstruction import Settings, sampler_of
from engine.sampling.sampler import State
from engine.versions import versions
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
        self.inner, self.watch = inner, watch

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
        mock.patch.multiple(
            Undivided,
            slices_of=watch.timed(ORDER, Undivided.slices_of),
            volume_of=watch.timed(ORDER, Undivided.volume_of),
            between=watch.timed(ORDER, Undivided.between),
        ),
    ):
        yield


class Row:
    """Steps of one task, and the parts of every one of them.

    Calling it does one step from the same state each time: a step is pure, so all of them do the same work.
    """

    def __init__(self, task: Task, priors: tuple[Prior, Prior], volume: np.ndarray, step: int, watch: Stopwatch):
        plane, settings = priors[0].plane, Settings(sampler="pc", guidance="dps", n_steps=60)
        noise = CounterNoise(settings.seed)
        self.sampler = sampler_of(task, priors, settings, noise)
        if not self.sampler.posterior_mean.is_guided(step):
            raise ValueError(f"step: expected a turn of the primary's, got {step}; choose an even one")
        normal = plane.volume_of(noise.draw(0, Phase.START, plane, volume.shape))
        self.state = State(volume + np.float32(self.sampler.sigmas[step]) * normal, step)
        self.watch, self.details = watch, task.details
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
    task = simulate(task_name, volume, volume.shape, priors[0].plane, how)
    return Row(task, priors, volume, step, watch)


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
    parser = argparse.ArgumentParser(
        prog="python benchmarks/step.py",
        description="What a guided step spends outside the networks.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="which of the tasks")
    parser.add_argument("--repeats", type=int, default=20, help="timed steps of every row")
    parser.add_argument("--step", type=int, default=30, help="which step of the run is repeated: an even one")
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).parent / "results", help="folder for the JSON file"
    )
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
    report = {
        "command": "python benchmarks/step.py " + " ".join(argv if argv is not None else sys.argv[1:]),
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "shape": list(volume.shape),
        "threads": cores,
        "batch_size": axial.denoiser.inner.batch_size,
        "step": args.step,
        "rows": found,
    }
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / f"step-{machine()['cores']}cores-{date.today().isoformat()}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(table(found))
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
