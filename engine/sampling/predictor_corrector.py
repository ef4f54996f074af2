"""The predictor-corrector sampler, as published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import kernels
from engine.operators import ThickSlices
from engine.sampling.noise import Entries, Noise, Phase
from engine.sampling.posterior_mean import PosteriorMean
from engine.sampling.sampler import State, groups_of
from engine.sampling.schedule import Schedule
from kernels.arrays import library_of


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
    renoise : ThickSlices or None
        Compare with a measurement that carries the noise of the current level, a fresh one each time.
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
    renoise: ThickSlices | None = None
    predictor_noise: bool = False

    @property
    def sigmas(self) -> np.ndarray:
        return self.schedule.sigmas

    @property
    def n_estimates(self) -> int:
        return 2 * self.schedule.n_steps

    def step(self, state: State) -> State:
        """Return the state after one noise level; `state` stays as it is."""
        i, decomposition = state.step, self.posterior_mean.decomposition
        shape = decomposition.whole_shape(state.x)
        sigma, drop = float(self.schedule.sigmas[i]), float(self.schedule.variance_drops[i])
        plane = self.posterior_mean.plane_at(i)
        own, entries = decomposition.own(plane), decomposition.entries(plane)
        x = decomposition.slices_of(state.x, plane)
        groups = groups_of(plane.shape_of(shape)[0], self.group)

        # Corrector: x + ε s + √(2ε) z, with the score s = (x̂₀ − x)/σ²
        z = self.noise.source(i, Phase.CORRECTOR, plane, shape, entries)
        e = self._measurement_noise(i, Phase.CORRECTOR_MEASUREMENT, state.x)
        found = self.posterior_mean(x, sigma, i, groups, e)
        x0 = decomposition.between(found.x0, found.plane, plane)
        norms = decomposition.all_of(kernels.score_norms(x, x0, z), plane)
        a, b = kernels.langevin_steps(norms, groups, self.snr, sigma)
        # Not in place: x may still be the memory of the state that came in.
        x = kernels.sampler_update(x, x0, z, a[own], b[own], found.pullback, found.weights)

        # Predictor: x + G² s
        z_predictor = self.noise.source(i, Phase.PREDICTOR, plane, shape, entries) if self.predictor_noise else None
        e = self._measurement_noise(i, Phase.PREDICTOR_MEASUREMENT, state.x)
        found = self.posterior_mean(x, sigma, i, groups, e)
        x0 = decomposition.between(found.x0, found.plane, plane)
        x = kernels.sampler_update(x, x0, z_predictor, drop / sigma**2, drop**0.5, found.pullback, found.weights, out=x)
        return State(
            decomposition.volume_of(x, plane), i + 1, state.residual if found.residual is None else found.residual
        )

    def _measurement_noise(self, i: int, phase: Phase, volume: np.ndarray) -> np.ndarray | None:
        """The noise of the current level that the measurement is compared with, one draw a block of thick slices."""
        if self.renoise is None or not self.posterior_mean.is_guided(i):
            return None
        decomposition, plane = self.posterior_mean.decomposition, self.posterior_mean.primary
        entries = decomposition.own(plane), *first_of_block(self.renoise)[1:]
        z = self.noise.draw(i, phase, plane, decomposition.whole_shape(volume), entries, library_of(x=volume))
        level: np.ndarray = np.float32(self.schedule.sigmas[i]) * z
        return level


def first_of_block(thick: ThickSlices) -> Entries:
    """The entries of a stack that `ThickSlices.first_of_block` takes."""
    every = slice(0, thick.n_covered, thick.factor)
    return (slice(None), every, slice(None)) if thick.axis == 1 else (slice(None), slice(None), every)
