"""Pixels of a DICOM image that lie outside of what was measured: its Pixel Padding Value, or range of values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine.io.volumes.intensities import AIR_HU

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: What has to be read for it.
PADDING_TAGS = ("Modality", "PixelPaddingValue", "PixelPaddingRangeLimit")


def is_padding(stored: np.ndarray, header: Dataset) -> np.ndarray | bool:
    """Which stored values are padding, of the shape of `stored`; False where the header names none.

    References
    ----------
    DICOM PS3.3, C.7.5.1.1.2 (Pixel Padding Value and Pixel Padding Range Limit).
    """
    ends = [_stored_number(header, keyword, stored.dtype) for keyword in PADDING_TAGS[1:]]
    if ends[0] is None:
        return False
    first, last = ends[0], ends[0] if ends[1] is None else ends[1]
    return np.asarray((stored >= min(first, last)) & (stored <= max(first, last)))


def _stored_number(header: Dataset, keyword: str, dtype: np.dtype) -> int | None:
    """An attribute as a value of pixels; None where there is none, or none that a pixel can have."""
    value: Any = header.get(keyword)
    try:
        number = int(value)
    except (TypeError, ValueError):  # absent, empty, several, or bytes of an unknown kind
        return None
    limits = np.iinfo(dtype)
    # Some programs write the bits of a negative number as those of a positive one, or the reverse.
    if number > limits.max or number < limits.min:
        number += (1 if number < limits.min else -1) * (limits.max - limits.min + 1)
    return number if limits.min <= number <= limits.max else None


def as_background(data: np.ndarray, padded: np.ndarray, *, is_ct: bool) -> None:
    """Set padding, in place, to the darkest of what was measured: in CT to air.

    Only where it lies below, or above, all else: some headers name a value that the image has as well, such as 0 HU.

    Parameters
    ----------
    data : float32 (n, h, w)
        Scaled.
    padded : bool (n, h, w)
    is_ct : bool
        Whether values below zero are Hounsfield units.
    """
    if not padded.any() or padded.all():
        return
    low, high = (float(f(data, where=~padded, initial=i)) for f, i in ((np.min, np.inf), (np.max, -np.inf)))
    values = data[padded]
    if float(values.max()) < low or float(values.min()) > high:
        data[padded] = AIR_HU if is_ct and low < 0 else low
