"""Perpendicular priors, as many as are given."""

from __future__ import annotations

from collections.abc import Sequence

from engine.parallel.decomposition import UNDIVIDED, Decomposition
from engine.problems.tasks import Task
from engine.sampling.posterior_mean import Prior
from engine.sampling.reconstruct import Callback, Checkpoint, Reconstruction, Settings, reconstruct


def solve(
    task: Task,
    priors: Sequence[Prior],
    shape: tuple[int, int, int],
    settings: Settings,
    callback: Callback | None = None,
    checkpoint: Checkpoint | None = None,
    decomposition: Decomposition = UNDIVIDED,
) -> Reconstruction:
    """Sample the product of the priors: see `engine.sampling.reconstruct.reconstruct`."""
    return reconstruct(
        task, priors, shape, settings, callback=callback, checkpoint=checkpoint, decomposition=decomposition
    )
