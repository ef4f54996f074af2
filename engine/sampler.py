"""The predictor-corrector sampler with two perpendicular priors, as published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import kernels
from engine.denoiser import Denoiser
from engine.guidance import Dps
from engine.noise import Entries, Noise, Phase
from engine.operators import ThickSlices
from engine.schedule import Schedule
from engine.volume import Plane
from kernels.arrays import library_of


@dataclass(frozen=True)
class Prior:
    """A denoiser and the plane whose slices it knows."""

    denoiser: Denoiser
    plane: Plane


@dataclass(frozen=True)
class State:
    """What one step hands to the next.

    Parameters
    ----------
    x : float32 (d0, d1, d2)
        NumPy or CuPy; the next state's is of the same library.
    step : int
        The next step to do.
    residual : float64 () or None
        ‖A x̂₀ − y‖₂ when the primary network last worked, where `x` is: reading it as a number waits for a GPU.
    """

    x: np.ndarray
    step: int
    residual: np.ndarray | None = None


def groups_of(n: int, size: int) -> list[slice]:
    """Cut n slices into ⌈n/size⌉ consecutive groups of nearly equal length, longer ones first."""
    parts = np.array_split(np.arange(n), -(-n // size))
    return [slice(int(part[0]), int(part[-1]) + 1) for part in parts]


@dataclass(frozen=True)
class PredictorCorrector:
    """One Langevin correction and one reverse-diffusion step at every noise level.

    On the primary network's turns both also descend the data residual (DPS). The reference semantics are kept to the
    letter: step sizes from norms over groups of slices, noise only in the corrector.

    Parameters
    ----------
    primary, auxiliary : Prior
        The primary plane is the one that is measured.
    schedule : Schedule
    primary_turns : bool (n_steps,)
        From `engine.schedule.turns`.
    noise : Noise
    guidance : Dps or None
        None samples the prior alone.
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

    primary: Prior
    auxiliary: Prior
    schedule: Schedule
    primary_turns: np.ndarray
    noise: Noise
    guidance: Dps | None
    group: int = 6
    snr: float = 0.16
    renoise: ThickSlices | None = None
    predictor_noise: bool = False

    def step(self, state: State) -> State:
        """Return the state after one noise level; `state` stays as it is."""
        i, shape = state.step, state.x.shape
        sigma, drop = float(self.schedule.sigmas[i]), float(self.schedule.variance_drops[i])
        prior = self.primary if self.primary_turns[i] else self.auxiliary
        plane = prior.plane
        x = plane.slices_of(state.x)
        groups = groups_of(len(x), self.group)

        # Corrector: x + ε s + √(2ε) z, with the score s = (x̂₀ − x)/σ²
        z = self.noise.source(i, Phase.CORRECTOR, plane, shape)
        e = self._measurement_noise(i, Phase.CORRECTOR_MEASUREMENT, state.x)
        x0, pullback, weights, _ = self._denoise(prior, x, sigma, groups, i, e)
        a, b = kernels.langevin_steps(kernels.score_norms(x, x0, z), groups, self.snr, sigma)
        # Not in place: x may still be the memory of the state that came in.
        x = kernels.sampler_update(x, x0, z, a, b, pullback, weights)

        # Predictor: x + G² s
        z_predictor = self.noise.source(i, Phase.PREDICTOR, plane, shape) if self.predictor_noise else None
        e = self._measurement_noise(i, Phase.PREDICTOR_MEASUREMENT, state.x)
        x0, pullback, weights, residual = self._denoise(prior, x, sigma, groups, i, e)
        x = kernels.sampler_update(x, x0, z_predictor, drop / sigma**2, drop**0.5, pullback, weights, out=x)
        return State(plane.volume_of(x), i + 1, state.residual if residual is None else residual)

    def _denoise(
        self, prior: Prior, x: np.ndarray, sigma: float, groups: list[slice], i: int, e: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """x̂₀ at x and, on the primary's turns, the descent of data consistency and the residual: see `Dps`."""
        if self.guidance is None or not self.primary_turns[i]:
            return prior.denoiser.denoise(x, sigma), None, None, None
        return self.guidance(prior.denoiser, x, sigma, groups, e)

    def _measurement_noise(self, i: int, phase: Phase, volume: np.ndarray) -> np.ndarray | None:
        """The noise of the current level that the measurement is compared with, one draw a block of thick slices."""
        if self.renoise is None or self.guidance is None or not self.primary_turns[i]:
            return None
        entries = first_of_block(self.renoise)
        z = self.noise.draw(i, phase, self.primary.plane, volume.shape, entries, library_of(x=volume))
        level: np.ndarray = np.float32(self.schedule.sigmas[i]) * z
        return level


def first_of_block(thick: ThickSlices) -> Entries:
    """The entries of a stack that `ThickSlices.first_of_block` takes."""
    every = slice(0, thick.n_covered, thick.factor)
    return (slice(None), every, slice(None)) if thick.axis == 1 else (slice(None), slice(None), every)
