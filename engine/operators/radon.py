"""Projection of every slice by a parallel or a fan beam: sparse-view CT."""

from __future__ import annotations

from typing import Any

import numpy as np

import kernels
from engine.operators.linear_operator import LinearOperator
from kernels.arrays import library_of


class Radon(LinearOperator):
    """Line integrals along the rays of a geometry (`kernels.radon_forward`).

    Geometries of a parallel beam know square images only. Slices of other sides lie in the middle of such a square,
    zeros around them; `adjoint` and `classical` cut them out again.

    Parameters
    ----------
    geometry : kernels.Geometry
        Size of the images, detector and angles.
    slice_shape : (int, int) or None
        Rows and columns of the slices, for a parallel beam up to the geometry's; None: the geometry's.

    Raises
    ------
    ValueError
        Slices that do not fit the geometry.
    """

    def __init__(self, geometry: kernels.Geometry, slice_shape: tuple[int, int] | None = None):
        rows, columns = geometry.shape if slice_shape is None else slice_shape
        above, left = _corner(geometry, (rows, columns))
        super().__init__((rows, columns), (geometry.n_views, geometry.n_bins), np.float32)
        self.geometry = geometry
        self._window = slice(None), slice(above, above + rows), slice(left, left + columns)

    @property
    def data_axes(self) -> tuple[str, ...]:
        return "views", "detector bins"

    def _apply(self, x: Any) -> Any:
        if self.slice_shape != self.geometry.shape:
            square = library_of(x=x).zeros((len(x), *self.geometry.shape), np.float32)
            square[self._window] = x
            x = square
        return kernels.radon_forward(x, self.geometry)

    def _adjoint(self, y: Any) -> Any:
        return self._cut(kernels.radon_adjoint(y, self.geometry))

    def _classical(self, y: Any) -> Any:
        """Filtered back-projection with the ramp filter."""
        return self._cut(kernels.radon_fbp(y, self.geometry))

    def _cut(self, images: Any) -> Any:
        # The whole of an image is already contiguous, and is not copied.
        return library_of(images=images).ascontiguousarray(images[self._window])


def centre_of_rotation(geometry: kernels.Geometry, slice_shape: tuple[int, int]) -> tuple[float, float]:
    """Return row and column of the centre of rotation in a slice of `Radon(geometry, slice_shape)`.

    Raises
    ------
    ValueError
        As `Radon`.
    """
    above, left = _corner(geometry, slice_shape)
    row, column = geometry.centre
    return row - above, column - left


def _corner(geometry: kernels.Geometry, slice_shape: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the geometry's image where slices begin."""
    rows, columns = slice_shape
    sides = geometry.shape
    padded = isinstance(geometry, kernels.ParallelGeometry) and max(rows, columns) <= geometry.n
    if not padded and (rows, columns) != sides:
        raise ValueError(
            f"slice_shape: expected the geometry's {sides[0]} rows and {sides[1]} columns, or fewer for a parallel "
            f"beam, got {rows} and {columns}; rebuild the geometry for these slices"
        )
    # Pixel h // 2 falls on pixel n // 2: as the geometry lays its square into the lattice of samples.
    return sides[0] // 2 - rows // 2, sides[1] // 2 - columns // 2
