"""The geometry of a cone beam: a source and a flat detector that turn about an axis along the slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from kernels.checks import check_integer
from kernels.geometry import (
    LARGEST_DETECTOR,
    LARGEST_IMAGE,
    FanGeometry,
    Float64,
    bin_positions,
    check_angles,
    check_number,
    check_spacing,
)


@dataclass(frozen=True, init=False)
class ConeGeometry:
    """A circular scan; immutable.

    Slice, row and column of a voxel's centre are whole numbers; the axis of rotation runs along the slices, through the
    middle of rows and columns, and the source turns at the height of the middle slice. At angle θ the source lies at
    −source_distance (cos θ, sin θ) in (row, column) from the axis, and bins count along (−sin θ, cos θ), as those of
    `FanGeometry`; lines of the detector count as slices do. Lengths are in voxels, which are cubes.

    Parameters
    ----------
    shape : (int, int, int)
        Slices, rows and columns of the volume, 1 ... 32768 each.
    angles_rad : sequence of float
        Of each view.
    source_distance : float
        From source to axis; the source must stay outside the volume by more than two voxels.
    detector_distance : float
        From axis to detector, at least 0.
    n_lines, n_bins : int
        Of the detector.
    line_spacing, bin_spacing : float
        Distances of neighbouring lines and bins on the detector, above 0.
    line_offset, bin_offset : float
        Where the middle of the detector lies, from the point opposite the source.

    Raises
    ------
    TypeError
        A size that is no integer.
    ValueError
        An argument out of range; an angle that is not finite.
    """

    shape: tuple[int, int, int]
    angles_rad: tuple[float, ...]
    source_distance: float
    detector_distance: float
    n_lines: int
    n_bins: int
    line_spacing: float
    bin_spacing: float
    line_offset: float
    bin_offset: float

    def __init__(
        self,
        shape: tuple[int, int, int],
        angles_rad: Sequence[float] | Float64,
        source_distance: float,
        detector_distance: float,
        n_lines: int,
        n_bins: int,
        line_spacing: float = 1.0,
        bin_spacing: float = 1.0,
        line_offset: float = 0.0,
        bin_offset: float = 0.0,
    ) -> None:
        if np.ndim(shape) != 1 or len(shape) != 3:
            raise ValueError(f"shape: expected (n_slices, n_rows, n_columns), got {shape}; give three sides")
        slices, rows, columns = (check_integer("shape", side, 1, LARGEST_IMAGE + 1) for side in shape)
        # Distances and bins have the limits of a fan's.
        fan = FanGeometry(
            (rows, columns), angles_rad, source_distance, detector_distance, n_bins, bin_spacing, bin_offset
        )
        object.__setattr__(self, "shape", (slices, rows, columns))
        object.__setattr__(self, "angles_rad", check_angles(angles_rad))
        object.__setattr__(self, "source_distance", fan.source_distance)
        object.__setattr__(self, "detector_distance", fan.detector_distance)
        object.__setattr__(self, "n_lines", check_integer("n_lines", n_lines, 1, LARGEST_DETECTOR + 1))
        object.__setattr__(self, "n_bins", fan.n_bins)
        shrinking = fan.source_distance / fan.source_to_detector
        object.__setattr__(self, "line_spacing", check_spacing(line_spacing, shrinking, "line_spacing"))
        object.__setattr__(self, "bin_spacing", fan.bin_spacing)
        object.__setattr__(self, "line_offset", check_number("line_offset", line_offset))
        object.__setattr__(self, "bin_offset", fan.bin_offset)

    @property
    def n_views(self) -> int:
        """Number of angles."""
        return len(self.angles_rad)

    @property
    def data_shape(self) -> tuple[int, int, int]:
        """Views, lines and bins of the projections."""
        return self.n_views, self.n_lines, self.n_bins

    @property
    def source_to_detector(self) -> float:
        """Distance along the central ray."""
        return self.source_distance + self.detector_distance

    @property
    def bins(self) -> Float64:
        """Places of the bins on the detector, float64 (n_bins,)."""
        return bin_positions(self.n_bins, self.bin_spacing, self.bin_offset)

    @property
    def lines(self) -> Float64:
        """Places of the lines on the detector, float64 (n_lines,)."""
        return bin_positions(self.n_lines, self.line_spacing, self.line_offset)

    @cached_property
    def fan(self) -> FanGeometry:
        """The fan of rays at the source's height."""
        return FanGeometry(
            *(self.shape[1:], self.angles_rad, self.source_distance, self.detector_distance),
            *(self.n_bins, self.bin_spacing, self.bin_offset),
        )

    @cached_property
    def numbers(self) -> tuple[float, ...]:
        """What native projections take beside the angles (src/bind_cone.cpp)."""
        centre = tuple((side - 1) / 2 for side in self.shape)
        spacings = self.bin_spacing, self.bin_offset, self.line_spacing, self.line_offset
        return (*centre, self.source_distance, self.detector_distance, *spacings)

    def tables(self, library: ModuleType) -> tuple[Any, tuple[float, ...]]:
        """Return what native code needs, on the host or on CuPy's current device."""
        return library.asarray(self.fan.cos_sin), self.numbers

    def rays_of(self, view: int) -> tuple[Float64, Float64]:
        """Return the source and the directions of every ray of a view.

        Returns
        -------
        source : float64 (3,)
            Slice, row and column.
        directions : float64 (n_lines, n_bins, 3)
            Unit vectors, away from the source.
        """
        cosine, sine = math.cos(self.angles_rad[view]), math.sin(self.angles_rad[view])
        middle, row, column = self.numbers[:3]
        source = np.array([middle, row - self.source_distance * cosine, column - self.source_distance * sine])
        directions = np.empty((self.n_lines, self.n_bins, 3))
        directions[..., 0] = self.lines[:, None]
        directions[..., 1] = self.source_to_detector * cosine - self.bins * sine
        directions[..., 2] = self.source_to_detector * sine + self.bins * cosine
        return source, directions / np.linalg.norm(directions, axis=-1, keepdims=True)
