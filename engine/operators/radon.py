"""Projection of every slice by a parallel or a fan beam: sparse-view CT."""

from __future__ import annotations

from typing import Any

import numpy as np

import kernels
from engine.operators.linear_operator import LinearOperator


class Radon(LinearOperator):
    """Line integrals along the rays of a geometry (`kernels.radon_forward`).

    Parameters
    ----------
    geometry : kernels.Geometry
        Size of the slices, detector and angles.
    """

    def __init__(self, geometry: kernels.Geometry):
        super().__init__(geometry.shape, (geometry.n_views, geometry.n_bins), np.float32)
        self.geometry = geometry

    @property
    def data_axes(self) -> tuple[str, ...]:
        return "views", "detector bins"

    def _apply(self, x: Any) -> Any:
        return kernels.radon_forward(x, self.geometry)

    def _adjoint(self, y: Any) -> Any:
        return kernels.radon_adjoint(y, self.geometry)

    def _classical(self, y: Any) -> Any:
        """Filtered back-projection with the ramp filter."""
        return kernels.radon_fbp(y, self.geometry)
