"""Perpendicular priors, as many as are given."""

from __future__ import annotations

from collections.abc import Sequence

from engine.estimator import Prior
from engine.layout import HERE, Layout
from engine.reconstruct import Callback, Reconstruction, Settings, Waypoint, reconstruct
from engine.tasks import Task


def solve(
    task: Task,
    priors: Sequence[Prior],
    shape: tuple[int, int, int],
    settings: Settings,
    callback: Callback | None = None,
    waypoint: Waypoint | None = None,
    layout: Layout = HERE,
) -> Reconstruction:
    """Sample the product of the priors: see `engine.reconstruct.reconstruct`."""
    return reconstruct(task, priors, shape, settings, callback=callback, waypoint=waypoint, layout=layout)
