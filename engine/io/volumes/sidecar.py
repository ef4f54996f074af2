"""Files that lie beside an image and describe it, in the names of BIDS: .json, .bval."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

#: Far more than converters write.
_MAX_BYTES = 2**24
_ENDINGS = (".nii.gz", ".nii", ".hdr.gz", ".img.gz", ".hdr", ".img")
_log = logging.getLogger(__name__)


def slice_thickness_mm(path: Path) -> tuple[float, str] | None:
    """Read SliceThickness from the .json beside an image.

    Parameters
    ----------
    path : Path
        Of the image.

    Returns
    -------
    (float, str) or None
        In mm, and the name of the file that says it; None where there is none, or none that says it. Of a file that
        cannot be read a warning tells.

    References
    ----------
    BIDS 1.9, magnetic resonance imaging data: sidecar JSON.
    """
    beside = _beside(path, ".json")
    if beside is None:
        return None
    try:
        content = json.loads(beside.read_text())
    except (OSError, ValueError, RecursionError):
        _log.warning("'%s' cannot be read as JSON, and so the thickness of slices is not known", beside)
        return None
    value = content.get("SliceThickness") if isinstance(content, dict) else None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0:
        return float(value), beside.name
    return None


def b_values(path: Path) -> list[float]:
    """Read the b-values in s/mm² of an image's volumes from the .bval beside it; none where there is no such file."""
    beside = _beside(path, ".bval")
    try:
        return [] if beside is None else [v for v in map(float, beside.read_text().split()) if math.isfinite(v)]
    except (OSError, ValueError):
        return []


def _beside(path: Path, ending: str) -> Path | None:
    for own in _ENDINGS:
        if path.name.lower().endswith(own):
            beside = path.with_name(path.name[: -len(own)] + ending)
            return beside if beside.is_file() and beside.stat().st_size <= _MAX_BYTES else None
    return None
