"""What every row of the latency benchmark computes: the same slices, measurement and steps of the sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.lib.rows import load
from engine.operators import MaskedFourier
from engine.parallel.stack import Stack
from engine.problems.masks import poisson_disc
from engine.sampling.denoiser import Denoiser
from engine.sampling.dps import Dps
from engine.sampling.noise import CounterNoise
from engine.sampling.posterior_mean import PosteriorMean, Prior
from engine.sampling.predictor_corrector import PredictorCorrector
from engine.sampling.sampler import State
from engine.sampling.schedule import Schedule, plan_of
from engine.volume import Plane

DENOISE, GUIDED, PRIMARY, AUXILIARY = "denoise", "guided step", "primary turn", "auxiliary turn"
#: What is timed: x̂₀; x̂₀ and the gradient of the k-space residual's norm; whole steps of the sampler, two evaluations of
#: a network each, with that gradient (primary turn) and without (auxiliary turn).
MEASURES = (DENOISE, GUIDED, PRIMARY, AUXILIARY)
#: Evaluations of the network in each: (without gradient, with).
EVALUATIONS = {DENOISE: (1, 0), GUIDED: (0, 1), PRIMARY: (0, 2), AUXILIARY: (2, 0)}
GROUP, SNR = 6, 0.16
#: λ; its value does not matter to the time.
WEIGHT = 1.0
_ACCELERATION = 4.0
#: The second plane has the same slices with rows and columns exchanged: what re-ordering a volume costs is counted,
#: and the slices of both planes are as large, which those of a cube are.
_PLANES = Plane((2, 0, 1)), Plane((2, 1, 0))
_N_STEPS = 60


@dataclass(frozen=True)
class Workload:
    """Sizes and device; arrays are the same for the same sizes, in every process.

    Parameters
    ----------
    n_slices, size : int
        A stack of float32 (n_slices, size, size).
    sigma_min, sigma_max : float
        The network's trained range.
    device : "cpu" or "cuda"
    threads : int
        For everything that runs on processor cores.
    """

    n_slices: int
    size: int
    sigma_min: float
    sigma_max: float
    device: str
    threads: int

    @property
    def sigma(self) -> float:
        """Noise level of the slices: the one of the sampler's step in the middle of a run."""
        return float(self.schedule.sigmas[self.step])

    @property
    def step(self) -> int:
        """A turn of the primary's; the next one is the auxiliary's."""
        return _N_STEPS // 2 - _N_STEPS // 2 % 2

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.sigma_min, self.sigma_max, _N_STEPS)

    @property
    def groups(self) -> list[slice]:
        """Slices over which norms are taken."""
        return self.stack(self.x).groups(GROUP)

    @cached_property
    def _clean(self) -> np.ndarray:
        at = (np.arange(self.size) + 0.5) / self.size
        wave = np.sin(np.pi * at) ** 2
        scales = np.linspace(0.5, 1.0, self.n_slices)
        return (scales[:, None, None] * wave[:, None] * wave).astype(np.float32)

    @cached_property
    def x(self) -> np.ndarray:
        """float32 (n_slices, size, size): the noisy slices."""
        noise = np.random.default_rng(0).standard_normal(self._clean.shape, dtype=np.float32)
        return self._clean + np.float32(self.sigma) * noise

    @cached_property
    def mask(self) -> np.ndarray:
        """float32 (size, size)."""
        return poisson_disc((self.size, self.size), _ACCELERATION, 0)

    @cached_property
    def measurement(self) -> np.ndarray:
        """complex64 (n_slices, size, size): centred k-space of the clean slices."""
        return MaskedFourier(self.mask).apply(self._clean)

    def stack(self, slices: Any) -> Stack:
        """The slices as all those of a volume in the primary plane."""
        n, size = self.n_slices, self.size
        return Stack(slices, _PLANES[0], (size, size, n))

    def array(self, host: np.ndarray) -> Any:
        """The array where the engine wants it: NumPy's, or CuPy's on the current stream."""
        return load("cupy").asarray(host) if self.device == "cuda" else host


def batches_of(groups: Sequence[slice], batch_size: int) -> list[list[slice]]:
    """As many whole groups in a pass as fit into a batch, at least one."""
    batches: list[list[slice]] = []
    for group in groups:
        if not batches or group.stop - batches[-1][0].start > batch_size:
            batches.append([])
        batches[-1].append(group)
    return batches


def engine_calls(denoiser: Denoiser, operator: MaskedFourier, workload: Workload) -> dict[str, Callable[[], Any]]:
    """What is timed of a denoiser, by the names in `MEASURES`; the guided step returns x̂₀ and the gradient."""
    x, sigma = workload.stack(workload.array(workload.x)), workload.sigma
    dps = Dps(operator, workload.array(workload.measurement), WEIGHT, group=GROUP)
    primary, auxiliary = _PLANES
    priors = (Prior(denoiser, primary), Prior(denoiser, auxiliary))
    posterior_mean = PosteriorMean(priors, plan_of(2, 2, _N_STEPS, 0), (0.5, 0.5), dps)
    sampler = PredictorCorrector(posterior_mean, workload.schedule, CounterNoise(0), group=GROUP, snr=SNR)
    # A step finds its volume in the slices of the other plane, and leaves it there for the next.
    turned = x.to(auxiliary)

    def guided() -> tuple[Any, Any]:
        x0, pullback, weights, _ = dps(denoiser, x, sigma)
        return x0, weights[:, None, None] * pullback

    return {
        DENOISE: lambda: denoiser.denoise(x.data, sigma),
        GUIDED: guided,
        PRIMARY: lambda: sampler.step(State(turned, workload.step)),
        AUXILIARY: lambda: sampler.step(State(x, workload.step + 1)),
    }
