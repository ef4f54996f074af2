"""The geometry of a cone beam's scan as JSON: source, detector, and the volume that is to be reconstructed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import kernels
from engine.io.measurements.geometry import (
    angle_fields,
    angles_of,
    check_middle,
    check_reach,
    distances_of,
    image_affine_of,
    mm_of,
    pixel_mm_of,
    projectable,
    radians_of,
    write_fields,
)
from engine.io.measurements.geometry_fields import choice, integer, length, number, wrong
from engine.io.measurements.geometry_place import MAX_SIDE, Place, check_cubic, place_of
from engine.volume import Plane
from kernels.geometry import LARGEST_DETECTOR

#: Rays of a line so far from the source's height run along rows or columns more than along slices, whatever their bin.
_STEEPEST = math.sqrt(0.5)


@dataclass(frozen=True, eq=False)
class ConeScanGeometry:
    """Rays through a canonical volume, and how the scan's own image, lines and bins lie in it.

    Parameters
    ----------
    geometry : kernels.ConeGeometry
        In voxels, of the slices that `place.plane` cuts from the volume.
    place : Place
        Where slices count against those of the scan, lines do too.
    """

    geometry: kernels.ConeGeometry
    place: Place


def cone_of(fields: Mapping[str, Any], n_views: int, n_lines: int, n_bins: int) -> ConeScanGeometry:
    """Return the geometry of a circular scan from the keys and values of its file.

    The source turns in the plane of the middle slice about the middle of rows and columns; its detector is flat, and
    lies across the ray through that point. Where a slice is shown with row 0 on top, at angle 0 the source is above,
    and bins count to the right, as columns do; angles turn both counter-clockwise. Lines count as slices do.

    - ``beam``: "cone".
    - ``angles_deg`` or ``angles_rad``: as of other beams, see `engine.io.measurements.geometry.load_geometry`.
    - ``source_distance_mm``, ``detector_distance_mm``: from the axis to each of them; ``detector``: "flat".
    - ``bin_spacing_mm``, ``line_spacing_mm``: between the middles of neighbours on the detector; of lines that of bins
      if left out. ``bins``, ``lines``: their numbers, only to be checked.
    - ``bin_offset_mm``, ``line_offset_mm``: where the middle of the detector lies, from the point opposite the source,
      positive towards the last bin and line; 0 if left out.
    - ``slices``, ``rows``, ``columns``, or ``size`` for the last two: of the volume to reconstruct.
    - ``pixel_mm``: the side of its voxels, which are cubes; ``slice_spacing_mm``, where it is there, is the same.
    - ``rotation_centre_px``: the middle of rows and columns.
    - ``orientation``, ``origin_mm``, or ``affine``: as of other beams; the first slice's centre of rotation lies at 0
      if left out.

    Parameters
    ----------
    fields : mapping
        As `engine.io.measurements.geometry.read_fields` reads them.
    n_views, n_lines, n_bins : int
        Of the projections.

    Returns
    -------
    ConeScanGeometry

    Raises
    ------
    InputError
        A key that is missing or without sense here, a value that is none, another number of views, lines or bins,
        voxels that are no cubes, a source inside the volume, a detector that misses it, or lines too far from the
        source's height.
    """
    fields = dict(fields)
    choice(fields, "beam", ("cone",))
    if "detector" in fields:
        choice(fields, "detector", ("flat",))
    for key, n in (("lines", n_lines), ("bins", n_bins)):
        if key in fields and (stated := integer(fields, key, LARGEST_DETECTOR)) != n:
            expected = f"{key} to be {n} as the projections have"
            raise wrong(expected, str(stated), f"mend {key}, or name the axes with --axes")
    angles_deg = angles_of(fields, n_views, n_bins)
    if "affine" not in fields and "pixel_mm" in fields:
        fields.setdefault("slice_spacing_mm", fields["pixel_mm"])
    place = place_of(fields)
    check_cubic(place)
    check_middle(place, "a cone beam")
    geometry = _rays(fields, place, radians_of(fields, angles_deg, place), n_lines, n_bins)
    check_reach(geometry.fan, place.slice_shape)
    _check_height(geometry)
    return ConeScanGeometry(geometry, place)


def save_cone_geometry(path: str | Path, geometry: kernels.ConeGeometry, plane: Plane, affine: np.ndarray) -> None:
    """Write the geometry of a cone beam so that `cone_of` returns it, lengths up to the last bit.

    Parameters
    ----------
    path : path
    geometry : kernels.ConeGeometry
        In voxels, of the slices that `plane` cuts from the volume.
    plane : Plane
    affine : float64 (4, 4)
        Voxel indices of the volume to mm; closest to x to the right, y to the front, z to the top.

    Raises
    ------
    InputError
        An affine that lies otherwise; voxels that are no cubes.
    """
    image_affine, pixel_mm = image_affine_of(affine, plane), pixel_mm_of(affine, plane)
    slices, rows, columns = geometry.shape
    lengths = {
        "source_distance_mm": geometry.source_distance,
        "detector_distance_mm": geometry.detector_distance,
        "bin_spacing_mm": geometry.bin_spacing,
        "line_spacing_mm": geometry.line_spacing,
        "bin_offset_mm": geometry.bin_offset,
        "line_offset_mm": geometry.line_offset,
    }
    fields: dict[str, Any] = {"beam": "cone", **angle_fields(geometry.angles_rad)}
    fields |= {"lines": geometry.n_lines, "bins": geometry.n_bins, "pixel_mm": pixel_mm}
    fields |= {key: mm_of(value, pixel_mm) for key, value in lengths.items()}
    fields |= {"slices": slices, "rows": rows, "columns": columns, "affine": image_affine.tolist()}
    check_cubic(place_of(fields))
    write_fields(path, fields)


def _rays(fields: dict[str, Any], place: Place, angles_rad: Any, n_lines: int, n_bins: int) -> kernels.ConeGeometry:
    """The rays in voxels of the volume's slices."""
    n_slices = integer(fields, "slices", MAX_SIDE)
    fields.setdefault("line_spacing_mm", fields.get("bin_spacing_mm"))
    bin_mm, line_mm = length(fields, "bin_spacing_mm"), length(fields, "line_spacing_mm")
    bin_offset, line_offset = (
        (-1 if is_reversed else 1) * number(fields.get(key, 0), key) / place.pixel_mm
        for key, is_reversed in (("bin_offset_mm", place.bins_reversed), ("line_offset_mm", place.slices_reversed))
    )
    with projectable(place.pixel_mm):
        return kernels.ConeGeometry(
            *((n_slices, *place.slice_shape), angles_rad, *distances_of(fields, place.pixel_mm), n_lines, n_bins),
            *(line_mm / place.pixel_mm, bin_mm / place.pixel_mm, line_offset, bin_offset),
        )


def _check_height(geometry: kernels.ConeGeometry) -> None:
    """Refuse a detector that lies above or below all that rays may meet, and lines whose rays are too steep."""
    n_slices, *sides = geometry.shape
    lines, reach = np.abs(geometry.lines), geometry.source_to_detector
    # Of the corner that is nearest to the source.
    shadow = (n_slices / 2 + 1) * reach / (geometry.source_distance - math.hypot(*sides) / 2)
    if lines.min() > shadow:
        got = f"none, the nearest line lies {lines.min():.3g} voxels from the source's height"
        raise wrong("rays that meet the volume", got, "mend line_offset_mm and line_spacing_mm")
    if lines.max() > _STEEPEST * reach:
        degrees = math.degrees(math.atan(lines.max() / reach))
        expected = f"lines within {math.degrees(math.atan(_STEEPEST)):.0f} degrees of the source's height"
        raise wrong(expected, f"{degrees:.0f}", "mend line_offset_mm and line_spacing_mm, or leave out the outermost")
