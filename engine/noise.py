"""The normal draws of a run: addressed by voxel, or replayed from a record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import IntEnum

import numpy as np

import kernels
from engine.volume import Plane


class Phase(IntEnum):
    """What a draw is for; part of its address."""

    CORRECTOR = 0
    PREDICTOR = 1
    CORRECTOR_MEASUREMENT = 2
    PREDICTOR_MEASUREMENT = 3
    START = 4


class Noise(ABC):
    """Standard normal volumes, one for every step and phase."""

    @abstractmethod
    def draw(self, step: int, phase: Phase, plane: Plane, volume_shape: tuple[int, int, int]) -> np.ndarray:
        """Return float32 (n_slices, n_rows, n_columns), C-contiguous, in the layout of `plane`."""


class CounterNoise(Noise):
    """Philox noise keyed by seed, step, phase and the voxel's index in the volume.

    So a voxel's noise depends neither on the plane that is at work nor on batches, threads or processes.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def draw(self, step: int, phase: Phase, plane: Plane, volume_shape: tuple[int, int, int]) -> np.ndarray:
        return plane.slices_of(kernels.philox_normal(self.seed, step, int(phase), volume_shape))


class ReplayNoise(Noise):
    """Recorded noise, to repeat a run of another implementation draw by draw.

    Parameters
    ----------
    start : float32 (n_slices, n_rows, n_columns)
        Standard normal of the start, in the primary plane's layout.
    steps : float32 (n_steps, n_phases, n, h, w)
        Draws of each step and phase, in the layout of the plane that the step works in.
    """

    def __init__(self, start: np.ndarray, steps: np.ndarray):
        self.start, self.steps = start, steps

    def draw(self, step: int, phase: Phase, plane: Plane, volume_shape: tuple[int, int, int]) -> np.ndarray:
        recorded = self.start if phase is Phase.START else self.steps[step, int(phase)]
        if recorded.shape != plane.shape_of(volume_shape):
            raise ValueError(
                f"recorded noise: expected {plane.shape_of(volume_shape)}, got {recorded.shape}; replay it "
                "with the shape and the planes that it was recorded with"
            )
        return np.ascontiguousarray(recorded, dtype=np.float32)
