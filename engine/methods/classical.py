"""What a scanner would show: no prior, no iterations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from engine.errors import InputError
from engine.estimator import Prior
from engine.operators import ThickSlices
from engine.reconstruct import Callback, Reconstruction, Settings
from engine.tasks import Task


def solve(
    task: Task,
    priors: Sequence[Prior],
    shape: tuple[int, int, int],
    settings: Settings,
    callback: Callback | None = None,
) -> Reconstruction:
    """Fill k-space with zeros, back-project filtered data, or interpolate between thick slices."""
    started = time.monotonic()
    operator, y = measured(task)
    slices = interpolated(operator, y) if isinstance(operator, ThickSlices) else operator.classical(y)
    return result_of(task, slices, settings, [], time.monotonic() - started)


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


def measured(task: Task) -> tuple[Any, Any]:
    """Operator and measurement of a task that has them.

    Raises
    ------
    InputError
        It has none.
    """
    if task.operator is None or task.measurement is None:
        raise InputError(f"task: expected one with a measurement, got '{task.name}'; choose another task or method")
    return task.operator, task.measurement


def result_of(
    task: Task, slices: np.ndarray, settings: Settings, residuals: list[float], seconds: float
) -> Reconstruction:
    """What a method without a prior leaves: its volume, and last ‖A x − y‖ of just that.

    Parameters
    ----------
    task : Task
    slices : float32 (n, h, w)
        Of the task's plane.
    settings : Settings
    residuals : list of float
        Of earlier iterates.
    seconds : float
    """
    operator, y = measured(task)
    last = float(np.linalg.norm((operator.apply(slices) - y).ravel()))
    return Reconstruction(
        task.plane.volume_of(slices), np.zeros(0, int), settings, [*residuals, last], n_evaluations=0, seconds=seconds
    )
