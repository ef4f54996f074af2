"""What methods beside the samplers start from and leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from engine.errors import InputError
from engine.sampling.noise import Noise
from engine.sampling.posterior_mean import Prior
from engine.sampling.problem import InverseProblem, magnitude_of
from engine.sampling.reconstruction import Callback, Checkpoint, Reconstruction, walk
from engine.sampling.sampler import Sampler
from engine.sampling.settings import Settings


def with_weight(settings: Settings, problem: InverseProblem, weights: Mapping[str, float]) -> Settings:
    """The same with a weight of what should be sparse, a method's own where none is stated.

    Parameters
    ----------
    settings : Settings
    problem : InverseProblem
    weights : mapping
        The method's own, by the problem's name.

    Raises
    ------
    InputError
        None is stated, and the method has none for the problem.
    """
    if settings.sparsity_weight is not None:
        return settings
    if problem.name not in weights:
        known = ", ".join(weights)
        raise InputError("sparsity_weight", f"a weight for a problem that is not {known}", "none", "state one")
    return replace(settings, sparsity_weight=weights[problem.name])


def weight_of(settings: Settings) -> float:
    """That weight of resolved settings."""
    assert settings.sparsity_weight is not None
    return settings.sparsity_weight


def residual_of(problem: InverseProblem, slices: np.ndarray) -> float:
    """‖A x − y‖₂ of a stack of slices in the problem's plane."""
    operator, y = problem.measured()
    return float(np.linalg.norm((operator.apply(slices) - y).ravel()))


def outcome_of(
    problem: InverseProblem, slices: np.ndarray, settings: Settings, first: np.ndarray | None, seconds: float
) -> Reconstruction:
    """Return the result of a method that asks no network.

    Parameters
    ----------
    problem : InverseProblem
    slices : float32 or complex64 (n, h, w)
        In the problem's plane.
    settings : Settings
    first : array (n, h, w) or None
        What an iterative method started from; its residual comes first.
    seconds : float
    """
    residuals = [residual_of(problem, x) for x in (first, slices) if x is not None]
    volume, phase = problem.plane.volume_of(magnitude_of(slices)), None
    if slices.dtype.kind == "c":
        phase = problem.plane.volume_of(np.angle(slices))
    return Reconstruction(
        *(volume, np.zeros(0, int), settings, residuals), n_evaluations=0, seconds=seconds, phase=phase
    )


def walk_slices(
    sampler_of: Callable[[InverseProblem], Sampler],
    problem: InverseProblem,
    prior: Prior,
    settings: Settings,
    noise: Noise,
    callback: Callback | None,
    checkpoint: Checkpoint | None,
) -> Reconstruction:
    """Walk one prior down the noise levels from noise around the classical reconstruction; see `walk`."""
    start = replace(settings, sampler="ddim")
    volume, phase, residuals, seconds, sampler = walk(
        sampler_of, problem, [prior], start, noise, callback=callback, checkpoint=checkpoint
    )
    plan = np.zeros(settings.n_steps, int)
    return Reconstruction(volume, plan, settings, residuals, sampler.n_estimates, seconds, sampler.sigmas, phase)
