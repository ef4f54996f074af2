"""Second-order steps between noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from engine.parallel.stack import Stack
from engine.sampling.noise import Noise, Phase
from engine.sampling.posterior_mean import PosteriorMean, Pull
from engine.sampling.sampler import State, update
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

    Source: Karras et al., Elucidating the design space of diffusion-based generative models, NeurIPS 2022.
    """

    posterior_mean: PosteriorMean
    levels: Levels
    noise: Noise
    eta: float = 0.0
    noise_scale: float = 1.0

    @property
    def sigmas(self) -> np.ndarray:
        return self.levels.sigmas

    @property
    def n_estimates(self) -> int:
        return sum(2 if self._has_second(i) else 1 for i in range(self.levels.n_steps))

    def init(self, x: Stack) -> State:
        return State(x)

    def _has_second(self, i: int) -> bool:
        """Whether there is a slope at the end of a step: at zero there is none, and below the last level no network."""
        return self._down(i) >= float(self.levels.sigmas[-1])

    def _down(self, i: int) -> float:
        """The level down to which a step follows the flow; new noise does the rest of the next level."""
        return self.levels[i + 1] * sqrt(1 - self.eta**2)

    def step(self, state: State) -> State:
        """Return the state after one noise level; `state` stays as it is."""
        i, sigma = state.step, self.levels[state.step]
        down, new = self._down(i), self.levels[i + 1] * self.eta * self.noise_scale
        x = state.x.to(self.posterior_mean.plane_at(i))
        x0, pull = self.posterior_mean(x, sigma, i, image_phase=state.image_phase)
        x = x.to(x0.plane)
        if not self._has_second(i):
            z = self.noise.like(x, i, Phase.PREDICTOR) if new > 0 else None
            x = update(x, x0, z, 1 - down / sigma, new, pull)
            return state.next(x, pull.residual, image_phase=pull.image_phase)

        end = update(x, x0, None, 1 - down / sigma, new, pull).to(self.posterior_mean.plane_at(i + 1))
        other, other_pull = self.posterior_mean(end, down, i + 1, image_phase=pull.image_phase)
        end = end.to(other.plane)
        # x + (σ' − σ)/2 · slope, then the same with the other slope, whose pull is added to the first one's.
        half = (down - sigma) / 2
        x = update(x, x0, None, -half / sigma, pull=_halved(pull)).to(other.plane)
        mean = x.data + (end.data - other.data) * np.float32(half / down)
        if other_pull.direction is not None:
            mean -= np.float32(0.5) * other_pull.weights[:, None, None] * other_pull.direction
        x = x.of(mean)
        if new > 0:
            x = update(x, x, self.noise.like(x, i, Phase.PREDICTOR), 0.0, new)
        residual = pull.residual if other_pull.residual is None else other_pull.residual
        return state.next(x, residual, image_phase=other_pull.image_phase)


def _halved(pull: Pull) -> Pull:
    return pull if pull.weights is None else Pull(pull.direction, np.float32(0.5) * pull.weights)
