"""First-order steps between noise levels, any part of whose noise may be new."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from engine.parallel.stack import Stack
from engine.sampling.noise import Noise, Phase
from engine.sampling.posterior_mean import PosteriorMean
from engine.sampling.sampler import State, update
from engine.sampling.schedule import Levels


@dataclass(frozen=True)
class Ddim:
    """x ← x̂₀ + σ' (√(1 − η²) (x − x̂₀)/σ + η τ z), from noise level σ to σ'.

    η = 0 is DDIM, or Euler's step along the probability flow. η = 1 makes all noise anew, so that no error of x
    outlives a step unless x̂₀ repeats it: with x̂₀ moved to the measurement it is the plug-and-play iteration, whose
    result lies between a sample and the mean of the posterior.

    τ < 1 adds less noise than the network is told. What is told then covers the error of x̂₀ as well, which a network
    that is told the noise alone would keep as if it were image; results move from samples towards the posterior's mean.

    Parameters
    ----------
    posterior_mean : PosteriorMean
    levels : Levels
    noise : Noise
    eta : float
        η, in [0, 1].
    noise_scale : float
        τ, in [0, 1].

    Source: Song et al., Denoising diffusion implicit models, ICLR 2021, for variance-exploding levels; Zhu et al.,
    Denoising diffusion models for plug-and-play image restoration, CVPRW 2023, for η of all noise instead of the
    ancestral part.
    """

    posterior_mean: PosteriorMean
    levels: Levels
    noise: Noise
    eta: float = 1.0
    noise_scale: float = 1.0

    @property
    def sigmas(self) -> np.ndarray:
        return self.levels.sigmas

    @property
    def n_estimates(self) -> int:
        return self.levels.n_steps

    def init(self, x: Stack) -> State:
        return State(x)

    def step(self, state: State) -> State:
        """Return the state after one noise level; `state` stays as it is."""
        i, tau = state.step, self.noise_scale
        sigma, after = self.levels[i], self.levels[i + 1]
        x = state.x.to(self.posterior_mean.plane_at(i))
        x0, pull = self.posterior_mean(x, sigma, i, image_phase=state.image_phase)
        x = x.to(x0.plane)
        kept, new = after * sqrt(1 - self.eta**2) / sigma, after * self.eta * tau
        z = self.noise.like(x, i, Phase.PREDICTOR) if new > 0 else None
        return state.next(update(x, x0, z, 1 - kept, new, pull), pull.residual, image_phase=pull.image_phase)
