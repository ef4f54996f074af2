"""Lines of a volume, each through a filter of its own: how a volume is sheared, and with some shears turned."""

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


class LineFilters:
    """One filter a line, ready for `filter_lines`: output i of line j is Σ_k weights[j, k] · input[i + firsts[j] + k].

    Parameters
    ----------
    weights : float (n_lines, n_taps)
        Finite; rounded to float32.
    firsts : int (n_lines,)
    n_in, n_out : int
        Length of a line before and after; beyond its ends it is zero.

    Raises
    ------
    ValueError
        Another rank, an empty array, a length below one, or a value that is not finite.
    """

    def __init__(self, weights: npt.ArrayLike, firsts: npt.ArrayLike, n_in: int, n_out: int):
        self.weights = np.array(weights, dtype=np.float32, order="C")
        self.firsts = np.array(firsts, dtype=np.int64)
        self.n_in, self.n_out = n_in, n_out
        if self.weights.ndim != 2 or 0 in self.weights.shape or not np.isfinite(self.weights).all():
            raise ValueError(
                f"weights: expected finite (n_lines, n_taps), got {self.weights.shape} with "
                f"{int((~np.isfinite(self.weights)).sum())} values not finite; pass one row of weights for each line"
            )
        if self.firsts.shape != (len(self.weights),):
            raise ValueError(
                f"firsts: expected ({len(self.weights)},) as weights have rows, got {self.firsts.shape}; pass one each"
            )
        if min(n_in, n_out) < 1:
            raise ValueError(f"n_in, n_out: expected at least 1, got {n_in} and {n_out}; pass the lines' lengths")
        # Shared with every caller: what was checked here stays what native code reads.
        self.weights.flags.writeable = self.firsts.flags.writeable = False
        self._copies = DeviceCopies(self.weights, self.firsts)

    @cached_property
    def transposed(self) -> LineFilters:
        """The filters of the transposed map."""
        n_taps = self.weights.shape[1]
        return LineFilters(self.weights[:, ::-1], 1 - n_taps - self.firsts, self.n_out, self.n_in)

    def beside(self, x: Any, library: ModuleType) -> tuple[Any, ...]:
        """Weights and firsts in the library and on the device of `x`, copied there once."""
        return self._copies.beside(x, library)


def filter_lines(x: Float32, filters: LineFilters, axis: int) -> Float32:
    """Filter every line of a volume along an axis; the sums are taken in float32, in order.

    Parameters
    ----------
    x : float32 (n0, n1, n2), C-contiguous
        n_in entries along `axis`.
    filters : LineFilters
        Lines are numbered in C order over the other two axes.
    axis : int

    Returns
    -------
    float32 (n0, n1, n2)
        n_out entries along `axis`.

    Raises
    ------
    TypeError
        `x` is no array or no float32 one.
    ValueError
        Another shape or layout; another axis; another number of lines.
    """
    axis = check_integer("axis", axis, 0, 3)
    shape: list[int | str] = ["n0", "n1", "n2"]
    shape[axis] = filters.n_in
    check_array("x", x, tuple(shape), np.float32, f"the filters are for lines of {filters.n_in}")
    n_lines = x.size // filters.n_in
    if n_lines != len(filters.weights):
        raise ValueError(
            f"x: expected {len(filters.weights)} lines along axis {axis}, one a filter, got {n_lines}; "
            "pass a volume of the size for which the filters were made"
        )
    library = library_of(x=x)
    out: Float32 = library.empty((*x.shape[:axis], filters.n_out, *x.shape[axis + 1 :]), np.float32)
    native, context = native_of(library)
    native.filter_lines(x, *filters.beside(x, library), axis, out, context)
    return out
