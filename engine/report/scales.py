"""Where the scale of a picture ends, and where in a volume its tissue lies."""

from __future__ import annotations

import math

import numpy as np

#: White is this percentile of the positive voxels; scales of differences leave as little out.
_WHITE_PERCENTILE, _TOP_PERCENTILE = 99.5, 99.8
#: Share of white above which a voxel is tissue.
_TISSUE = 0.05


def white_of(volume: np.ndarray) -> float:
    """Value that is shown as white; 1 where no voxel is positive."""
    positive = volume[volume > 0]
    return float(np.percentile(positive, _WHITE_PERCENTILE)) if positive.size else 1.0


def tissue_box(volume: np.ndarray, white: float) -> tuple[np.ndarray, np.ndarray]:
    """First and last index of the tissue along every axis, those of the whole volume where there is none."""
    tissue = volume > _TISSUE * white
    ends = []
    for axis, n in enumerate(volume.shape):
        inside = np.flatnonzero(tissue.any(axis=tuple({0, 1, 2} - {axis})))
        ends.append((inside[0], inside[-1]) if inside.size else (0, n - 1))
    first, last = np.array(ends).T
    return first, last


def round_top(sizes: np.ndarray, least: float) -> float:
    """The next round number, `least` at the lowest, that all but one in 500 of the values stay below."""
    top = max(float(np.percentile(sizes, _TOP_PERCENTILE)), least)
    decade = 10.0 ** math.floor(math.log10(top))
    return next(decade * step for step in (1, 1.5, 2, 3, 5, 7, 10) if decade * step >= min(top, decade * 10))
