"""Projection of a volume by a cone beam: CT whose rays leave the slices."""

from __future__ import annotations

from typing import Any, final

import numpy as np

import kernels
from engine.operators.volume_operator import VolumeOperator
from kernels.arrays import library_of


@final
class ConeBeam(VolumeOperator):
    """Line integrals along the rays of a cone beam, of a stack in the layout of any plane (`kernels.cone_forward`).

    Samples are the projections (n_views, n_lines, n_bins) of the geometry, one after another.

    Parameters
    ----------
    geometry : kernels.ConeGeometry
    order : (int, int, int)
        Axes of the stack along which slices, rows and columns of the geometry run: a permutation of (0, 1, 2).

    Raises
    ------
    ValueError
        No permutation.
    """

    #: Of 4, 8 and 15 the most that do no harm where there is noise; without any, each step up gains.
    n_iterations = 8

    def __init__(self, geometry: kernels.ConeGeometry, order: tuple[int, int, int] = (0, 1, 2)):
        if sorted(order) != [0, 1, 2]:
            raise ValueError(f"order: expected a permutation of (0, 1, 2), got {order}; name each axis once")
        self._back = tuple(order.index(axis) for axis in range(3))
        n_slices, n_rows, n_columns = (geometry.shape[i] for i in self._back)
        super().__init__((n_slices, n_rows, n_columns), int(np.prod(geometry.data_shape)))
        self.geometry, self.order = geometry, order

    def projections_of(self, y: Any) -> Any:
        """A measurement as projections (n_views, n_lines, n_bins): a view."""
        return y.reshape(self.geometry.data_shape)

    def _apply(self, x: Any) -> Any:
        volume = library_of(x=x).ascontiguousarray(x.transpose(self.order))
        return kernels.cone_forward(volume, self.geometry).reshape(-1)

    def _adjoint(self, y: Any) -> Any:
        return self._stack_of(kernels.cone_adjoint(self.projections_of(y), self.geometry))

    def _classical(self, y: Any) -> Any:
        """The reconstruction of Feldkamp, Davis and Kress with the ramp filter."""
        return self._stack_of(kernels.cone_fdk(self.projections_of(y), self.geometry))

    def _stack_of(self, volume: Any) -> Any:
        return library_of(volume=volume).ascontiguousarray(volume.transpose(self._back))
