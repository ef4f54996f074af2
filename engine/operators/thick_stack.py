"""What one stack of thick slices, anywhere in the world, sees of a volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import interpolate
from scipy.optimize import linear_sum_assignment

import kernels
from engine.operators.shears import Resampling
from engine.operators.thick_slices import profile_between
from kernels import Bands
from kernels.arrays import library_of

#: Voxels by which the pixels of a whole row may miss those of the grid and still be them.
_DRIFT = 0.02
#: Cosine of the angle between axes below which they count as perpendicular; shears take account of what is left.
_SKEWED = 0.05
#: A sample whose profile lies within the volume sums up weights of one, up to what filters leave.
_OUTSIDE = 0.02

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class StackGeometry:
    """Where the samples of a stack lie in a volume.

    Parameters
    ----------
    shape : (int, int, int)
        Of the stack's array.
    to_grid : float64 (4, 4)
        Indices of samples to those of voxels, which are cubic.
    slice_axis : int
        The axis of the array from slice to slice.
    thickness : float
        In voxels.
    profile : str
        "box", or "gaussian" of that full width at half maximum.
    """

    shape: Shape
    to_grid: np.ndarray
    slice_axis: int
    thickness: float
    profile: str = "box"

    @property
    def pitch(self) -> np.ndarray:
        """Voxels from sample to sample along each axis, float64 (3,)."""
        return np.asarray(np.linalg.norm(self.to_grid[:3, :3], axis=0))

    @property
    def middle(self) -> np.ndarray:
        """Of its samples in the volume, float64 (4,), the last one 1."""
        return self.to_grid @ np.array([*((np.asarray(self.shape) - 1) / 2), 1.0])

    @property
    def directions(self) -> np.ndarray:
        """Unit vectors along the axes as columns, float64 (3, 3), scaled to a determinant of 1 or −1.

        Raises
        ------
        ValueError
            Axes that are not perpendicular.
        """
        unit = self.to_grid[:3, :3] / self.pitch
        if np.abs(unit.T @ unit - np.eye(3)).max() > _SKEWED:
            raise ValueError(
                "to_grid: expected perpendicular axes, got skewed ones; resample the stack onto straight ones"
            )
        return np.asarray(unit / np.cbrt(abs(np.linalg.det(unit))))


class ThickStack:
    """Thick slices of a volume in any place and direction: turned onto the stack's axes, then summed up along each.

    Along the slices the weights are those of the profile; within a slice a pixel is the mean over its square, or just
    the voxel where pixels are as wide as voxels.

    Parameters
    ----------
    grid_shape : (int, int, int)
        Of the volume.
    geometry : StackGeometry

    Raises
    ------
    ValueError
        Axes that are not perpendicular, or a stack that sees nothing of the volume.
    """

    def __init__(self, grid_shape: Shape, geometry: StackGeometry):
        self.grid_shape, self.geometry, self.data_shape = grid_shape, geometry, geometry.shape
        directions, pitch = geometry.directions, geometry.pitch
        # Cells of the stack's own axes, as wide as voxels: cell j of an axis has its centre at start + j.
        axes = [_Axis.of(axis, geometry, float(pitch[axis])) for axis in range(3)]
        # Every axis runs nearest to one of the grid, with or against it; the rest is a small rotation.
        _, along = linear_sum_assignment(-np.abs(directions.T))
        signs = np.sign(directions[along, range(3)])
        turn = np.zeros((3, 3))
        turn[along, range(3)] = signs
        start = np.array([axis.start for axis in axes])
        origin = geometry.to_grid[:3, 3] + directions @ start
        box = [(0, 0)] * 3
        for axis, grid_axis, sign in zip(axes, along, signs, strict=True):
            box[grid_axis] = (0, axis.n_cells) if sign > 0 else (1 - axis.n_cells, 1)
        self._resampling = Resampling(grid_shape, directions @ turn.T, origin, tuple(box))
        self._along = tuple(int(axis) for axis in along)
        self._places, self._bands, self._splines = [], [], []
        for axis, grid_axis, sign in zip(axes, along, signs, strict=True):
            low, high = self._resampling.box[grid_axis]
            cells = np.arange(low, high) if sign > 0 else -np.arange(low, high)
            # In the order of the resampled volume's axis.
            self._bands.append(None if axis.weights is None else Bands(axis.weights[:, cells]))
            self._splines.append(None if axis.spline is None else Bands(axis.spline[cells]))
            first, last = int(cells.min()), int(cells.max()) + 1
            self._places.append(slice(first, last) if axis.weights is None else slice(None))
        self._flips = tuple(
            slice(None, None, -1 if sign < 0 and band is None else 1)
            for sign, band in zip(signs, self._bands, strict=True)
        )

    @property
    def is_aligned(self) -> bool:
        """Whether no voxel is interpolated."""
        return self._resampling.is_copy

    def apply(self, x: Any) -> Any:
        """The stack's samples of a volume, float32 of `grid_shape` to float32 of `data_shape`."""
        library = library_of(x=x)
        turned = self._summed(self._resampling.apply(x, library), self._bands)
        # In the order of the stack's axes, and in their direction.
        turned = turned.transpose(self._along)[self._flips]
        if turned.shape == self.data_shape:
            return library.ascontiguousarray(turned)
        y = library.zeros(self.data_shape, np.float32)
        y[tuple(self._places)] = turned
        return y

    def adjoint(self, y: Any) -> Any:
        """The transpose."""
        return self._back(y, [None if band is None else band.transposed for band in self._bands])

    def spread(self, y: Any) -> Any:
        """Samples by cubic splines on the volume's grid, zero where the stack has none; float32 of `grid_shape`."""
        return self._back(y, self._splines)

    @cached_property
    def is_inside(self) -> np.ndarray:
        """Which samples see nothing outside of the volume, bool of `data_shape`."""
        seen: np.ndarray = self.apply(np.ones(self.grid_shape, np.float32))
        return np.abs(seen - 1) < _OUTSIDE

    def _back(self, y: Any, bands: list[Bands | None]) -> Any:
        library = library_of(y=y)
        turned = y[tuple(self._places)][self._flips].transpose(np.argsort(self._along))
        return self._resampling.adjoint(self._summed(library.ascontiguousarray(turned), bands), library)

    def _summed(self, x: Any, bands: list[Bands | None]) -> Any:
        """Weighted sums along those axes that have bands, shrinking ones first."""
        todo = [(self._along[axis], band) for axis, band in enumerate(bands) if band is not None]
        for grid_axis, band in sorted(todo, key=lambda one: len(one[1].matrix) / one[1].matrix.shape[1]):
            x = summed_along(x, band, grid_axis)
        return x


def summed_along(x: Any, bands: Bands, axis: int) -> Any:
    """`kernels.banded_sum` along any axis of a volume."""
    if axis > 0:
        return kernels.banded_sum(x, bands, axis)
    # All other entries side by side, as the columns of a single slice.
    summed = kernels.banded_sum(x.reshape(1, len(x), -1), bands, 1)
    return summed.reshape(-1, *x.shape[1:])


@dataclass(frozen=True)
class _Axis:
    """Cells along one axis of a stack, and what its samples see of them.

    Parameters
    ----------
    start : float
        Of the centre of the first cell, in voxels from the first sample.
    n_cells : int
    weights : float64 (n_samples, n_cells) or None
        None where samples are cells.
    spline : float64 (n_cells, n_samples) or None
        What cells are between samples.
    """

    start: float
    n_cells: int
    weights: np.ndarray | None = None
    spline: np.ndarray | None = None

    @classmethod
    def of(cls, axis: int, geometry: StackGeometry, pitch: float) -> _Axis:
        n = geometry.shape[axis]
        is_through = axis == geometry.slice_axis
        if not is_through and abs(pitch - 1) * n < _DRIFT:
            return cls(0.0, n)
        # Whole cells over all of the field of view, which begins half a pitch before the first sample.
        n_cells = max(1, int(np.ceil(n * pitch - _DRIFT)))
        centres = (np.arange(n) + 0.5) * pitch
        width, profile = (geometry.thickness, geometry.profile) if is_through else (pitch, "box")
        weights = _centred(profile_between(centres, n_cells, width, profile), centres)
        cells = np.arange(n_cells) + 0.5
        return cls(0.5 - 0.5 * pitch, n_cells, weights, _splines(centres, cells))


def _centred(weights: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Weights of whole cells, moved by a part of one where an edge lies within a cell: their middle is the sample's."""
    centres = centres - 0.5
    off = (centres - weights @ np.arange(weights.shape[1]))[:, None]
    # There is nothing before the first cell, nor after the last one.
    off[(weights[:, 0] > 0) & (off[:, 0] < 0) | (weights[:, -1] > 0) & (off[:, 0] > 0)] = 0
    before, after = np.roll(weights, -1, axis=1), np.roll(weights, 1, axis=1)
    return weights + np.abs(off) * (np.where(off > 0, after, before) - weights)


def _splines(centres: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Cubic splines of unit samples, constant beyond the first and the last one, float64 (n_cells, n_samples)."""
    if len(centres) < 2:
        return np.ones((len(cells), len(centres)))
    degree = min(3, len(centres) - 1)
    of_units: Callable[[np.ndarray], np.ndarray] = interpolate.make_interp_spline(centres, np.eye(len(centres)), degree)
    return np.asarray(of_units(cells.clip(centres[0], centres[-1])))
