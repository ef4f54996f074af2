"""Second-order steps between noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import kernels
from engine.sampling.noise import Noise, Phase
from engine.sampling.posterior_mean import Estimate, PosteriorMean
from engine.sampling.sampler import State, groups_of
from engine.sampling.schedule import Levels


@dataclass(frozen=True)
class Heun:
    """Heun's step along the probability flow: the mean of the slopes (x − x̂₀)/σ at both ends.

    The slope at the end belongs to the next level, so that it comes from the prior whose turn that is: where two priors
    alternate, each step sees both. Of the noise at the end, the part η is new, and the flow is followed down to the
    rest.

    Parameters
    ----------
    posterior_mean : PosteriorMean
    levels : Levels
    noise : Noise
    eta : float
        η, in [0, 1]: 0 is deterministic; 1 leaves nothing to follow, and is `Ddim` of η = 1.
    noise_scale : float
        τ, in [0, 1], see there.
    group : int
        Slices over which DPS takes norms.

    Source: Karras et al., Elucidating the design space of diffusion-based generative models, NeurIPS 2022.
    """

    posterior_mean: PosteriorMean
    levels: Levels
    noise: Noise
    eta: float = 0.0
    noise_scale: float = 1.0
    group: int = 6

    @property
    def sigmas(self) -> np.ndarray:
        return self.levels.sigmas

    @property
    def n_estimates(self) -> int:
        return sum(2 if self._has_second(i) else 1 for i in range(self.levels.n_steps))

    def _has_second(self, step: int) -> bool:
        """Whether there is a slope at the end of a step: at zero there is none, and below the last level no network."""
        return self._down(step) >= float(self.levels.sigmas[-1])

    def _down(self, step: int) -> float:
        """The level that a step follows the flow to; new noise does the rest of the next level."""
        return self.levels.after(step) * (1 - self.eta**2) ** 0.5

    def step(self, state: State) -> State:
        """Return the state after one noise level; `state` stays as it is."""
        i, decomposition = state.step, self.posterior_mean.decomposition
        shape = decomposition.whole_shape(state.x)
        sigma, after = float(self.levels.sigmas[i]), self.levels.after(i)
        down, new = self._down(i), after * self.eta * self.noise_scale
        plane = self.posterior_mean.plane_at(i)
        x = decomposition.slices_of(state.x, plane)
        found = self._estimate(x, sigma, i, shape)
        if found.plane != plane:
            plane = found.plane
            x = decomposition.slices_of(state.x, plane)
        is_second = self._has_second(i)
        z = self.noise.source(i, Phase.PREDICTOR, plane, shape, decomposition.entries(plane)) if new > 0 else None
        first = kernels.sampler_update(
            x, found.x0, None if is_second else z, 1 - down / sigma, new, found.pullback, found.weights
        )
        residual = state.residual if found.residual is None else found.residual
        if not is_second:
            return State(decomposition.volume_of(first, plane), i + 1, residual)

        then = self.posterior_mean.plane_at(i + 1)
        end = decomposition.between(first, plane, then)
        other = self._estimate(end, down, i + 1, shape)
        if other.plane != then:
            then = other.plane
            end = decomposition.between(first, plane, then)
        # x + (σ' − σ)/2 · slope, then the same with the other slope, whose pull is added to the first one's.
        half = (down - sigma) / 2
        x = kernels.sampler_update(x, found.x0, None, -half / sigma, None, found.pullback, _half(found.weights))
        x = decomposition.between(x, plane, then)
        slope = (end - other.x0) * np.float32(half / down)
        x += slope
        if other.pullback is not None:
            x -= _half(other.weights)[:, None, None] * other.pullback
        if new > 0:
            noise = self.noise.source(i, Phase.PREDICTOR, then, shape, decomposition.entries(then))
            x = kernels.sampler_update(x, x, noise, 0.0, new)
        residual = residual if other.residual is None else other.residual
        return State(decomposition.volume_of(x, then), i + 1, residual)

    def _estimate(self, x: Any, sigma: float, step: int, shape: tuple[int, int, int]) -> Estimate:
        n_slices = self.posterior_mean.plane_at(step).shape_of(shape)[0]
        return self.posterior_mean(x, sigma, step, groups_of(n_slices, self.group))


def _half(weights: Any) -> Any:
    return None if weights is None else np.float32(0.5) * weights
