"""Averages over blocks of thin slices: a clinical scan with thick slices."""

from __future__ import annotations

from functools import cached_property
from typing import Any, final

import numpy as np
from scipy import ndimage
from scipy.special import erf

import kernels
from engine.operators.data_fidelity import squared_norms
from engine.operators.linear_operator import LinearOperator
from engine.operators.proximal import Nearest, Proximal
from kernels.arrays import library_of

PROFILES = ("box", "gaussian")
#: A Gaussian profile is cut this many full widths from its centre, where it has fallen to 1/500 of its peak.
_CUT = 1.5


class ThickSlices(LinearOperator):
    """What thick slices, one every `factor` rows or columns, see of every slice of the stack.

    The centres of thick slices are those of their blocks of `factor` thin ones; a rest that fills no block has none. A
    thin slice's weight is the part of the profile that lies over it, and the weights of a thick slice sum to one, also
    where the profile reaches beyond the end of the volume: constants stay constant.

    Parameters
    ----------
    slice_shape : (int, int)
    factor : int
        Thin slices from one thick one to the next.
    axis : 1 or 2
        The axis of the stack (n, row, column) along which the blocks lie.
    profile : str
        "box": equal weight over the thickness. "gaussian": full width at half maximum equal to the thickness; it
        reaches into neighbouring blocks, and is cut 1.5 widths from the centre.
    gap : float
        Thin slices, or parts of them, between the end of one thickness and the start of the next, at least 0 and
        less than `factor`: the thickness is factor − gap.

    Attributes
    ----------
    factor, axis, profile, gap
    n_covered : int
        Rows or columns in blocks.

    Raises
    ------
    ValueError
        A value out of range.
    """

    def __init__(self, slice_shape: tuple[int, int], factor: int, axis: int, profile: str = "box", gap: float = 0.0):
        if axis not in (1, 2):
            raise ValueError(f"axis: expected 1 or 2, got {axis}; thick slices lie along rows or columns")
        n = slice_shape[axis - 1]
        if not (isinstance(factor, (int, np.integer)) and 1 <= factor <= n):
            raise ValueError(f"factor: expected an integer, 1 to {n}, got {factor}; a block cannot exceed the slice")
        if profile not in PROFILES:
            raise ValueError(f"profile: expected box or gaussian, got {profile!r}; choose one")
        if not 0 <= gap < factor:
            raise ValueError(f"gap: expected 0 to less than {factor}, got {gap}; it is a part of the factor")
        n_blocks = n // factor
        data_shape = (n_blocks, slice_shape[1]) if axis == 1 else (slice_shape[0], n_blocks)
        super().__init__(slice_shape, data_shape, np.float32)
        self.factor, self.axis, self.profile, self.gap = factor, axis, profile, float(gap)
        self.n_covered = n_blocks * factor
        self._bands = kernels.Bands(profile_weights(n, factor, profile, self.gap))

    @property
    def matrix(self) -> np.ndarray:
        """float32 (n_blocks, n): weights of thin slices in thick ones."""
        return self._bands.matrix

    @property
    def is_block_mean(self) -> bool:
        """Whether thick slices are the means of their blocks: a box without a gap."""
        return self.profile == "box" and self.gap == 0

    @property
    def data_axes(self) -> tuple[str, ...]:
        return ("thick slices", "columns") if self.axis == 1 else ("rows", "thick slices")

    def _apply(self, x: Any) -> Any:
        return kernels.banded_sum(x, self._bands, self.axis)

    def _adjoint(self, y: Any) -> Any:
        return kernels.banded_sum(y, self._bands.transposed, self.axis)

    def _classical(self, y: Any) -> Any:
        """Cubic splines through the centres of thick slices, constant beyond the first and the last one."""
        library = library_of(y=y)
        spline = library.asarray(self._spline)
        along = library.moveaxis(y, self.axis, -1) @ spline.T
        return library.ascontiguousarray(library.moveaxis(along, -1, self.axis))

    @cached_property
    def _spline(self) -> np.ndarray:
        """float32 (n, n_blocks): the splines of unit thick slices."""
        n, n_blocks = self.slice_shape[self.axis - 1], self.n_covered // self.factor
        units = np.eye(n_blocks, dtype=np.float32)
        # On this grid voxels are cells: the centre of the first thick slice lies (factor − 1)/2 inside.
        splines = ndimage.zoom(units, (self.factor, 1), order=3, mode="nearest", grid_mode=True)
        return np.pad(splines, ((0, n - self.n_covered), (0, 0)), mode="edge")

    def repeated(self, y: Any) -> Any:
        """Every thick slice repeated `factor` times, and zeros where there is none.

        Parameters
        ----------
        y : float32 (n, *data_shape)

        Returns
        -------
        float32 (n, n_rows, n_columns)

        Raises
        ------
        TypeError, ValueError
            As `apply`.
        """
        library = self.check_data("y", y)
        n = self.slice_shape[self.axis - 1]
        rest = [(0, 0)] * 3
        rest[self.axis] = (0, n - self.n_covered)
        return library.pad(y.repeat(self.factor, axis=self.axis), rest)

    def proximal(self, measurement: Any) -> Proximal:
        return _InverseGram(self, measurement)

    @property
    def first_entries(self) -> tuple[slice, slice, slice]:
        """The entries of a stack that are the first column (or row) of a block; of shape (n, *data_shape)."""
        every = slice(0, self.n_covered, self.factor)
        return (slice(None), every, slice(None)) if self.axis == 1 else (slice(None), slice(None), every)


@final
class _InverseGram(Proximal):
    """x = z − Aᵀ(A Aᵀ + ρ)⁻¹(A z − y): A Aᵀ is a small matrix, with one row a thick slice."""

    def __init__(self, operator: ThickSlices, measurement: Any):
        super().__init__(operator, measurement)
        matrix = operator.matrix.astype(np.float64)
        self._axis, self._gram = operator.axis, matrix @ matrix.T

    def _nearest(self, z: Any, rho: float) -> Nearest:
        residual = self.operator.apply(z)
        residual -= self.measurement
        squared = squared_norms(residual)
        # The pseudo-inverse, because a profile may see no more than another does.
        inverse = np.linalg.pinv(self._gram + rho * np.eye(len(self._gram)), hermitian=True)
        along = self.library.moveaxis(residual, self._axis, -1) @ self.library.asarray(inverse, np.float32)
        return z - self.operator.adjoint(self.library.moveaxis(along, -1, self._axis)), squared


def profile_weights(n: int, factor: int, profile: str, gap: float) -> np.ndarray:
    """Weights of thin slices in thick ones, float64 (n // factor, n), each row summing to one."""
    return profile_between((np.arange(n // factor) + 0.5) * factor, n, factor - gap, profile)


def profile_between(centres: np.ndarray, n: int, thickness: float, profile: str) -> np.ndarray:
    """Weights of n thin slices, of which number j covers j … j + 1, in thick ones with these centres.

    Parameters
    ----------
    centres : float64 (n_thick,)
    n : int
    thickness : float
        In thin slices; less than one sees those that it lies in.
    profile : str
        "box" or "gaussian".

    Returns
    -------
    float64 (n_thick, n)
        Each row sums to one, also where the profile reaches beyond the thin slices.
    """
    # Their edges, from the centre of every thick slice.
    edges = np.arange(n + 1) - centres[:, None]
    if profile == "box":
        below = edges.clip(-thickness / 2, thickness / 2)
    else:
        cut = _CUT * thickness
        below = erf(2 * np.sqrt(np.log(2)) * edges.clip(-cut, cut) / thickness)
    weights = np.diff(below, axis=1)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
