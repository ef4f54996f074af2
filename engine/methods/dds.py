"""Decomposed diffusion sampling in three dimensions: one prior, and total variation across its slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

import kernels
from engine.methods.outcome import weight_of
from engine.methods.slice_run import first_level, run
from engine.methods.slice_tv import SliceTv
from engine.problems.tasks import Task
from engine.sampling.noise import Noise, Phase
from engine.sampling.posterior_mean import Prior
from engine.sampling.reconstruct import Callback, Checkpoint, Reconstruction, Settings
from engine.sampling.sampler import State
from engine.sampling.schedule import Levels

#: Weights by task, and ρ. Found on one head, Colin 27 at 3 mm, without noise, in 30 steps: of w in 1e-4, 3e-4 and 1e-3,
#: and ρ in 0.01, 0.03, 0.1 and 0.3, what came near the best for acceleration 8, 11 views and factor 4 (for thick slices
#: they hardly matter). The shipped priors were trained on that head, so that priors are trusted a little too much, and
#: the weights may be a little small. From σ 50, where the published method starts, 30 steps lost 7 dB and more.
WEIGHTS = {"csmri": 1e-4, "svct": 1e-4, "mrzsr": 3e-4}
_RHO, _N_CONJUGATE = 0.03, 5
#: As published.
_ETA = 0.85


@dataclass(frozen=True)
class Dds:
    """x ← x̂₀' + σ' (√(1 − η²β²) (x − x̂₀)/σ + ηβ z), x̂₀' being x̂₀ moved towards data and few jumps across slices.

    β² = 1 − σ'²/σ² is the part of the noise that an ancestral step makes anew.

    Parameters
    ----------
    prior : Prior
        Of the plane that is measured.
    consistency : SliceTv
    levels : Levels
    noise : Noise
    eta : float
        η, in [0, 1].

    Source: Chung et al., Decomposed diffusion sampler for accelerating large-scale inverse problems, ICLR 2024.
    """

    prior: Prior
    consistency: SliceTv
    levels: Levels
    noise: Noise
    eta: float = _ETA

    @property
    def sigmas(self) -> np.ndarray:
        return self.levels.sigmas

    @property
    def n_estimates(self) -> int:
        return self.levels.n_steps

    def step(self, state: State) -> State:
        """Return the state after one noise level; `state` stays as it is."""
        i, plane = state.step, self.prior.plane
        sigma, after = float(self.levels.sigmas[i]), self.levels.after(i)
        x = plane.slices_of(state.x)
        x0 = self.prior.denoiser.denoise(x, sigma)
        moved, splitting, residual = self.consistency(x0, state.splitting)
        part = self.eta * (1 - (after / sigma) ** 2) ** 0.5
        kept, new = after * (1 - part**2) ** 0.5 / sigma, after * part
        z = self.noise.source(i, Phase.PREDICTOR, plane, state.x.shape) if new > 0 else None
        # The noise that is kept is what x̂₀ was found from, not what x̂₀' would mean.
        x = kernels.sampler_update(x, x0, z, 1 - kept, new)
        x += moved - x0
        return State(plane.volume_of(x), i + 1, residual, splitting)


def resolved(settings: Settings, task: Task) -> Settings:
    """The same with this method's numbers for what is None."""
    return replace(
        settings,
        eta=_eta(settings),
        sigma_max=first_level(settings),
        sparsity_weight=weight_of(settings, task, WEIGHTS),
    )


def solve(
    task: Task,
    priors: Sequence[Prior],
    shape: tuple[int, int, int],
    settings: Settings,
    callback: Callback | None = None,
    checkpoint: Checkpoint | None = None,
) -> Reconstruction:
    """Sample with the primary prior, its slices tied by total variation: see `Dds`."""
    prior, weight = priors[0], weight_of(settings, task, WEIGHTS)
    levels = Levels(settings.sigma_min, first_level(settings), settings.n_steps)

    def sampler_of(task: Task, noise: Noise) -> Dds:
        return Dds(prior, SliceTv.of(task, weight, _RHO, _N_CONJUGATE), levels, noise, _eta(settings))

    return run(sampler_of, task, prior, shape, settings, callback, checkpoint)


def _eta(settings: Settings) -> float:
    return _ETA if settings.eta is None else settings.eta
