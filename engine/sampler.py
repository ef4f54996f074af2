"""The predictor-corrector sampler with two perpendicular priors, as published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import kernels
from engine.denoiser import Denoiser
from engine.guidance import Dps
from engine.noise import Noise, Phase
from engine.operators import ThickSlices
from engine.schedule import Schedule
from engine.volume import Plane


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
    step : int
        The next step to do.
    residual : float or None
        ‖A x̂₀ − y‖₂ when the primary network last worked.
    """

    x: np.ndarray
    step: int
    residual: float | None = None


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
        i = state.step
        sigma = float(self.schedule.sigmas[i])
        guided = bool(self.primary_turns[i]) and self.guidance is not None
        prior = self.primary if self.primary_turns[i] else self.auxiliary
        plane, shape = prior.plane, state.x.shape
        x = plane.slices_of(state.x)
        groups = groups_of(len(x), self.group)

        # Corrector: x + ε s + √(2ε) z
        z = self.noise.draw(i, Phase.CORRECTOR, plane, shape)
        score, descent, _ = self._score(prior, x, sigma, groups, guided, i, Phase.CORRECTOR_MEASUREMENT)
        corrected = np.empty_like(x)
        for g in groups:
            epsilon = 2 * (self.snr * _mean_norm(z[g]) / _mean_norm(score[g])) ** 2
            kernels.fused_update(x[g], score[g], z[g], epsilon, np.sqrt(2 * epsilon), out=corrected[g])
        x = _descend(corrected, descent)

        # Predictor: x + G² s
        drop = float(self.schedule.variance_drops[i])
        score, descent, residual = self._score(prior, x, sigma, groups, guided, i, Phase.PREDICTOR_MEASUREMENT)
        z_predictor = self.noise.draw(i, Phase.PREDICTOR, plane, shape) if self.predictor_noise else None
        x = kernels.fused_update(x, score, z_predictor, drop, np.sqrt(drop))
        x = _descend(x, descent)
        return State(plane.volume_of(x), i + 1, state.residual if residual is None else residual)

    def _score(
        self, prior: Prior, x: np.ndarray, sigma: float, groups: list[slice], guided: bool, i: int, phase: Phase
    ) -> tuple[np.ndarray, np.ndarray | None, float | None]:
        """Score s = (x̂₀ − x)/σ² at x and, where guided, the step of data consistency and the residual."""
        descent = residual = None
        if guided and self.guidance is not None:
            e = None
            if self.renoise is not None:
                z = self.noise.draw(i, phase, prior.plane, prior.plane.volume_of(x).shape)
                e = np.float32(sigma) * self.renoise.first_of_block(z)
            x0, pullback, weights, norm = self.guidance(prior.denoiser, x, sigma, groups, e)
            descent, residual = weights[:, None, None] * pullback, float(norm)
        else:
            x0 = prior.denoiser.denoise(x, sigma)
        return (x0 - x) / np.float32(sigma**2), descent, residual


def _descend(x: np.ndarray, step: np.ndarray | None) -> np.ndarray:
    return x if step is None else kernels.fused_update(x, step, None, -1.0, 0.0, out=x)


def _mean_norm(x: np.ndarray) -> float:
    """Mean over slices of the Euclidean norm of each, in float64."""
    return float(np.sqrt(np.einsum("nij,nij->n", x, x, dtype=np.float64)).mean())
