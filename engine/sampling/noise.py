"""The normal draws of a run: addressed by voxel, or replayed from a record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import IntEnum
from types import ModuleType
from typing import final

import numpy as np

import kernels
from engine.parallel.stack import Stack
from engine.volume import Plane
from kernels.arrays import library_of

#: Which entries of a stack: an index for each of its axes, such as every fourth column.
Entries = tuple[slice, slice, slice]
ALL: Entries = (slice(None), slice(None), slice(None))


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
    def source(
        self, step: int, phase: Phase, plane: Plane, volume_shape: tuple[int, int, int], entries: Entries = ALL
    ) -> kernels.NoiseKey | np.ndarray:
        """Return one draw as the kernels take it: a key from which they make it where they need it, or the draw.

        Parameters
        ----------
        step : int
        phase : Phase
        plane : Plane
            Whose layout the draw has.
        volume_shape : (int, int, int)
        entries : tuple of 3 slice
            Which slices, rows and columns; their steps are positive.

        Returns
        -------
        NoiseKey, or float32 (n_slices, n_rows, n_columns), C-contiguous
        """

    def draw(
        self,
        step: int,
        phase: Phase,
        plane: Plane,
        volume_shape: tuple[int, int, int],
        entries: Entries = ALL,
        library: ModuleType = np,
    ) -> np.ndarray:
        """Return one draw as float32 (n_slices, n_rows, n_columns), C-contiguous, in the layout of `plane`.

        Parameters
        ----------
        step, phase, plane, volume_shape, entries
            As for `source`.
        library : module
            numpy or cupy, of the result; what is replayed stays in its own.
        """
        source = self.source(step, phase, plane, volume_shape, entries)
        if isinstance(source, kernels.NoiseKey):
            ranges = _ranges(plane, volume_shape, entries)
            return kernels.philox_slices(source, [len(r) for r in ranges], library)
        return source

    @final
    def like(self, x: Stack, step: int, phase: Phase) -> kernels.NoiseKey | np.ndarray:
        """Return one draw for the slices of a stack, as `source`."""
        return self.source(step, phase, x.plane, x.shape, x.entries)


def _ranges(plane: Plane, volume_shape: tuple[int, int, int], entries: Entries) -> list[range]:
    """The indices that entries select of every axis of the stack."""
    return [range(n)[which] for n, which in zip(plane.shape_of(volume_shape), entries, strict=True)]


class CounterNoise(Noise):
    """Philox noise keyed by seed, step, phase and the voxel's index in the volume.

    So a voxel's noise depends neither on the plane that is at work nor on batches, threads or processes.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def source(
        self, step: int, phase: Phase, plane: Plane, volume_shape: tuple[int, int, int], entries: Entries = ALL
    ) -> kernels.NoiseKey:
        of_axes = (volume_shape[1] * volume_shape[2], volume_shape[2], 1)
        of_stack = [of_axes[axis] for axis in plane.axes]
        ranges = _ranges(plane, volume_shape, entries)
        start = sum(r.start * stride for r, stride in zip(ranges, of_stack, strict=True))
        i, r, c = (which.step * stride for which, stride in zip(ranges, of_stack, strict=True))
        return kernels.NoiseKey(self.seed, step, int(phase), (i, r, c), start)


class ReplayNoise(Noise):
    """Recorded noise, to repeat a run of another implementation draw by draw.

    Parameters
    ----------
    start : (n_slices, n_rows, n_columns)
        Standard normal of the start, in the primary plane's layout.
    steps : (n_steps, n_phases, n, h, w)
        Draws of each step and phase, in the layout of the plane that the step works in; NumPy or CuPy, as the run.
    """

    def __init__(self, start: np.ndarray, steps: np.ndarray):
        self.start, self.steps = start, steps

    def source(
        self, step: int, phase: Phase, plane: Plane, volume_shape: tuple[int, int, int], entries: Entries = ALL
    ) -> np.ndarray:
        recorded = self.start if phase is Phase.START else self.steps[step, int(phase)]
        if recorded.shape != plane.shape_of(volume_shape):
            raise ValueError(
                f"recorded noise: expected {plane.shape_of(volume_shape)}, got {recorded.shape}; replay it "
                "with the shape and the planes that it was recorded with"
            )
        array: np.ndarray = library_of(recorded=recorded).ascontiguousarray(recorded[entries], dtype=np.float32)
        return array
