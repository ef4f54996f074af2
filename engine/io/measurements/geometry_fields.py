"""Checked values from the JSON that describes a scan's geometry."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from engine.errors import InputError

#: Far more bytes than any scan's angles take, and far more of anything else than a scanner has.
_MAX_BYTES, _MOST = 1 << 24, 1e6
#: Keys of other libraries' geometries, and what theirs are called here.
_OTHERS = {
    "TIGRE": (
        ("DSD", "DSO", "nDetector", "dDetector", "nVoxel", "dVoxel", "offDetector", "offOrigin", "accuracy", "mode"),
        "DSO is source_distance_mm, DSD less DSO detector_distance_mm, dDetector bin_spacing_mm, dVoxel pixel_mm",
    ),
    "ASTRA": (
        (
            *("type", "DetectorWidth", "DetectorCount", "ProjectionAngles", "DistanceOriginSource", "Vectors"),
            *("DistanceOriginDetector", "DetectorSpacingX", "DetectorSpacingY", "DetectorRowCount", "DetectorColCount"),
        ),
        "ProjectionAngles are angles_rad, DetectorWidth is bin_spacing_mm, DistanceOriginSource source_distance_mm, "
        "DistanceOriginDetector detector_distance_mm",
    ),
    "RTK": (
        ("SourceToIsocenterDistance", "SourceToDetectorDistance", "GantryAngle", "Projection", "ProjectionOffsetX"),
        "SourceToIsocenterDistance is source_distance_mm, GantryAngle one of angles_deg",
    ),
}
#: Shortest length in mm.
LEAST_MM = 1e-6


def fields_of(path: Path, keys: Collection[str]) -> dict[str, Any]:
    """Read a file that is one JSON object with no other keys than these."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise wrong("every key once", f"{shown(key)} twice", "remove one of them")
            found[key] = value
        return found

    try:
        if not path.is_file():
            # A pipe would be waited for.
            raise ValueError("no file")
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        fields = json.loads(content.decode("utf-8-sig"), object_pairs_hook=unique)
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        reason = re.split(r"\n|\.\s", str(error))[0].rstrip(" .")
        got = f"'{path}', which cannot be read ({type(error).__name__}: {reason})"
        remedy = "check the path, and the file's brackets, commas and quotes"
        raise InputError("geometry", "a JSON file", got, remedy) from None
    if not isinstance(fields, dict):
        raise wrong("one JSON object", f"{shown(fields)} in '{path}'", "put names and values between braces")
    for key in fields:
        if key not in keys:
            for library, (names, remedy) in _OTHERS.items():
                if key in names:
                    raise wrong(f"keys such as {', '.join(list(keys)[:4])}", f"{shown(key)} of {library}", remedy)
            closest = difflib.get_close_matches(key[:100], keys, 1, 0.0)[0]
            raise wrong("known keys", shown(key), f"the closest one is {closest}")
    return fields


def refuse_beside(fields: dict[str, Any], keys: tuple[str, ...], other: str) -> None:
    for key in keys:
        if key in fields:
            raise wrong(f"no {key} beside {other}", shown(fields[key]), "keep what holds and remove the other")


def required(fields: dict[str, Any], key: str) -> Any:
    if key not in fields:
        raise wrong(f"the key {key}", "none of that name", "add it")
    return fields[key]


def choice(fields: dict[str, Any], key: str, options: tuple[str, ...]) -> str:
    value = required(fields, key)
    if not isinstance(value, str) or value not in options:
        raise wrong(f"{' or '.join(options)} as {key}", shown(value), "choose one")
    return value


def number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _MOST:
        raise wrong(f"a number of at most {_MOST:.0f} in {key}", shown(value), "give a finite one, without quotes")
    return float(value)


def length(fields: dict[str, Any], key: str) -> float:
    value = number(required(fields, key), key)
    if value < LEAST_MM:
        raise wrong(f"a positive length as {key}", shown(value), "give it in mm")
    return value


def integer(fields: dict[str, Any], key: str, largest: int) -> int:
    value = required(fields, key)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise wrong(f"a whole number from 1 to {largest} as {key}", shown(value), "count them")
    return value


def vector(value: Any, key: str, n: int) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != n:
        raise wrong(f"{n} numbers a line in {key}", shown(value), "give a list of them")
    return tuple(number(part, key) for part in value)


def pair(point: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{p:g}' for p in point)}]"


def wrong(expected: str, got: str, remedy: str) -> InputError:
    return InputError("geometry", expected, got, remedy)


def shown(value: Any) -> str:
    """A value in few letters, none of which ends a sentence."""
    if isinstance(value, (dict, list)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = value if isinstance(value, str) else json.dumps(value)
    return "'" + re.sub(r"\.(?!\w)|[^\w+/ .-]", "?", text[:40]) + "'"
