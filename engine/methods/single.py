"""The primary prior alone, slice by slice: what the perpendicular ones add is the difference to this."""

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
    """Sample every slice by itself; with guidance "dps" this is diffusion posterior sampling in two dimensions.

    Source: Chung et al., Diffusion posterior sampling for general noisy inverse problems, ICLR 2023.
    """
    return reconstruct(
        task, priors[:1], shape, settings, callback=callback, checkpoint=checkpoint, decomposition=decomposition
    )
