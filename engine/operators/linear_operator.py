"""The contract of a measurement operator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import numpy as np


class LinearOperator(ABC):
    """A linear map that measures every slice by itself.

    For all real x and all y: Re⟨A x, y⟩ = ⟨x, Aᵀ y⟩ up to rounding, where Aᵀ is `adjoint`: the exact transpose, no
    filter, no scaling, no inverse.

    Parameters
    ----------
    slice_shape : (int, int)
        Rows and columns of a slice.
    data_shape : tuple of int
        Shape of the measurement of one slice.
    data_dtype : dtype
        float32 or complex64.
    """

    def __init__(self, slice_shape: tuple[int, int], data_shape: tuple[int, ...], data_dtype: type):
        self.slice_shape, self.data_shape, self.data_dtype = slice_shape, data_shape, data_dtype

    @final
    def apply(self, x: np.ndarray) -> np.ndarray:
        """Measure a stack of slices.

        Parameters
        ----------
        x : float32 (n, n_rows, n_columns)

        Returns
        -------
        array (n, *data_shape)

        Raises
        ------
        ValueError
            Another shape or type.
        """
        _check("x", x, self.slice_shape, np.float32)
        return self._apply(x)

    @final
    def adjoint(self, y: np.ndarray) -> np.ndarray:
        """Apply the transpose.

        Parameters
        ----------
        y : array (n, *data_shape) of `data_dtype`

        Returns
        -------
        float32 (n, n_rows, n_columns)

        Raises
        ------
        ValueError
            Another shape or type.
        """
        _check("y", y, self.data_shape, self.data_dtype)
        return self._adjoint(y)

    def norm(self, n_iterations: int = 20) -> float:
        """Return ‖A‖₂, the largest singular value for one slice, by power iteration."""
        # Near the answer for averages and projections, yet not in the null space of k-space without its centre.
        x = 1 + np.float32(0.1) * np.random.Generator(np.random.Philox(0)).random((1, *self.slice_shape), np.float32)
        for _ in range(n_iterations):
            x /= np.linalg.norm(x)
            x = self.adjoint(self.apply(x))
        return float(np.sqrt(np.linalg.norm(x)))

    @abstractmethod
    def _apply(self, x: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _adjoint(self, y: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def classical(self, y: np.ndarray) -> np.ndarray:
        """Return the reconstruction that a scanner would show: float32 (n, n_rows, n_columns)."""


def _check(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape[1:] != shape or array.ndim != 1 + len(shape) or array.dtype != dtype:
        expected = ", ".join(str(s) for s in ("n", *shape))
        raise ValueError(
            f"{name}: expected ({expected}) {np.dtype(dtype)}, got {array.shape} {array.dtype}; "
            "give one entry a slice, in the layout of the plane that is measured"
        )
