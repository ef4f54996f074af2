"""Averages over blocks of thin slices: a clinical scan with thick slices."""

from __future__ import annotations

import numpy as np

from engine.operators.linear_operator import LinearOperator


class ThickSlices(LinearOperator):
    """Means over blocks of `factor` rows or columns of every slice; a rest that fills no block is not measured.

    Parameters
    ----------
    slice_shape : (int, int)
    factor : int
        Thin slices in a thick one.
    axis : 1 or 2
        The axis of the stack (n, row, column) along which the blocks lie.
    """

    def __init__(self, slice_shape: tuple[int, int], factor: int, axis: int):
        n_blocks = slice_shape[axis - 1] // factor
        data_shape = (n_blocks, slice_shape[1]) if axis == 1 else (slice_shape[0], n_blocks)
        super().__init__(slice_shape, data_shape, np.float32)
        self.factor, self.axis, self.n_covered = factor, axis, n_blocks * factor

    def _apply(self, x: np.ndarray) -> np.ndarray:
        x = np.moveaxis(x, self.axis, -1)[..., : self.n_covered]
        means = x.reshape(*x.shape[:-1], -1, self.factor).mean(axis=-1, dtype=np.float32)
        return np.ascontiguousarray(np.moveaxis(means, -1, self.axis))

    def _adjoint(self, y: np.ndarray) -> np.ndarray:
        return self.classical(y) / np.float32(self.factor)

    def classical(self, y: np.ndarray) -> np.ndarray:
        """Every thick slice repeated `factor` times; zeros where nothing was measured."""
        x = np.zeros((y.shape[0], *self.slice_shape), dtype=np.float32)
        np.moveaxis(x, self.axis, -1)[..., : self.n_covered] = np.moveaxis(y, self.axis, -1).repeat(
            self.factor, axis=-1
        )
        return x

    def first_of_block(self, x: np.ndarray) -> np.ndarray:
        """View of the first column (or row) of every block, shape as `apply`'s result."""
        return np.moveaxis(np.moveaxis(x, self.axis, -1)[..., : self.n_covered : self.factor], -1, self.axis)
