"""The predictor-corrector sampler, as published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import kernels
from engine.parallel.stack import Stack
from engine.sampling.noise import Noise, Phase
from engine.sampling.posterior_mean import PosteriorMean, Pull
from engine.sampling.sampler import State, update
from engine.sampling.schedule import Schedule


@dataclass(frozen=True)
class PredictorCorrector:
    """One Langevin correction and one reverse-diffusion step at every noise level.

    With DPS both also descend the data residual on the primary network's turns. The reference semantics are kept to the
    letter: step sizes from norms over groups of slices, noise only in the corrector.

    Parameters
    ----------
    posterior_mean : PosteriorMean
    schedule : Schedule
    noise : Noise
    group : int
        Slices over which norms are taken; part of the method, not of the machine.
    snr : float
        Ratio that sets the corrector's step.
    predictor_noise : bool
        Add the reverse diffusion's noise; the published sampler leaves it out.

    Source: Lee et al., Improving 3D imaging with pre-trained perpendicular 2D diffusion models, ICCV 2023; the
    corrector from Song et al., ICLR 2021.
    """

    posterior_mean: PosteriorMean
    schedule: Schedule
    noise: Noise
    group: int = 6
    snr: float = 0.16
    predictor_noise: bool = False

    @property
    def sigmas(self) -> np.ndarray:
        return self.schedule.sigmas

    @property
    def n_estimates(self) -> int:
        return 2 * self.schedule.n_steps

    def init(self, x: Stack) -> State:
        return State(x)

    def step(self, state: State) -> State:
        """Return the state after one noise level; `state` stays as it is."""
        i = state.step
        x, pull = self.correct(state.x.to(self.posterior_mean.plane_at(i)), i, state.image_phase)
        x, pull = self.predict(x, i, pull.image_phase)
        return state.next(x, pull.residual, image_phase=pull.image_phase)

    def correct(self, x: Stack, i: int, image_phase: Stack | None = None) -> tuple[Stack, Pull]:
        """x + ε s + √(2ε) z, with the score s = (x̂₀ − x)/σ² and ε from its norm; also the measurement's part."""
        sigma, z = self.schedule[i], self.noise.like(x, i, Phase.CORRECTOR)
        x0, pull = self.posterior_mean(x, sigma, i, Phase.CORRECTOR, image_phase)
        x0 = x0.to(x.plane)
        norms = x.all_gather(kernels.score_norms(x.data, x0.data, z))
        a, b = kernels.langevin_steps(norms, x.groups(self.group), self.snr, sigma)
        # Not in place: x may still be the memory of the state that came in.
        return update(x, x0, z, x.own(a), x.own(b), pull), pull

    def predict(self, x: Stack, i: int, image_phase: Stack | None = None) -> tuple[Stack, Pull]:
        """x + G² s, in place, where asked for with the reverse diffusion's noise G z; also the measurement's part."""
        sigma, drop = self.schedule[i], float(self.schedule.variance_drops[i])
        z = self.noise.like(x, i, Phase.PREDICTOR) if self.predictor_noise else None
        x0, pull = self.posterior_mean(x, sigma, i, Phase.PREDICTOR, image_phase)
        return update(x, x0.to(x.plane), z, drop / sigma**2, drop**0.5, pull, out=x), pull
