"""What a scanner would show: no prior, no iterations."""

from __future__ import annotations

import time

import numpy as np
from scipy import ndimage

from engine.methods.outcome import outcome_of
from engine.operators import ThickSlices
from engine.sampling.problem import InverseProblem
from engine.sampling.reconstruction import Reconstruction
from engine.sampling.settings import Settings


def solve(problem: InverseProblem, settings: Settings) -> Reconstruction:
    """Fill k-space with zeros, back-project filtered data, or interpolate between thick slices."""
    started = time.monotonic()
    slices = crude(problem)
    return outcome_of(problem, slices, settings, None, time.monotonic() - started)


def crude(problem: InverseProblem) -> np.ndarray:
    """The picture in slices of the problem's plane, float32 (n, h, w)."""
    operator, y = problem.measured()
    slices: np.ndarray = interpolated(operator, y) if isinstance(operator, ThickSlices) else operator.classical(y)
    return slices


def interpolated(operator: ThickSlices, y: np.ndarray) -> np.ndarray:
    """Cubic splines through the centres of thick slices, constant beyond the first and the last one.

    Parameters
    ----------
    operator : ThickSlices
    y : float32 (n, *operator.data_shape)

    Returns
    -------
    float32 (n, n_rows, n_columns)
    """
    factors = np.ones(3)
    factors[operator.axis] = operator.factor
    # On this grid voxels are cells: the centre of the first thick slice lies (factor − 1)/2 inside.
    x = ndimage.zoom(y, factors, order=3, mode="nearest", grid_mode=True)
    rest = [(0, 0)] * 3
    rest[operator.axis] = (0, operator.slice_shape[operator.axis - 1] - operator.n_covered)
    return np.pad(x, rest, mode="edge")
