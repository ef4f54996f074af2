"""What is black and what is white in a volume: the intensities that become 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Intensities above this percentile of the non-zero voxels map above 1: bright vessels must not dim the whole head.
WHITE_PERCENTILE = 99.5
#: Where negative values mean something, this percentile of all voxels is air.
_AIR_PERCENTILE = 100 - WHITE_PERCENTILE
#: Filters leave ripples below zero beside edges, and noise is as often below as above. Negative values mean something
#: where more than this part of the voxels has them, and half of those lie further below zero than this part of white.
_NEGATIVE_PART = 0.01
_NEGATIVE_LEVEL = -0.1
#: Air in Hounsfield units, and what no tissue or air is below of but by noise.
AIR_HU, _LEAST_HU = -1000.0, -1024.0
#: What 16 bits hold beside the usual intercept.
_LOWEST_HU = -(2.0**15) + _LEAST_HU
#: How far from it noise of air is looked for, in HU, and how far its median may lie: some scanners cut at -1024.
_AIR_WIDE_HU, _AIR_NEAR_HU = 250.0, 40.0
#: Part of the way from padding to air in which hardly anything lies.
_EMPTY = 0.25
#: Part of the range from a background to white that a pedestal varies by at most, and above which part of white it may;
#: a lower one, or one below zero, varies by so much of itself: the noise of air in a magnitude image varies by more.
_FLAT, _PEDESTAL, _FLAT_OF_LOW = 0.05, 0.1, 0.2
#: Below this part of white a background is zero.
_ZERO = 1e-4
#: No more of the volume is darker than its background than noise, and a few holes, may be.
_DARKER = 0.05


@dataclass(frozen=True)
class Window:
    """The intensities that become 0 and 1.

    Parameters
    ----------
    black, white : float
    """

    black: float
    white: float


def without_padding(data: np.ndarray) -> np.ndarray:
    """CT with what scanners write outside of their round field of view, -1500, -2000 or -3024 HU, set to air.

    Padding is the least value, below -1024 HU; many voxels share it, and hardly any lie in the first quarter of the way
    from there to air: noise has no such gap.

    Parameters
    ----------
    data : float32 (d0, d1, d2)

    Returns
    -------
    float32 (d0, d1, d2)
        The same array where there is no padding, else a copy.
    """
    low = float(data.min())
    if not _LOWEST_HU <= low < _LEAST_HU:
        return data
    padding = data == low
    n_padding = np.count_nonzero(padding)
    if n_padding < _NEGATIVE_PART * data.size or n_padding == data.size:
        return data
    n_between = np.count_nonzero(data < low + _EMPTY * (AIR_HU - low)) - n_padding
    if n_between > _NEGATIVE_PART * n_padding:
        return data
    result = data.copy()
    result[padding] = AIR_HU
    return result


def window_of(data: np.ndarray) -> Window:
    """Robust estimates of black and white.

    White is the 99.5th percentile of what is brighter than black. Black is 0, but for three kinds of volumes:

    - CT: -1000, where the darkest voxels are air in Hounsfield units, whatever its noise;
    - on a pedestal, above or below zero: the median of two opposite faces of the volume, where these are flat and
      hardly anything is darker. Tissue that fills a volume is not flat;
    - with another meaning below zero: the 0.5th percentile of all voxels.

    Parameters
    ----------
    data : float32 (d0, d1, d2)
        Not constant.

    Raises
    ------
    ValueError
        Nothing is brighter than black.
    """
    if _has_air(data):
        return Window(AIR_HU, _white_above(data, 0.0 if (data > 0).any() else AIR_HU))
    pedestal = _pedestal_of(data)
    if pedestal is not None:
        return pedestal
    white = _white_above(data, 0.0)
    n_negative = np.count_nonzero(data < 0)
    n_far = np.count_nonzero(data < _NEGATIVE_LEVEL * white)
    if n_negative <= _NEGATIVE_PART * data.size or 2 * n_far <= n_negative:
        return Window(0.0, white)
    return Window(float(np.percentile(data, _AIR_PERCENTILE)), white)


def _has_air(data: np.ndarray) -> bool:
    """Whether the darkest voxels lie about -1000."""
    near = data[abs(data - np.float32(AIR_HU)) < _AIR_WIDE_HU]
    if near.size < _NEGATIVE_PART * data.size or abs(float(np.median(near)) - AIR_HU) > _AIR_NEAR_HU:
        return False
    n_darker = np.count_nonzero(data <= AIR_HU - _AIR_WIDE_HU)
    # A broad distribution has its median there, too, and goes on below.
    quarter, three = np.percentile(near, (25, 75))
    return bool(n_darker < _NEGATIVE_PART * near.size and three - quarter < _AIR_WIDE_HU / 2)


def _white_above(data: np.ndarray, black: float) -> float:
    """The percentile of a copy that it may sort: one copy of the volume at a time."""
    brighter = data[data > black]
    if not brighter.size:
        raise ValueError(f"data: expected intensities above {black:g}, got none")
    return float(np.percentile(brighter, WHITE_PERCENTILE, overwrite_input=True))


def _pedestal_of(data: np.ndarray) -> Window | None:
    """The window of a volume whose background is flat and not 0."""
    # Of the axis whose ends vary least: a neck leaves through one face, and stacks begin and end in tissue.
    faces = [np.concatenate([np.take(data, end, axis).ravel() for end in (0, -1)]) for axis in range(3)]
    with np.errstate(over="ignore", invalid="ignore"):  # infinite quartiles are no pedestal
        quartiles = [np.percentile(face, (25, 50, 75)).tolist() for face in faces]
        low, level, high = min(quartiles, key=lambda q: float(q[2] - q[0]))
        if not (level < data.max() and np.isfinite(level)):
            return None
        white = _white_above(data, level)
        contrast = white - level
        spread = _FLAT * contrast
    if not abs(level) > _ZERO * contrast or max(high - level, level - low) > spread:
        return None
    if level <= _PEDESTAL * white and high - low > _FLAT_OF_LOW * abs(level):
        return None
    if np.count_nonzero(data < level - 2 * spread) > _DARKER * data.size:
        return None
    return Window(float(level), white)
