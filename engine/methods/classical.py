"""What a scanner would show: no prior, no iterations."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from engine.methods.outcome import measured, outcome_of
from engine.operators import ThickSlices
from engine.problems.tasks import Task
from engine.sampling.posterior_mean import Prior
from engine.sampling.reconstruct import Callback, Checkpoint, Reconstruction, Settings


def solve(
    task: Task,
    priors: Sequence[Prior],
    shape: tuple[int, int, int],
    settings: Settings,
    callback: Callback | None = None,
    checkpoint: Checkpoint | None = None,
) -> Reconstruction:
    """Fill k-space with zeros, back-project filtered data, or interpolate between thick slices."""
    started = time.monotonic()
    slices = crude(task)
    return outcome_of(task, slices, settings, None, time.monotonic() - started)


def crude(task: Task) -> np.ndarray:
    """The picture in slices of the task's plane, float32 (n, h, w)."""
    operator, y = measured(task)
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
