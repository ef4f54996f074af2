"""Backgrounds that a program has written as NaN."""

from __future__ import annotations

import logging

import numpy as np

from engine.io.source import Source

_log = logging.getLogger(__name__)


def filled(data: np.ndarray, source: Source) -> np.ndarray:
    """Take NaN outside of the body for background, the darkest of the finite intensities.

    Outside is what is connected to the border of the volume, by faces of voxels that are all NaN.

    Parameters
    ----------
    data : float32 (d0, d1, d2)
        Not changed.
    source : Source
        For messages: a warning, where there are such voxels.

    Returns
    -------
    float32 (d0, d1, d2)
        `data` itself where all is finite.

    Raises
    ------
    InputError
        NaN inside, or infinite values anywhere, or nothing but NaN.
    """
    finite = np.isfinite(data)
    if finite.all():
        return data
    outside = _connected_to_border(np.isnan(data))
    n_bad = data.size - np.count_nonzero(finite) - np.count_nonzero(outside)
    if n_bad or not finite.any():
        where = " inside" if n_bad and outside.any() else ""
        got = f"{n_bad or data.size} NaN or infinite voxels{where}"
        raise source.refusal("finite float32 values", got, "replace them before the run")
    _log.warning(
        "'%s': %d voxels (%.0f %%) are NaN around the others; they are taken for background",
        *(source.path, np.count_nonzero(outside), 100 * outside.mean()),
    )
    return np.where(outside, data[finite].min(), data)


def _connected_to_border(mask: np.ndarray) -> np.ndarray:
    """The parts of a mask that reach the border."""
    from scipy import ndimage

    labels, n = ndimage.label(mask)
    reaches = np.zeros(n + 1, bool)
    for axis in range(mask.ndim):
        for end in (0, -1):
            reaches[np.unique(labels.take(end, axis))] = True
    reaches[0] = False
    return np.asarray(reaches[labels])
