"""The geometry of a CT scan as JSON: beam, angles, detector, and the image that is to be reconstructed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import kernels
from engine.errors import InputError
from engine.io.files import replacing
from engine.io.measurements.geometry_fields import (
    choice,
    fields_of,
    integer,
    length,
    number,
    pair,
    refuse_beside,
    required,
    shown,
    wrong,
)
from engine.io.measurements.geometry_place import PLACE_KEYS, Place, check_square, place_of
from engine.io.orientation import Orientation
from engine.operators.radon import centre_of_rotation
from engine.volume import Plane
from kernels.geometry import LARGEST_DETECTOR

_FAN_KEYS = ("source_distance_mm", "detector_distance_mm", "detector")
#: Of a cone beam alone.
CONE_KEYS = ("slices", "lines", "line_spacing_mm", "line_offset_mm")
_KEYS = (
    *("beam", "angles_deg", "angles_rad", "bins", "bin_spacing_mm", "bin_offset_mm", *_FAN_KEYS, *CONE_KEYS),
    *("pixel_mm", "rows", "columns", "size", "rotation_centre_px", "affine", *PLACE_KEYS),
)
#: Beams whose rays leave the slices, and what to do with such scans.
_OTHER_BEAMS = {
    **dict.fromkeys(("helical", "helix", "spiral"), "rebin it to slices of a fan beam (single-slice rebinning) first"),
    **dict.fromkeys(("cone_vec", "conebeam"), "write cone, whose source turns on a circle"),
    "cone": "read it as projections of a whole volume",
    "laminography": "its rays cross slices at an angle: reconstruct it with a program for laminography",
}


@dataclass(frozen=True, eq=False)
class ScanGeometry:
    """Rays through the slices of a canonical volume, and where these lie.

    Parameters
    ----------
    geometry : kernels.Geometry
        In pixels. For a parallel beam a square that holds the slices, see `engine.operators.Radon`.
    place : Place
        Of the slices, and how the scan's own image and bins lie in them.
    """

    geometry: kernels.Geometry
    place: Place


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


def is_cone(fields: Mapping[str, Any]) -> bool:
    """Whether the fields of a geometry are those of a cone beam, see `engine.io.measurements.cone_geometry`."""
    return fields.get("beam") == "cone"


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
    refuse_beside(fields, CONE_KEYS, "rays that stay in a slice")
    angles_deg = _angles(fields, n_views, n_bins)
    if "bins" in fields and (bins := integer(fields, "bins", LARGEST_DETECTOR)) != n_bins:
        expected = f"bins to be {n_bins} as along the sinogram's last axis (bins)"
        raise wrong(expected, str(bins), "mend bins, or swap the sinogram's axes")
    place = place_of(fields)
    geometry = _rays(fields, fan, place, radians_of(fields, angles_deg, place), n_bins)
    check_reach(geometry, place.slice_shape)
    return ScanGeometry(geometry, place)


def radians_of(fields: Mapping[str, Any], angles_deg: list[float], place: Place) -> Any:
    """The angles in the volume's slices; those that were stated in radians and stay as they are to the last bit."""
    unchanged = "angles_rad" in fields and not place.mirrors_deg
    return fields["angles_rad"] if unchanged else np.deg2rad(place.turned(angles_deg))


def check_reach(geometry: kernels.Geometry, shape: tuple[int, int]) -> None:
    """Refuse a detector none of whose rays meets an image of this shape.

    Raises
    ------
    InputError
    """
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
    image_affine = image_affine_of(affine, plane)
    pixel_mm = pixel_mm_of(affine, plane)

    def mm(pixels: float) -> float:
        return mm_of(pixels, pixel_mm)

    fan = isinstance(geometry, kernels.FanGeometry)
    fields: dict[str, Any] = {"beam": "fan" if fan else "parallel", **angle_fields(geometry.angles_rad)}
    if isinstance(geometry, (kernels.FanGeometry, kernels.ParallelGeometry)):
        fields |= {"bins": geometry.n_bins, "bin_spacing_mm": mm(geometry.bin_spacing)}
        fields |= {"bin_offset_mm": mm(geometry.bin_offset)}
    if isinstance(geometry, kernels.FanGeometry):
        distances = mm(geometry.source_distance), mm(geometry.detector_distance)
        fields |= dict(zip(_FAN_KEYS, (*distances, "curved" if geometry.curved else "flat"), strict=True))
    rows, columns = slice_shape
    fields |= {"pixel_mm": pixel_mm, "rows": rows, "columns": columns}
    fields |= {"rotation_centre_px": centre_of_rotation(geometry, slice_shape), "affine": image_affine.tolist()}
    write_fields(path, fields)


def write_fields(path: str | Path, fields: Mapping[str, Any]) -> None:
    """Write keys and values so that `read_fields` returns them."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(fields, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def mm_of(pixels: float, pixel_mm: float) -> float:
    """A short number of mm that is read as these pixels."""
    about = pixels * pixel_mm
    near = [float(f"{about:.14g}"), *(float(about + i * np.spacing(about)) for i in range(-2, 3))]
    return next((value for value in near if value / pixel_mm == pixels), about)


def angle_fields(angles_rad: tuple[float, ...]) -> dict[str, Any]:
    """Angles in short numbers of degrees where these are read as the same ones, else in radians."""
    degrees = [float(f"{angle:.14g}") for angle in np.rad2deg(angles_rad)]
    exact = tuple(np.deg2rad(degrees).tolist()) == angles_rad
    return {"angles_deg": degrees} if exact else {"angles_rad": list(angles_rad)}


def image_affine_of(affine: np.ndarray, plane: Plane) -> np.ndarray:
    """Slice, row and column of a plane's slices to mm, float64 (4, 4).

    Raises
    ------
    InputError
        The affine of a volume whose axes do not run to the right, the front and the top; pixels that are not square.
    """
    orientation = Orientation.of((1, 1, 1), affine)
    if orientation.order != (0, 1, 2) or any(orientation.flipped):
        expected = "the affine of a volume whose axes run to the right, the front and the top"
        raise wrong(expected, str(np.round(affine[:3, :3], 3).tolist()), "bring the volume into this order")
    image_affine = np.asarray(affine, np.float64)[:, [*plane.axes, 3]]
    check_square(image_affine)
    return image_affine


def pixel_mm_of(affine: np.ndarray, plane: Plane) -> float:
    """Side of a pixel of a plane's slices, which are square, in mm."""
    return float(np.linalg.norm(affine[:3, plane.axes[1]]))


def _rays(fields: dict[str, Any], fan: bool, place: Place, angles_rad: Any, n_bins: int) -> kernels.Geometry:
    """The rays in pixels of the volume's slices."""
    shape, centre = place.slice_shape, place.centre
    spacing = length(fields, "bin_spacing_mm") / place.pixel_mm
    offset = number(fields.get("bin_offset_mm", 0), "bin_offset_mm") / place.pixel_mm
    offset *= -1 if place.bins_reversed else 1
    with projectable(place.pixel_mm):
        if fan:
            source, detector = distances_of(fields, place.pixel_mm)
            curved = "detector" in fields and choice(fields, "detector", ("flat", "curved")) == "curved"
            check_middle(place, "a fan")
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


def distances_of(fields: dict[str, Any], pixel_mm: float) -> tuple[float, float]:
    """Distances of source and detector from the axis, in pixels.

    Raises
    ------
    InputError
        None, or none that are lengths.
    """
    detector = number(required(fields, "detector_distance_mm"), "detector_distance_mm")
    return length(fields, "source_distance_mm") / pixel_mm, detector / pixel_mm


def check_middle(place: Place, beam: str) -> None:
    """Refuse a centre of rotation beside the middle of the image, for a beam that has to turn about it.

    Raises
    ------
    InputError
    """
    middle = (place.slice_shape[0] - 1) / 2, (place.slice_shape[1] - 1) / 2
    if place.centre != middle:
        expected = f"the centre of rotation of {beam} in the middle of the image, {pair(middle)}"
        raise wrong(expected, pair(place.centre), "remove rotation_centre_px")


@contextmanager
def projectable(pixel_mm: float) -> Iterator[None]:
    """Refuse lengths of a file that the projections refuse in pixels."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:  # what the projections cannot do, in their words, of which the last are for programmers
        reason = str(error).rpartition("; ")[0]
        got = f"in pixels of {pixel_mm:g} mm '{reason}'"
        raise wrong("lengths that can be projected", got, "check all lengths, in mm") from None


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
        expected = f"{n_views} angles in {key} as along the sinogram's last axis but one (views)"
        if is_cone(fields):
            expected = f"{n_views} angles in {key} as the projections have views"
        elif count == n_bins:
            swapped = "swap the sinogram's views and bins with --axes slices,bins,views"
        raise wrong(expected, str(count), swapped)
    if isinstance(value, dict):
        first, last = (number(value[part], part) for part in parts[:2])
        return [float(angle) for angle in np.linspace(first, last, count, endpoint=False)]
    angles = [number(angle, key) for angle in value]
    return angles if key == "angles_deg" else np.rad2deg(angles).tolist()
