"""First-order steps between noise levels, any part of whose noise may be new."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import kernels
from engine.sampling.noise import Noise, Phase
from engine.sampling.posterior_mean import PosteriorMean
from engine.sampling.sampler import State, groups_of
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
    group : int
        Slices over which DPS takes norms.

    Source: Song et al., Denoising diffusion implicit models, ICLR 2021, for variance-exploding levels; Zhu et al.,
    Denoising diffusion models for plug-and-play image restoration, CVPRW 2023, for η of all noise instead of the
    ancestral part.
    """

    posterior_mean: PosteriorMean
    levels: Levels
    noise: Noise
    eta: float = 1.0
    noise_scale: float = 1.0
    group: int = 6

    @property
    def sigmas(self) -> np.ndarray:
        return self.levels.sigmas

    @property
    def n_estimates(self) -> int:
        return self.levels.n_steps

    def step(self, state: State) -> State:
        """Return the state after one noise level; `state` stays as it is."""
        i = state.step
        sigma, after = float(self.levels.sigmas[i]), self.levels.after(i)
        decomposition, plane = self.posterior_mean.decomposition, self.posterior_mean.plane_at(i)
        shape = decomposition.whole_shape(state.x)
        x = decomposition.slices_of(state.x, plane)
        found = self.posterior_mean(x, sigma, i, groups_of(plane.shape_of(shape)[0], self.group))
        if found.plane != plane:
            plane = found.plane
            x = decomposition.slices_of(state.x, plane)
        kept, new = after * (1 - self.eta**2) ** 0.5 / sigma, after * self.eta * self.noise_scale
        z = self.noise.source(i, Phase.PREDICTOR, plane, shape, decomposition.entries(plane)) if new > 0 else None
        x = kernels.sampler_update(x, found.x0, z, 1 - kept, new, found.pullback, found.weights)
        return State(
            decomposition.volume_of(x, plane), i + 1, state.residual if found.residual is None else found.residual
        )
