"""Several stacks of thick slices as the measurement of one volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.operators.thick_stack import Shape, StackGeometry, ThickStack
from engine.operators.volume_operator import VolumeOperator
from kernels.arrays import DeviceCopies, library_of


class Stacks(VolumeOperator):
    """The samples of several stacks, one after another; those that see more than the volume count as zero.

    Parameters
    ----------
    grid_shape : (int, int, int)
        Of the volume.
    geometries : sequence of StackGeometry
        One a stack.

    Raises
    ------
    ValueError
        Axes of a stack that are not perpendicular, or one that sees nothing of the volume.
    """

    def __init__(self, grid_shape: Shape, geometries: Sequence[StackGeometry]):
        self.stacks = [ThickStack(grid_shape, one) for one in geometries]
        sizes = [int(np.prod(one.data_shape)) for one in self.stacks]
        super().__init__(grid_shape, sum(sizes))
        stops = np.cumsum(sizes).tolist()
        self._parts = [slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]
        self._inside = [DeviceCopies(one.is_inside.astype(np.float32)) for one in self.stacks]

    def parts_of(self, y: Any) -> list[Any]:
        """A measurement as the arrays of its stacks: views, float32 of each one's `data_shape`."""
        return [y[part].reshape(one.data_shape) for part, one in zip(self._parts, self.stacks, strict=True)]

    def joined(self, parts: Sequence[Any]) -> Any:
        """The arrays of all stacks as a measurement, zero where a sample sees more than the volume."""
        library = library_of(part=parts[0])
        return library.concatenate(
            [(part * self._mask(i, part, library)).reshape(-1) for i, part in enumerate(parts)], dtype=np.float32
        )

    @property
    def is_covered(self) -> np.ndarray:
        """Where in the volume a stack has samples, bool (n, n_rows, n_columns)."""
        return np.any(
            [one.spread(mask.beside(None, np)[0]) > 0.5 for one, mask in zip(self.stacks, self._inside, strict=True)],
            axis=0,
        )

    def _mask(self, i: int, beside: Any, library: Any) -> Any:
        return self._inside[i].beside(beside, library)[0]

    def _apply(self, x: Any) -> Any:
        return self.joined([one.apply(x) for one in self.stacks])

    def _adjoint(self, y: Any) -> Any:
        library = library_of(y=y)
        x = library.zeros(self.shape, np.float32)
        for i, (one, part) in enumerate(zip(self.stacks, self.parts_of(y), strict=True)):
            x += one.adjoint(part * self._mask(i, part, library))
        return x

    def _classical(self, y: Any) -> Any:
        """The mean of the stacks that see a voxel, each by cubic splines across its slices; zero where none does."""
        library = library_of(y=y)
        x, weight = library.zeros(self.shape, np.float32), library.full(self.shape, np.float32(1e-3))
        for i, (one, part) in enumerate(zip(self.stacks, self.parts_of(y), strict=True)):
            x += one.spread(part)
            weight += one.spread(self._mask(i, part, library))
        x /= library.maximum(weight, np.float32(0.5))
        return x
