"""The primary prior alone, slice by slice: what the perpendicular ones add is the difference to this."""

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
    """Sample every slice by itself; with guidance "dps" this is diffusion posterior sampling in two dimensions.

    Source: Chung et al., Diffusion posterior sampling for general noisy inverse problems, ICLR 2023.
    """
    return reconstruct(task, priors[:1], shape, settings, callback=callback, waypoint=waypoint, layout=layout)
