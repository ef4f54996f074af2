"""What methods beside the samplers start from and leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.problems.tasks import Task
from engine.sampling.reconstruct import Reconstruction, Settings


def measured(task: Task) -> tuple[Any, Any]:
    """Operator and measurement of a task that has them.

    Raises
    ------
    InputError
        It has none.
    """
    if task.operator is None or task.measurement is None:
        raise InputError("task", "one with a measurement", f"'{task.name}'", "choose another task or method")
    return task.operator, task.measurement


def weight_of(settings: Settings, task: Task, weights: Mapping[str, float]) -> float:
    """The weight of what should be sparse: that of the settings, or a method's own for the task.

    Parameters
    ----------
    settings : Settings
    task : Task
    weights : mapping
        By the task's name.
    """
    return weights[task.name] if settings.sparsity_weight is None else settings.sparsity_weight


def residual_of(task: Task, slices: np.ndarray) -> float:
    """‖A x − y‖₂ of a stack of slices in the task's plane."""
    operator, y = measured(task)
    return float(np.linalg.norm((operator.apply(slices) - y).ravel()))


def outcome_of(
    task: Task, slices: np.ndarray, settings: Settings, first: np.ndarray | None, seconds: float
) -> Reconstruction:
    """Return the result of a method that asks no network.

    Parameters
    ----------
    task : Task
    slices : float32 (n, h, w)
        In the task's plane.
    settings : Settings
    first : float32 (n, h, w) or None
        What an iterative method started from; its residual comes first.
    seconds : float
    """
    residuals = [residual_of(task, x) for x in (first, slices) if x is not None]
    volume = task.plane.volume_of(slices)
    return Reconstruction(volume, np.zeros(0, int), settings, residuals, n_evaluations=0, seconds=seconds)
