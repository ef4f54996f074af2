"""What a scanner would show: no prior, no iterations."""

from __future__ import annotations

import time

import numpy as np

from engine.methods.outcome import outcome_of
from engine.sampling.problem import InverseProblem
from engine.sampling.reconstruction import Reconstruction
from engine.sampling.settings import Settings


def solve(problem: InverseProblem, settings: Settings) -> Reconstruction:
    """Fill k-space with zeros, back-project filtered data, or interpolate between thick slices."""
    started = time.monotonic()
    slices = problem.classical_slices()
    if problem.shows_magnitude:
        problem = problem.of_complex_images()
    return outcome_of(problem, slices, settings, None, time.monotonic() - started)


def crude(problem: InverseProblem) -> np.ndarray:
    """Where iterations start, in slices of the problem's plane, (n, h, w) of the type of its images."""
    operator, y = problem.measured()
    slices: np.ndarray = operator.classical(y)
    return slices
