"""Parallel-beam projection of every slice: sparse-view CT."""

from __future__ import annotations

from typing import Any

import numpy as np

import kernels
from engine.operators.linear_operator import LinearOperator


class Radon(LinearOperator):
    """Line integrals over n_views angles, in the reference discretisation (`kernels.radon_forward`).

    Parameters
    ----------
    geometry : kernels.ParallelGeometry
        Square slices of side ``geometry.n``.
    """

    def __init__(self, geometry: kernels.ParallelGeometry):
        super().__init__((geometry.n, geometry.n), (geometry.n_views, geometry.n_bins), np.float32)
        self.geometry = geometry

    def _apply(self, x: Any) -> Any:
        return kernels.radon_forward(x, self.geometry)

    def _adjoint(self, y: Any) -> Any:
        return kernels.radon_adjoint(y, self.geometry)

    def _classical(self, y: Any) -> Any:
        """Filtered back-projection with the ramp filter."""
        return kernels.radon_fbp(y, self.geometry)
