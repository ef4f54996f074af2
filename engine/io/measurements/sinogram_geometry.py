"""A geometry's fields, completed and corrected by what a file and the options say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.io.measurements.geometry import angles_of
from engine.io.measurements.geometry_fields import length
from engine.io.measurements.projections import Projections
from engine.io.measurements.rotation_centre import find_centre
from engine.io.measurements.sinogram_options import Reading


def add_angles(fields: dict[str, Any], stored: Projections, how: Reading) -> bool:
    """Complete a geometry by the angles of the measurement's file, unless others are stated; whether it was."""
    if how.turn is not None:
        for key in ("angles_deg", "angles_rad"):
            if key in fields:
                raise InputError("turn", f"no {key} in --geometry beside it", f"{how.turn:g}", "drop --turn")
        return False
    if stored.angles_deg is None or "angles_deg" in fields or "angles_rad" in fields:
        return False
    fields["angles_deg"] = stored.angles_deg.tolist()
    return True


def complete(fields: dict[str, Any], n_bins: int, how: Reading) -> None:
    """Make a geometry of a parallel beam, its pixels as wide as bins.

    Raises
    ------
    InputError
        No angles.
    """
    if "angles_deg" not in fields:
        expected = "a JSON file beside --sinogram, or angles: exchange/theta in the file, or --turn"
        raise InputError("geometry", expected, "none", "pass --turn 180 if views are spread evenly over half a turn")
    side = how.bin_mm or 1.0
    fields |= {"beam": "parallel", "size": n_bins, "bin_spacing_mm": side, "pixel_mm": side, "slice_spacing_mm": side}


def set_unit(fields: dict[str, Any], n_views: int, n_bins: int, how: Reading) -> None:
    """Take the numbers of all angles for degrees or radians."""
    if how.angle_unit is None:
        return
    if how.turn is not None:
        raise InputError("angle-unit", "no --turn beside it, which is in degrees", how.angle_unit, "drop --angle-unit")
    numbers = angles_of(fields, n_views, n_bins)
    if "angles_rad" in fields:
        numbers = np.deg2rad(numbers).tolist()
    fields.pop("angles_rad", None)
    fields["angles_deg"] = numbers if how.angle_unit == "deg" else np.rad2deg(numbers).tolist()


def set_centre(fields: dict[str, Any], values: np.ndarray, how: Reading, *, has_geometry: bool) -> float | None:
    """State where the axis of rotation falls, in the words of a geometry; the bin where it was found, else None.

    Raises
    ------
    InputError
        It is to be found, and cannot be.
    """
    stated, n_bins = how.centre, values.shape[-1]
    if stated is None and has_geometry:
        return None
    centre = (n_bins - 1) / 2
    found = None
    if isinstance(stated, (int, float)):
        centre = float(stated)
    elif stated not in (None, "find"):
        raise InputError("centre", "a bin, or find", f"'{stated}'", "bins count from 0")
    else:
        found = _found_centre(fields, values)
        if found is None and stated == "find":
            expected = "six views or more over a good part of a half turn, of an object that the detector sees whole"
            raise InputError("centre", f"{expected}, to find it", "others", "state the bin")
        centre = centre if found is None else found
    if not (math.isfinite(centre) and -n_bins <= centre < 2 * n_bins):
        raise InputError("centre", f"a bin near the detector's 0 to {n_bins - 1}", centre, "bins count from 0")
    fields["bin_offset_mm"] = ((n_bins - 1) / 2 - centre) * length(fields, "bin_spacing_mm")
    return found


def _found_centre(fields: dict[str, Any], values: np.ndarray) -> float | None:
    if fields.get("beam") != "parallel":
        raise InputError("centre", "a parallel beam, to find it", "another", "state the bin")
    angles_rad = np.deg2rad(angles_of(fields, *values.shape[1:]))
    # Values that are none are refused later.
    return find_centre(values, angles_rad) if np.isfinite(values).all() else None
