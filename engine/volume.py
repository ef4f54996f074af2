"""Planes: how a volume becomes a stack of slices, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.errors import InputError
from kernels.arrays import library_of

#: Volumes are (x, y, z), x to the right, y to the front, z to the top. Rows and columns keep the order of the axes.
NAMED_PLANES = {"axial": (2, 0, 1), "coronal": (1, 0, 2), "sagittal": (0, 1, 2)}
#: For a prior that knows all of them, in place of one plane's axes.
ALL_PLANES = "all"


@dataclass(frozen=True)
class Plane:
    """A way to cut a volume: the axes along which slices, rows and columns run.

    Parameters
    ----------
    axes : tuple of 3 int
        A permutation of (0, 1, 2): (slice, row, column).
    """

    axes: tuple[int, int, int]

    def __post_init__(self) -> None:
        if sorted(self.axes) != [0, 1, 2]:
            raise InputError("plane", "a permutation of (0, 1, 2)", self.axes, "name axes as slice,row,column")

    @classmethod
    def parse(cls, text: str) -> Plane:
        """Read "axial", "coronal", "sagittal" or three axes as "2,0,1".

        Raises
        ------
        InputError
            Neither a name nor a permutation.
        """
        if text in NAMED_PLANES:
            return cls(NAMED_PLANES[text])
        try:
            slice_axis, row, column = (int(part) for part in text.split(","))
        except ValueError:
            raise InputError(
                "plane",
                "axial, coronal, sagittal or three axes such as 2,0,1 (slice,row,column)",
                f"'{text}'",
                "choose one of these",
            ) from None
        return cls((slice_axis, row, column))

    @property
    def slice_axis(self) -> int:
        return self.axes[0]

    def __str__(self) -> str:
        for name, axes in NAMED_PLANES.items():
            if axes == self.axes:
                return name
        return ",".join(str(a) for a in self.axes)

    def slices_of(self, volume: np.ndarray) -> np.ndarray:
        """Return the volume (d0, d1, d2) as a contiguous stack (slice, row, column), NumPy or CuPy as it is."""
        return _contiguous(volume.transpose(self.axes))

    def volume_of(self, slices: np.ndarray) -> np.ndarray:
        """Return the contiguous volume that `slices_of` would cut into `slices`."""
        return _contiguous(slices.transpose([self.axes.index(axis) for axis in range(3)]))

    def shape_of(self, volume_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return (n_slices, n_rows, n_columns) of a volume of that shape."""
        n_slices, n_rows, n_columns = (volume_shape[a] for a in self.axes)
        return n_slices, n_rows, n_columns

    def axes_of(self, other: Plane) -> tuple[int, int, int]:
        """Return the axes of this plane's stack along which slices, rows and columns of another plane's run."""
        i, j, k = (self.axes.index(axis) for axis in other.axes)
        return i, j, k

    def volume_shape(self, stack_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return (d0, d1, d2) of the volume that this plane cuts into a stack of that shape."""
        i, j, k = (stack_shape[self.axes.index(axis)] for axis in range(3))
        return i, j, k


def _contiguous(array: np.ndarray) -> np.ndarray:
    contiguous: np.ndarray = library_of(array=array).ascontiguousarray(array)
    return contiguous
