"""The geometry of a scan: where the rays of every view and bin run through an image."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from kernels.checks import check_integer

#: Largest side of an image and largest number of bins: native code indexes with 32 bits.
LARGEST_IMAGE, LARGEST_DETECTOR = 32768, 1 << 20
#: Smallest and largest distance of neighbouring rays in pixels. Native code knows distances near a pixel up to a
#: multiple of eight pixels, and places on the detector in single precision.
NARROWEST_SPACING, WIDEST_SPACING = 1e-4, 32.0
#: Largest distance of a ray from the centre of rotation: positions are 64-bit integers in units of 2^-29 pixel.
FARTHEST_RAY = float(1 << 31)
#: Positions are integers in units of 2^-29 pixel (kernels/src/ray.h).
_FRACTION = 1 << 29

_Array = TypeVar("_Array", bound=npt.NDArray[Any])
Float64 = npt.NDArray[np.float64]
#: What native projections take of a geometry: origins, their low words, steps, cos_sin, shadows, the scan's numbers.
Tables = tuple[Any, Any, Any, Any, Any, tuple[float, ...]]


@dataclass(frozen=True)
class Geometry(ABC):
    """A set of rays, one for each view and bin, each a row of samples one pixel apart; immutable.

    An image's row index grows downwards, its column index to the right, and pixel centres lie at whole numbers. At
    angle θ the detector axis points along (−sin θ, cos θ) in (row, column): counter-clockwise from the column axis as
    the image is shown, row 0 on top. Sample i of a ray lies i − (n_samples − 1)/2 pixels beyond the ray's point nearest
    to the centre of rotation. Lengths are in pixels.
    """

    angles_rad: tuple[float, ...]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the image."""

    @property
    @abstractmethod
    def n_bins(self) -> int:
        """Detector bins of a view."""

    @property
    @abstractmethod
    def n_samples(self) -> int:
        """Samples on a ray, of which those outside the image count as zero."""

    @property
    @abstractmethod
    def centre(self) -> tuple[float, float]:
        """Row and column of the centre of rotation."""

    @abstractmethod
    def rays_of(self, angle_rad: float) -> tuple[Float64, Float64]:
        """Return every bin's ray at one angle.

        Returns
        -------
        feet : float64 (n_bins, 2)
            Row and column of the ray's point nearest to the centre of rotation.
        directions : float64 (n_bins, 2)
            Unit vectors, away from the source.
        """

    @property
    @abstractmethod
    def shadow(self) -> tuple[float, float, float, float]:
        """How points map to bins: 1 / source distance, bins per pixel, bins per radian, middle bin (src/ray.h)."""

    @property
    def n_views(self) -> int:
        """Number of angles."""
        return len(self.angles_rad)

    @cached_property
    def cos_sin(self) -> Float64:
        """Cosine and sine of every angle, float64 (n_views, 2), read-only."""
        return _read_only(np.stack([np.cos(self.angles_rad), np.sin(self.angles_rad)], axis=1))

    @cached_property
    def _host_tables(self) -> Tables:
        origins = np.empty((2, self.n_views, self.n_bins), np.int64)
        steps = np.empty((2, self.n_views, self.n_bins), np.int32)
        middle = (self.n_samples - 1) / 2
        for view, angle_rad in enumerate(self.angles_rad):
            feet, directions = self.rays_of(angle_rad)
            steps[:, view] = np.rint(directions.T * _FRACTION)
            # From the rounded step: its error is then zero in the middle of the ray, and smallest at both ends.
            origins[:, view] = np.rint(feet.T * _FRACTION - middle * steps[:, view])
        numbers = (float(self.n_samples), *self.centre, *self.shadow)
        lows = np.ascontiguousarray(origins & 0xFFFFFFFF).astype(np.uint32)
        shadows = np.column_stack([self.cos_sin, np.abs(self.cos_sin).sum(axis=1) * self.shadow[1]]).astype(np.float32)
        return _read_only(origins), _read_only(lows), _read_only(steps), self.cos_sin, _read_only(shadows), numbers

    @cached_property
    def _device_tables(self) -> dict[int, Tables]:
        return {}

    def tables(self, library: ModuleType) -> Tables:
        """Return what native code needs, on the host or on CuPy's current device; made once."""
        if library is np:
            return self._host_tables
        device = int(library.cuda.runtime.getDevice())
        if device not in self._device_tables:
            origins, lows, steps, cos_sin, shadows = (library.asarray(array) for array in self._host_tables[:-1])
            # Other streams will use them too.
            library.cuda.get_current_stream().synchronize()
            self._device_tables[device] = origins, lows, steps, cos_sin, shadows, self._host_tables[-1]
        return self._device_tables[device]


@dataclass(frozen=True, init=False)
class ParallelGeometry(Geometry):
    """A parallel beam in the discretisation of the published method: square images, bins one pixel apart.

    The image lies in an m x m lattice, m = ceil(sqrt(2) n), so that its pixel n // 2 falls on the lattice's pixel
    (n + pad) // 2, where pad = m - n. Lattice and detector share their centre, (m - 1) / 2, which is the centre of
    rotation: where pad is odd, the image is half a pixel off it. A detector of other bins, spacing or offset keeps that
    lattice's samples along the rays.

    Parameters
    ----------
    n : int
        Rows and columns of the image, 1 ... 32768.
    angles_rad : sequence of float
        Direction of the detector axis of each view, in radians, counter-clockwise from the column axis in an image with
        row 0 on top. Stored as a tuple of Python floats.
    n_bins : int or None
        Detector bins, 1 ... 2^20; None: m.
    bin_spacing : float
        Distance of neighbouring bins in pixels, above 0.
    bin_offset : float
        Where the middle of the detector lies on its axis, in pixels from the centre of rotation.

    Raises
    ------
    TypeError
        `n` or `n_bins` is not an integer.
    ValueError
        An argument out of range; an angle that is not finite.
    """

    n: int
    bins: int
    bin_spacing: float
    bin_offset: float

    def __init__(
        self,
        n: int,
        angles_rad: Sequence[float] | Float64,
        n_bins: int | None = None,
        bin_spacing: float = 1.0,
        bin_offset: float = 0.0,
    ) -> None:
        object.__setattr__(self, "n", check_integer("n", n, 1, LARGEST_IMAGE + 1))
        object.__setattr__(self, "angles_rad", check_angles(angles_rad))
        bins = self.n_samples if n_bins is None else check_integer("n_bins", n_bins, 1, LARGEST_DETECTOR + 1)
        object.__setattr__(self, "bins", bins)
        object.__setattr__(self, "bin_spacing", check_spacing(bin_spacing, 1.0))
        object.__setattr__(self, "bin_offset", check_offset(bin_offset))

    @classmethod
    def from_views(cls, n: int, n_views: int) -> ParallelGeometry:
        """Spread `n_views` angles evenly over [0, 180) degrees, the first at 0."""
        n_views = check_integer("n_views", n_views, 0, 1 << 20)
        return cls(n, np.deg2rad(np.linspace(0.0, 180.0, n_views, endpoint=False)))

    @property
    def shape(self) -> tuple[int, int]:
        return self.n, self.n

    @property
    def n_bins(self) -> int:
        return self.bins

    @property
    def n_samples(self) -> int:
        """The lattice's side m = ceil(sqrt(2) n), in integers: sqrt(2) n is never a whole number."""
        return math.isqrt(2 * self.n * self.n) + 1

    @property
    def pad_before(self) -> int:
        """Lattice rows above the image, and columns left of it."""
        pad = self.n_samples - self.n
        return (self.n + pad) // 2 - self.n // 2

    @property
    def centre(self) -> tuple[float, float]:
        middle = (self.n_samples - 1) / 2 - self.pad_before
        return middle, middle

    @property
    def shadow(self) -> tuple[float, float, float, float]:
        return 0.0, 1 / self.bin_spacing, 0.0, (self.n_bins - 1) / 2 - self.bin_offset / self.bin_spacing

    def rays_of(self, angle_rad: float) -> tuple[Float64, Float64]:
        cosine, sine = math.cos(angle_rad), math.sin(angle_rad)
        s = bin_positions(self.n_bins, self.bin_spacing, self.bin_offset)
        feet = np.add(self.centre, s[:, None] * [-sine, cosine])
        return feet, np.broadcast_to([cosine, sine], feet.shape)


@dataclass(frozen=True, init=False)
class FanGeometry(Geometry):
    """A fan beam from a point source, on a flat or a curved detector opposite; they turn about the image's centre.

    At angle 0 the source lies above the image (towards row 0) and the detector below it.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the image, 1 ... 32768 each.
    angles_rad : sequence of float
        Direction of the detector axis of each view, in radians, counter-clockwise from the column axis.
    source_distance : float
        From source to centre of rotation, in pixels; the source must stay outside the image by more than two pixels.
    detector_distance : float
        From centre of rotation to the detector's middle, in pixels, at least 0.
    n_bins : int
        Detector bins, 1 ... 2^20.
    bin_spacing : float
        Distance of neighbouring bins on the detector, in pixels, above 0; along the arc if it is curved.
    bin_offset : float
        Where the middle of the detector lies on its axis (or arc), in pixels from the ray through the centre.
    curved : bool
        The detector is an arc about the source, its bins at equal angles; otherwise a straight line.

    Raises
    ------
    TypeError
        A size is not an integer.
    ValueError
        An argument out of range; an angle that is not finite.
    """

    sides: tuple[int, int]
    source_distance: float
    detector_distance: float
    bins: int
    bin_spacing: float
    bin_offset: float
    curved: bool

    def __init__(
        self,
        shape: tuple[int, int],
        angles_rad: Sequence[float] | Float64,
        source_distance: float,
        detector_distance: float,
        n_bins: int,
        bin_spacing: float = 1.0,
        bin_offset: float = 0.0,
        curved: bool = False,
    ) -> None:
        if np.ndim(shape) != 1 or len(shape) != 2:
            raise ValueError(f"shape: expected (n_rows, n_columns), got {shape}; give rows and columns")
        rows, columns = (check_integer("shape", side, 1, LARGEST_IMAGE + 1) for side in shape)
        object.__setattr__(self, "sides", (rows, columns))
        object.__setattr__(self, "angles_rad", check_angles(angles_rad))
        source_distance = check_number("source_distance", source_distance, positive=True)
        nearest = math.hypot(rows, columns) / 2 + 2
        if source_distance <= nearest:
            raise ValueError(
                f"source_distance: expected more than {nearest:g} pixels, outside the image, got {source_distance:g}; "
                "give the distance from source to centre of rotation in pixels"
            )
        detector_distance = check_number("detector_distance", detector_distance)
        if detector_distance < 0:
            raise ValueError(
                f"detector_distance: expected at least 0 pixels, got {detector_distance:g}; give the distance from "
                "centre of rotation to detector"
            )
        object.__setattr__(self, "source_distance", source_distance)
        object.__setattr__(self, "detector_distance", detector_distance)
        object.__setattr__(self, "bins", check_integer("n_bins", n_bins, 1, LARGEST_DETECTOR + 1))
        object.__setattr__(self, "bin_spacing", check_spacing(bin_spacing, source_distance / self.source_to_detector))
        object.__setattr__(self, "bin_offset", check_offset(bin_offset, source_distance))
        object.__setattr__(self, "curved", bool(curved))
        reach = (self.n_bins * self.bin_spacing / 2 + abs(self.bin_offset)) / self.source_to_detector
        if self.curved and reach >= math.pi / 2:
            raise ValueError(
                "n_bins: expected a curved detector of less than half a turn, got "
                f"{2 * math.degrees(reach):.0f} degrees; check bin_spacing and the distances, all in pixels"
            )

    @property
    def shape(self) -> tuple[int, int]:
        return self.sides

    @property
    def n_bins(self) -> int:
        return self.bins

    @property
    def n_samples(self) -> int:
        """Enough to cross the image's diagonal."""
        rows, columns = self.sides
        return math.isqrt(rows * rows + columns * columns) + 3

    @property
    def centre(self) -> tuple[float, float]:
        rows, columns = self.sides
        return (rows - 1) / 2, (columns - 1) / 2

    @property
    def source_to_detector(self) -> float:
        """Distance in pixels, along the ray through the centre of rotation."""
        return self.source_distance + self.detector_distance

    @property
    def bin_angles_rad(self) -> Float64:
        """Angle of each bin's ray from the ray through the centre of rotation, float64 (n_bins,)."""
        along = bin_positions(self.n_bins, self.bin_spacing, self.bin_offset) / self.source_to_detector
        return np.asarray(along if self.curved else np.arctan(along))

    @property
    def shadow(self) -> tuple[float, float, float, float]:
        magnification = self.source_to_detector / self.source_distance
        per_radian = self.source_to_detector / self.bin_spacing if self.curved else 0.0
        middle = (self.n_bins - 1) / 2 - self.bin_offset / self.bin_spacing
        return 1 / self.source_distance, magnification / self.bin_spacing, per_radian, middle

    def rays_of(self, angle_rad: float) -> tuple[Float64, Float64]:
        gamma = self.bin_angles_rad
        # The ray leaves the source at angle gamma from the central one, and passes the centre at D sin(gamma).
        turned = angle_rad + gamma
        directions = np.stack([np.cos(turned), np.sin(turned)], axis=1)
        normals = np.stack([-directions[:, 1], directions[:, 0]], axis=1)
        feet = np.add(self.centre, (self.source_distance * np.sin(gamma))[:, None] * normals)
        return feet, directions


def bin_positions(n_bins: int, spacing: float, offset: float) -> Float64:
    """Where the bins lie on the detector's axis, in pixels from the ray through the centre of rotation."""
    return np.asarray((np.arange(n_bins) - (n_bins - 1) / 2) * spacing + offset, dtype=np.float64)


def check_angles(angles_rad: Sequence[float] | Float64) -> tuple[float, ...]:
    """Return angles as Python floats; raise ValueError unless they are a flat list of finite numbers."""
    try:
        angles = np.asarray(angles_rad, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"angles_rad: expected (n_views,) numbers, got {angles_rad!r:.60}; pass a flat list") from None
    if angles.ndim != 1 or not np.isfinite(angles).all():
        raise ValueError(f"angles_rad: expected (n_views,) finite angles, got {angles.shape}; pass a flat list")
    return tuple(angles.tolist())


def check_number(name: str, value: float, positive: bool = False) -> float:
    """Return `value` as float; raise ValueError unless it is finite and, if asked for, positive."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number of pixels, got {type(value).__name__}; pass a float") from None
    if not math.isfinite(number) or (positive and number <= 0):
        kind = "a positive" if positive else "a finite"
        raise ValueError(f"{name}: expected {kind} number of pixels, got {value}; choose another")
    return number


def check_spacing(spacing: float, shrinking: float, name: str = "bin_spacing") -> float:
    """Return a spacing as float; raise ValueError unless rays are at a sensible distance at the centre."""
    number = check_number(name, spacing, positive=True)
    if not NARROWEST_SPACING <= number * shrinking <= WIDEST_SPACING:
        raise ValueError(
            f"{name}: expected {NARROWEST_SPACING / shrinking:g} to {WIDEST_SPACING / shrinking:g} pixels, "
            f"got {number:g}; give it in pixels of the image"
        )
    return number


def check_offset(bin_offset: float, source_distance: float | None = None) -> float:
    """Return `bin_offset` as float; raise ValueError unless it is finite and within 2^31 pixels."""
    number = check_number("bin_offset", bin_offset)
    if max(abs(number), source_distance or 0.0) > FARTHEST_RAY:
        raise ValueError(
            f"bin_offset: expected a ray within {FARTHEST_RAY:g} pixels, got {number:g} from a source at "
            f"{source_distance or math.inf:g}; give lengths in pixels"
        )
    return number


def _read_only(array: _Array) -> _Array:
    array.flags.writeable = False
    return array
