"""Weighted sums over runs of rows or columns: what a thick slice sees of thin ones, and its transpose."""

from __future__ import annotations

from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.arrays import DeviceCopies, library_of
from kernels.checks import check_array, check_integer
from kernels.native import native_of

Float32 = npt.NDArray[np.float32]


class Bands:
    """A matrix whose rows are zero outside one run each, ready for `banded_sum`.

    Parameters
    ----------
    matrix : float (n_out, n_in)
        Finite; rounded to float32. A row of zeros is one that sees nothing.

    Attributes
    ----------
    matrix : float32 (n_out, n_in)
    weights : float32 (n_out, n_taps)
        The runs; shorter ones have zeros behind them.
    runs : int64 (n_out, 2)
        Where each run starts, and how long it is.

    Raises
    ------
    ValueError
        Another rank, an empty matrix, or a value that is not finite.
    """

    def __init__(self, matrix: npt.ArrayLike):
        with np.errstate(over="ignore"):  # Found out, and named, below.
            self.matrix = np.array(matrix, dtype=np.float32)
        if self.matrix.ndim != 2 or 0 in self.matrix.shape or not np.isfinite(self.matrix).all():
            raise ValueError(
                f"matrix: expected finite (n_out, n_in), got {self.matrix.shape} with "
                f"{int((~np.isfinite(self.matrix)).sum())} values not finite; pass one row of weights for each sum"
            )
        # Shared with every caller: what was checked here stays what native code reads.
        self.matrix.flags.writeable = False
        seen = self.matrix != 0
        first = np.where(seen.any(axis=1), seen.argmax(axis=1), 0)
        last = np.where(seen.any(axis=1), self.matrix.shape[1] - seen[:, ::-1].argmax(axis=1), 0)
        self.runs = np.stack([first, last - first], axis=1).astype(np.int64)
        self.weights = np.zeros((len(self.matrix), max(1, int(self.runs[:, 1].max()))), np.float32)
        for row, (start, length) in enumerate(self.runs):
            self.weights[row, :length] = self.matrix[row, start : start + length]
        self._copies = DeviceCopies(self.weights, self.runs)

    @cached_property
    def transposed(self) -> Bands:
        """The bands of the transposed matrix."""
        return Bands(self.matrix.T)

    def beside(self, x: Any, library: ModuleType) -> tuple[Any, ...]:
        """Weights and runs in the library and on the device of `x`, copied there once."""
        return self._copies.beside(x, library)


def banded_sum(x: Float32, bands: Bands, axis: int) -> Float32:
    """Multiply the matrix of `bands` onto one axis of every slice; the sums are taken in float32, in order.

    Parameters
    ----------
    x : float32 (n_slices, n_rows, n_columns), C-contiguous
        n_in entries along `axis`.
    bands : Bands
    axis : int
        1 for rows, 2 for columns.

    Returns
    -------
    float32 (n_slices, n_rows, n_columns)
        n_out entries along `axis`. An entry of `x` that is no number reaches those whose runs hold it, and no other.

    Raises
    ------
    TypeError
        `x` is no array or no float32 one.
    ValueError
        Another shape or layout; another axis.
    """
    axis = check_integer("axis", axis, 1, 3)
    n_out, n_in = bands.matrix.shape
    shape: list[int | str] = ["n", "rows", "columns"]
    shape[axis] = n_in
    check_array("x", x, tuple(shape), np.float32, f"the matrix has {n_in} columns")
    library = library_of(x=x)
    out: Float32 = library.empty((*x.shape[:axis], n_out, *x.shape[axis + 1 :]), np.float32)
    native, context = native_of(library)
    native.banded_sum(x, *bands.beside(x, library), axis, out, context)
    return out
