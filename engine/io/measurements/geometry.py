"""The geometry of a CT scan as JSON: beam, angles, detector, and the image that is to be reconstructed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import kernels
from engine.errors import InputError
from engine.io.files import replacing
from engine.io.measurements.geometry_fields import (
    LEAST_MM,
    choice,
    fields_of,
    integer,
    length,
    number,
    pair,
    refuse_beside,
    required,
    shown,
    vector,
    wrong,
)
from engine.io.orientation import Orientation, directions_of
from engine.operators.radon import centre_of_rotation
from engine.volume import Plane
from kernels.geometry import LARGEST_DETECTOR

_FAN_KEYS = ("source_distance_mm", "detector_distance_mm", "detector")
_PLACE_KEYS = ("slice_spacing_mm", "origin_mm", "orientation")
_KEYS = (
    *("beam", "angles_deg", "angles_rad", "bins", "bin_spacing_mm", "bin_offset_mm", *_FAN_KEYS),
    *("pixel_mm", "rows", "columns", "size", "rotation_centre_px", "affine", *_PLACE_KEYS),
)
#: Beams whose rays leave the slices, and what to do with such scans.
_OTHER_BEAMS = {
    **dict.fromkeys(("helical", "helix", "spiral"), "rebin it to slices of a fan beam (single-slice rebinning) first"),
    **dict.fromkeys(("cone", "cone_vec", "conebeam"), "give the row of the source's height alone, as a fan beam"),
    "laminography": "its rays cross slices at an angle: reconstruct it with a program for laminography",
}
#: Far more than a detector has.
_MAX_SIDE = 16384
#: Relative error of pixel sizes that were written with few digits, and of right angles.
_SQUARE = 1e-3


@dataclass(frozen=True, eq=False)
class ScanGeometry:
    """Rays through the slices of a canonical volume, and how the scan's own image and bins lie in them.

    Parameters
    ----------
    geometry : kernels.Geometry
        In pixels. For a parallel beam a square that holds the slices, see `engine.operators.Radon`.
    slice_shape : (int, int)
        Rows and columns of a slice.
    plane : Plane
        One of the named ones: how slices are cut from the volume.
    pixel_mm : float
        Side of a pixel.
    image_affine : float64 (4, 4)
        Slice, row and column in the scan's image to mm (right, anterior, superior).
    image_shape : (int, int)
        Rows and columns there.
    slices_reversed, bins_reversed : bool
        Whether slices and bins of the scan count against those of `plane` and `geometry`.
    """

    geometry: kernels.Geometry
    slice_shape: tuple[int, int]
    plane: Plane
    pixel_mm: float
    image_affine: np.ndarray
    image_shape: tuple[int, int]
    slices_reversed: bool
    bins_reversed: bool

    def affine_of(self, n_slices: int) -> np.ndarray:
        """Voxel indices of the volume of that many slices to mm, float64 (4, 4)."""
        return Orientation.of((n_slices, *self.image_shape), self.image_affine).volume_affine


def load_geometry(path: str | Path, n_views: int, n_bins: int) -> ScanGeometry:
    """Read the geometry of a sinogram.

    The file is one JSON object. Where an image is shown with row 0 on top, at angle 0 bins count to the right, as
    columns do, and a fan's source is above; angles turn detector and source counter-clockwise.

    - ``beam``: "parallel" or "fan".
    - ``angles_deg``: one number a view, or {"first": 0, "last_excluded": 180, "count": 36}; or ``angles_rad``, numbers.
    - ``bin_spacing_mm``: between the middles of neighbouring bins; along the arc of a curved detector.
    - ``bin_offset_mm``: where the middle of the detector lies, from the ray through the centre of rotation, positive
      towards the last bin; 0 if left out. ``bins``: their number, only to be checked.
    - ``source_distance_mm``, ``detector_distance_mm``, fan only: from the centre of rotation to each of them.
    - ``detector``, fan only: "flat", or "curved", an arc about the source; flat if left out.
    - ``rows``, ``columns``, or ``size`` for both: of the image to reconstruct. ``pixel_mm``: the side of its pixels.
    - ``rotation_centre_px``: row and column of the centre of rotation, counted from 0; if left out the image's middle.
    - ``slice_spacing_mm``: between the middles of neighbouring slices.
    - ``orientation``: where slices, rows and columns count to, each R or L, A or P, S or I; if left out "SRA", the
      axial plane of a volume. Images as they are usually shown are "SPL" or "IPL".
    - ``origin_mm``: x, y, z (right, anterior, superior) of the first pixel; if left out the first slice's centre of
      rotation lies at 0.
    - ``affine``: 4 × 4, from slice, row, column to mm (right, anterior, superior), instead of the last three.

    Every orientation is brought to a canonical volume's exactly, by other angles, and by counting slices or bins the
    other way round.

    Parameters
    ----------
    path : path
    n_views, n_bins : int
        Of the sinogram.

    Returns
    -------
    ScanGeometry

    Raises
    ------
    InputError
        No such file, no JSON, a key that is unknown, missing, twice there or without sense here, a value that is none,
        another number of views or bins, a centre of rotation that a parallel beam's lattice of samples cannot have,
        pixels that are not square.
    """
    return scan_of(read_fields(path), n_views, n_bins)


def read_fields(path: str | Path) -> dict[str, Any]:
    """Read the keys and values of a geometry's file, of which `scan_of` makes a geometry.

    Raises
    ------
    InputError
        No such file, no JSON, a key that is unknown or twice there.
    """
    return fields_of(Path(path), _KEYS)


def n_angles_of(fields: Mapping[str, Any]) -> int | None:
    """How many angles the fields of a geometry hold; None where that cannot be told."""
    value = fields.get("angles_deg", fields.get("angles_rad"))
    if isinstance(value, dict):
        value = value.get("count")
        return value if isinstance(value, int) else None
    return len(value) if isinstance(value, list) else None


def angles_of(fields: Mapping[str, Any], n_views: int, n_bins: int) -> list[float]:
    """The angles in degrees, one a view.

    Raises
    ------
    InputError
        None, two lists, another number of them, or a value that is none.
    """
    return _angles(dict(fields), n_views, n_bins)


def scan_of(fields: Mapping[str, Any], n_views: int, n_bins: int) -> ScanGeometry:
    """Return the geometry of keys and values as `load_geometry` reads them.

    Raises
    ------
    InputError
        As `load_geometry`.
    """
    fields = dict(fields)
    _refuse_other_beams(fields)
    fan = choice(fields, "beam", ("parallel", "fan")) == "fan"
    if not fan:
        refuse_beside(fields, _FAN_KEYS, "a parallel beam")
    angles_deg = _angles(fields, n_views, n_bins)
    if "bins" in fields and (bins := integer(fields, "bins", LARGEST_DETECTOR)) != n_bins:
        expected = f"bins to be {n_bins} as along the sinogram's last axis (bins)"
        raise wrong(expected, str(bins), "mend bins, or swap the sinogram's axes")
    pixel_mm = length(fields, "pixel_mm")
    if "size" in fields:
        refuse_beside(fields, ("rows", "columns"), "size")
    sides = ("size", "size") if "size" in fields else ("rows", "columns")
    rows, columns = shape = (integer(fields, sides[0], _MAX_SIDE), integer(fields, sides[1], _MAX_SIDE))
    middle = [(rows - 1) / 2, (columns - 1) / 2]
    centre = vector(fields.get("rotation_centre_px", middle), "rotation_centre_px", 2)
    affine = _affine(fields, pixel_mm, centre)

    orientation = Orientation.of((1, *shape), affine)
    # Axes of the volume along which slices, rows and columns of the scan's image run.
    of_slices, of_rows, of_columns = axes = [orientation.order.index(axis) for axis in range(3)]
    plane = Plane((of_slices, min(of_rows, of_columns), max(of_rows, of_columns)))
    slices_reversed, rows_flipped, columns_flipped = (orientation.flipped[axis] for axis in axes)
    # A mirrored image has mirrored rays. What was at angle θ is now where it says, with bins the other way round.
    turns: list[float] = []
    if rows_flipped:
        turns, centre = [*turns, 180.0], (rows - 1 - centre[0], centre[1])
    if columns_flipped:
        turns, centre = [*turns, 0.0], (centre[0], columns - 1 - centre[1])
    if of_rows > of_columns:
        turns, centre, shape = [*turns, 90.0], (centre[1], centre[0]), (columns, rows)
    for turn in turns:
        angles_deg = [turn - angle for angle in angles_deg]
    bins_reversed = len(turns) % 2 == 1
    radians = fields["angles_rad"] if "angles_rad" in fields and not turns else np.deg2rad(angles_deg)
    geometry = _rays(fields, fan, shape, centre, radians, pixel_mm, n_bins, bins_reversed)
    _check_reach(geometry, shape)
    image_shape = (rows, columns)
    return ScanGeometry(geometry, shape, plane, pixel_mm, affine, image_shape, slices_reversed, bins_reversed)


def _check_reach(geometry: kernels.Geometry, shape: tuple[int, int]) -> None:
    """Refuse a detector none of whose rays meets the image."""
    feet, _ = geometry.rays_of(0.0)
    nearest = float(np.linalg.norm(feet - geometry.centre, axis=1).min())
    if nearest > math.hypot(*shape) / 2 + 1:
        got = f"none, the nearest passes {nearest:.3g} pixels from the centre of rotation"
        raise wrong("rays that meet the image", got, "mend bin_offset_mm and bin_spacing_mm, or pass --centre")


def _refuse_other_beams(fields: Mapping[str, Any]) -> None:
    """Name what is no beam of slices, and what to do with it."""
    beam = fields.get("beam")
    if isinstance(beam, str) and beam.lower() in _OTHER_BEAMS:
        expected = "parallel or fan as beam, whose rays stay in a slice"
        raise wrong(expected, shown(beam), _OTHER_BEAMS[beam.lower()])


def save_geometry(
    path: str | Path, geometry: kernels.Geometry, slice_shape: tuple[int, int], plane: Plane, affine: np.ndarray
) -> None:
    """Write the geometry of a scan so that `load_geometry` returns it, lengths up to the last bit.

    Parameters
    ----------
    path : path
    geometry : kernels.Geometry
        In pixels.
    slice_shape : (int, int)
        Rows and columns of a slice.
    plane : Plane
        How slices are cut from the volume.
    affine : float64 (4, 4)
        Voxel indices of the volume to mm; closest to x to the right, y to the front, z to the top.

    Raises
    ------
    InputError
        An affine that lies otherwise; pixels that are not square.
    """
    orientation = Orientation.of((1, 1, 1), affine)
    if orientation.order != (0, 1, 2) or any(orientation.flipped):
        expected = "the affine of a volume whose axes run to the right, the front and the top"
        raise wrong(expected, str(np.round(affine[:3, :3], 3).tolist()), "bring the volume into this order")
    image_affine = np.asarray(affine, np.float64)[:, [*plane.axes, 3]]
    _check_square(image_affine)
    pixel_mm = pixel_mm_of(affine, plane)

    def mm(pixels: float) -> float:
        """A short number of mm that is read as these pixels."""
        about = pixels * pixel_mm
        near = [float(f"{about:.14g}"), *(float(about + i * np.spacing(about)) for i in range(-2, 3))]
        return next((value for value in near if value / pixel_mm == pixels), about)

    fan = isinstance(geometry, kernels.FanGeometry)
    degrees = [float(f"{angle:.14g}") for angle in np.rad2deg(geometry.angles_rad)]
    exact = tuple(np.deg2rad(degrees).tolist()) == geometry.angles_rad
    fields: dict[str, Any] = {"beam": "fan" if fan else "parallel"}
    fields |= {"angles_deg": degrees} if exact else {"angles_rad": list(geometry.angles_rad)}
    if isinstance(geometry, (kernels.FanGeometry, kernels.ParallelGeometry)):
        fields |= {"bins": geometry.n_bins, "bin_spacing_mm": mm(geometry.bin_spacing)}
        fields |= {"bin_offset_mm": mm(geometry.bin_offset)}
    if isinstance(geometry, kernels.FanGeometry):
        distances = mm(geometry.source_distance), mm(geometry.detector_distance)
        fields |= dict(zip(_FAN_KEYS, (*distances, "curved" if geometry.curved else "flat"), strict=True))
    rows, columns = slice_shape
    fields |= {"pixel_mm": pixel_mm, "rows": rows, "columns": columns}
    fields |= {"rotation_centre_px": centre_of_rotation(geometry, slice_shape), "affine": image_affine.tolist()}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(fields, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def pixel_mm_of(affine: np.ndarray, plane: Plane) -> float:
    """Side of a pixel of a plane's slices, which are square, in mm."""
    return float(np.linalg.norm(affine[:3, plane.axes[1]]))


def _rays(
    fields: dict[str, Any],
    fan: bool,
    shape: tuple[int, int],
    centre: tuple[float, ...],
    angles_rad: Any,
    pixel_mm: float,
    n_bins: int,
    reverse: bool,
) -> kernels.Geometry:
    """The rays in pixels of an image of this shape; `reverse` counts bins the other way round."""
    spacing = length(fields, "bin_spacing_mm") / pixel_mm
    offset = number(fields.get("bin_offset_mm", 0), "bin_offset_mm") / pixel_mm * (-1 if reverse else 1)
    middle = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    try:
        if fan:
            source = length(fields, "source_distance_mm") / pixel_mm
            detector = number(required(fields, "detector_distance_mm"), "detector_distance_mm") / pixel_mm
            curved = "detector" in fields and choice(fields, "detector", ("flat", "curved")) == "curved"
            if centre != middle:
                expected = f"the centre of rotation of a fan in the middle of the image, {pair(middle)}"
                raise wrong(expected, pair(centre), "remove rotation_centre_px")
            return kernels.FanGeometry(shape, angles_rad, source, detector, n_bins, spacing, offset, curved)
        # The lattice of samples of a square has its centre on a pixel or between pixels, as its side is odd or even.
        squares = [kernels.ParallelGeometry(max(shape) + more, ()) for more in range(3)]
        centres = {centre_of_rotation(square, shape): square.n for square in reversed(squares)}
        if centre not in centres:
            raise wrong(
                f"the centre of rotation of a parallel beam at {' or '.join(map(pair, centres))} in {shape[0]} rows "
                f"and {shape[1]} columns along the axes of the volume",
                pair(centre),
                "make both sides even or both odd, or set rotation_centre_px",
            )
        return kernels.ParallelGeometry(centres[centre], angles_rad, n_bins, spacing, offset)
    except InputError:
        raise
    except ValueError as error:  # what the projections cannot do, in their words, of which the last are for programmers
        reason = str(error).rpartition("; ")[0]
        got = f"in pixels of {pixel_mm:g} mm '{reason}'"
        raise wrong("lengths that can be projected", got, "check all lengths, in mm") from None


def _affine(fields: dict[str, Any], pixel_mm: float, centre: tuple[float, ...]) -> np.ndarray:
    """Slice, row and column of the scan's image to mm, float64 (4, 4)."""
    if "affine" in fields:
        refuse_beside(fields, _PLACE_KEYS, "affine")
        value = fields["affine"]
        lines = value if isinstance(value, list) and len(value) == 4 else [None]
        affine = np.array([vector(line, "affine", 4) for line in lines])
        sides = np.linalg.norm(affine[:3, :3], axis=0)
        dependent = min(sides) < LEAST_MM or abs(np.linalg.det(affine[:3, :3])) < 1e-6 * sides.prod()
        if dependent or affine[3].tolist() != [0, 0, 0, 1]:
            raise wrong("independent axes and a last line of 0, 0, 0, 1 in affine", "another matrix", "mend it")
        _check_square(affine, pixel_mm)
        return affine
    letters = fields.get("orientation", "SRA")
    directions = directions_of(letters) if isinstance(letters, str) else None
    if directions is None:
        expected = "three letters as orientation, one each of R or L, A or P, S or I"
        raise wrong(expected, shown(letters), "SPL and IPL are usual")
    affine = np.eye(4)
    affine[:3, :3] = directions * (length(fields, "slice_spacing_mm"), pixel_mm, pixel_mm)
    if "origin_mm" in fields:
        affine[:3, 3] = vector(fields["origin_mm"], "origin_mm", 3)
    else:
        affine[:3, 3] = -affine[:3, 1] * centre[0] - affine[:3, 2] * centre[1]
    return affine


def _check_square(image_affine: np.ndarray, pixel_mm: float | None = None) -> None:
    row, column = image_affine[:3, 1], image_affine[:3, 2]
    sides = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    side = pixel_mm or sides[0]
    if max(abs(s - side) for s in sides) > _SQUARE * side or abs(row @ column) > _SQUARE * side**2:
        expected = f"square pixels of {side:g} mm in the affine"
        got = f"{np.round([row, column], 4).tolist()} from row to row and from column to column"
        raise wrong(expected, got, "mend the affine or pixel_mm, or resample the volume")


def _angles(fields: dict[str, Any], n_views: int, n_bins: int) -> list[float]:
    """The angles in degrees, one a view."""
    if ("angles_deg" in fields) == ("angles_rad" in fields):
        got = "both" if "angles_deg" in fields else "none"
        raise wrong("one of angles_deg and angles_rad", got, "give the angle of every view in degrees")
    key = "angles_deg" if "angles_deg" in fields else "angles_rad"
    value, parts = fields[key], ("first", "last_excluded", "count")
    if isinstance(value, dict):
        if key == "angles_rad" or sorted(value) != sorted(parts):
            expected = f"numbers as {key}, or an object of first, last_excluded and count, in degrees"
            raise wrong(expected, "another object", "give exactly these keys in angles_deg")
        count = integer(value, "count", 10**9)
    elif isinstance(value, list):
        count = len(value)
    else:
        raise wrong(f"a list of numbers as {key}", shown(value), "give one for each view")
    if count != n_views:
        swapped = "give one angle for each view, or name the axes with --axes"
        if count == n_bins:
            swapped = "swap the sinogram's views and bins with --axes slices,bins,views"
        expected = f"{n_views} angles in {key} as along the sinogram's last axis but one (views)"
        raise wrong(expected, str(count), swapped)
    if isinstance(value, dict):
        first, last = (number(value[part], part) for part in parts[:2])
        return [float(angle) for angle in np.linspace(first, last, count, endpoint=False)]
    angles = [number(angle, key) for angle in value]
    return angles if key == "angles_deg" else np.rad2deg(angles).tolist()
