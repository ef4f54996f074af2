"""One rank of `benchmarks/scaling.py`: times sampling steps on some of the ranks, the others waiting."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import kernels
from benchmarks.lib.scaling_model import Case
from engine import demo
from engine.backends.bundle import Bundle
from engine.backends.native import NativeDenoiser
from engine.backends.padding import PaddedDenoiser
from engine.parallel.communicator import MpiCommunicator
from engine.parallel.slabs import SlabDecomposition
from engine.problems.tasks import Measurement, simulate
from engine.sampling.denoiser import Denoiser
from engine.sampling.posterior_mean import Prior
from engine.sampling.proximal import ProximalConsistency
from engine.sampling.reconstruction import Settings, reconstruct
from engine.volume import Plane

NETWORK, CONSISTENCY, EXCHANGE, REDUCTION, WAITING = "network", "consistency", "exchange", "reduction", "waiting"


class Parts:
    """Seconds of this rank by what it did, and how often."""

    def __init__(self, wait_for_all: Callable[[], None]):
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._wait_for_all = wait_for_all
        self._inside = False

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added to `part`; where it talks to others, the time until all are there is not its."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside = True
            started = time.perf_counter()
            try:
                if part in (EXCHANGE, REDUCTION):
                    self._wait_for_all()
                    self.seconds[WAITING] += time.perf_counter() - started
                    started = time.perf_counter()
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - started
                self.calls[part] += 1
                self._inside = False

        return call

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time everything that is called meanwhile."""
        with (
            mock.patch.multiple(
                Denoiser,
                denoise=self.timed(NETWORK, Denoiser.denoise),
                guided=self.timed(NETWORK, Denoiser.guided),
            ),
            mock.patch.object(ProximalConsistency, "__call__", self.timed(CONSISTENCY, ProximalConsistency.__call__)),
            mock.patch.multiple(
                SlabDecomposition,
                scatter=self.timed(EXCHANGE, SlabDecomposition.scatter),
                gather=self.timed(EXCHANGE, SlabDecomposition.gather),
                between=self.timed(EXCHANGE, SlabDecomposition.between),
                all_gather=self.timed(REDUCTION, SlabDecomposition.all_gather),
            ),
        ):
            yield


def head(shape: tuple[int, ...]) -> np.ndarray:
    """The demonstration's head, cut or surrounded by zeros."""
    data = demo.volume().data
    before = [max(0, (n - m) // 2) for n, m in zip(shape, data.shape, strict=True)]
    after = [max(0, n - m - b) for n, m, b in zip(shape, data.shape, before, strict=True)]
    data = np.pad(data, list(zip(before, after, strict=True)))
    starts = [(m - n) // 2 for n, m in zip(shape, data.shape, strict=True)]
    return np.ascontiguousarray(data[tuple(slice(s, s + n) for s, n in zip(starts, shape, strict=True))])


def measured(case: Case, comm: MpiCommunicator, priors: tuple[Prior, ...], repeats: int) -> dict[str, Any]:
    """Seconds of a step on this team, and its parts, from separate runs: watching them takes time."""
    shape = case.shape
    ours = tuple(reversed(priors)) if case.task == "mrzsr" else priors
    problem = simulate(case.task, head(shape), ours[0].plane, Measurement(noise=0.01))
    decomposition = SlabDecomposition(comm, shape, [prior.plane for prior in ours])
    settings = Settings(n_steps=case.n_steps)
    moments: list[float] = []

    def run() -> list[float]:
        moments.clear()
        reconstruct(
            problem,
            ours,
            settings,
            decomposition=decomposition,
            callback=lambda *_: moments.append(time.perf_counter()),
        )
        return np.diff(moments).tolist()

    run()
    # The first step is left out, so that both priors have as many.
    seconds = [sum(run()) / (case.n_steps - 1) for _ in range(repeats)]
    parts = Parts(lambda: comm.largest(0.0))
    with parts.watching():
        for _ in range(repeats):
            run()
    n_watched = repeats * case.n_steps
    slowest = {name: comm.largest(value) for name, value in sorted(of_every(parts).items())}
    return {
        "step_s": seconds,
        "parts_s": {name: value / n_watched for name, value in slowest.items()},
        "calls_per_step": {name: parts.calls[name] / n_watched for name in sorted(parts.calls)},
    }


def of_every(parts: Parts) -> dict[str, float]:
    return {name: parts.seconds[name] for name in (NETWORK, CONSISTENCY, EXCHANGE, REDUCTION, WAITING)}


def main(words: list[str]) -> None:
    from mpi4py import MPI

    kernels.set_threads(1)
    out, repeats = Path(words[0]), int(words[1])
    cases = [Case(**{**case, "shape": tuple(case["shape"])}) for case in json.loads(words[2])]
    everybody = MpiCommunicator(MPI.COMM_WORLD)
    teams = {}
    for size in sorted({case.n_ranks for case in cases}):
        comm = MPI.COMM_WORLD.Split(0 if everybody.rank < size else MPI.UNDEFINED)
        teams[size] = None if comm == MPI.COMM_NULL else MpiCommunicator(comm)
    bundles = [Bundle.open(demo.bundle_folder(plane)) for plane in demo.PLANES]
    priors = tuple(
        Prior(PaddedDenoiser(NativeDenoiser(bundle, n_threads=1), bundle.divisor), Plane.parse(plane))
        for bundle, plane in zip(bundles, demo.PLANES, strict=True)
    )
    found = []
    # Cases in turn, several times: what slows the machine for a while slows all of them.
    for _ in range(3):
        for i, case in enumerate(cases):
            comm = teams[case.n_ranks]
            if comm is not None:
                result = measured(case, comm, priors, repeats)
                if everybody.is_root:
                    found.append({"case": i, **result})
            # Those who wait sleep.
            everybody.largest(0.0)
    if everybody.is_root:
        out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
