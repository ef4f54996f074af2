"""Decomposed diffusion sampling in three dimensions: one prior, and total variation across its slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.methods.outcome import walk_slices, weight_of, with_weight
from engine.methods.slice_tv import SliceTv, magnitude_moved, no_splitting
from engine.parallel.stack import Stack
from engine.sampling.noise import CounterNoise, Noise, Phase
from engine.sampling.posterior_mean import Prior
from engine.sampling.problem import InverseProblem
from engine.sampling.reconstruction import Callback, Checkpoint, Reconstruction
from engine.sampling.sampler import State, update
from engine.sampling.schedule import Levels
from engine.sampling.settings import Range, Settings

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

    def init(self, x: Stack) -> State:
        return State(x, memory=no_splitting(x.data))

    def step(self, state: State) -> State:
        """Return the state after one noise level; `state` stays as it is."""
        i, sigma, after = state.step, self.levels[state.step], self.levels[state.step + 1]
        x = state.x.to(self.prior.plane)
        x0 = self.prior.denoise(x, sigma)
        moved, splitting, residual, phase = magnitude_moved(
            self.consistency, x0, state.memory, sigma, state.image_phase
        )
        part = self.eta * (1 - (after / sigma) ** 2) ** 0.5
        kept, new = after * (1 - part**2) ** 0.5 / sigma, after * part
        z = self.noise.like(x, i, Phase.PREDICTOR) if new > 0 else None
        # The noise that is kept is that of the network's x̂₀, not of x̂₀'.
        x = update(x, x0, z, 1 - kept, new)
        return state.next(x.of(x.data + (moved - x0.data)), residual, splitting, phase)


def resolved(settings: Settings, problem: InverseProblem, trained: Range) -> Settings:
    """The same with this method's numbers for None."""
    settings = with_weight(settings.with_levels(trained), problem, WEIGHTS)
    return settings if settings.eta is not None else replace(settings, eta=_ETA)


def solve(
    problem: InverseProblem,
    priors: Sequence[Prior],
    settings: Settings,
    *,
    callback: Callback | None = None,
    checkpoint: Checkpoint | None = None,
) -> Reconstruction:
    """Sample with the primary prior, its slices tied by total variation: see `Dds`."""
    prior, noise = priors[0], CounterNoise(settings.seed)
    weight = weight_of(settings)
    levels = Levels(*settings.levels, settings.n_steps)

    def sampler_of(here: InverseProblem) -> Dds:
        assert settings.eta is not None
        return Dds(prior, SliceTv.of(here, weight, _RHO, _N_CONJUGATE), levels, noise, settings.eta)

    return walk_slices(sampler_of, problem, prior, settings, noise, callback, checkpoint)
