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
_AIR_HU, _LEAST_HU = -1000.0, -1024.0
#: Part of white above which a background is a pedestal, and part of the range from it to white that it may vary by.
_PEDESTAL, _FLAT = 0.1, 0.05
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

    Padding is one value below -1024 HU that many voxels share, in a volume that has air as well, and in which hardly
    anything else is below -1024: where noise reaches such values, too, nothing is changed.

    Parameters
    ----------
    data : float32 (d0, d1, d2)

    Returns
    -------
    float32 (d0, d1, d2)
        The same array where there is no padding, else a copy.
    """
    low = float(data.min())
    if not low < _LEAST_HU:
        return data
    padding = data == low
    beyond = data < _LEAST_HU
    rest = data[~beyond]
    if not rest.size or padding.sum() < _NEGATIVE_PART * data.size or padding.sum() < 0.9 * beyond.sum():
        return data
    air = float(np.percentile(rest, _AIR_PERCENTILE))
    if not _LEAST_HU <= air <= 0.9 * _AIR_HU:
        return data
    result = data.copy()
    result[padding] = air
    return result


def window_of(data: np.ndarray) -> Window:
    """Robust estimates of black and white.

    White is the 99.5th percentile of what is brighter than black. Black is 0, but for two kinds of volumes:

    - with a meaning below zero, as CT has: the 0.5th percentile of all voxels, which is air wherever there is some;
    - on a pedestal: the median of two opposite faces of the volume, where these are flat, brighter than a tenth of
      white, and hardly anything is darker. Tissue that fills a volume is not flat.

    Parameters
    ----------
    data : float32 (d0, d1, d2)
        Not constant.

    Raises
    ------
    ValueError
        Nothing is brighter than black.
    """
    pedestal = _pedestal_of(data)
    if pedestal is not None:
        return pedestal
    white = _white_above(data, 0.0)
    n_negative = np.count_nonzero(data < 0)
    n_far = np.count_nonzero(data < _NEGATIVE_LEVEL * white)
    if n_negative <= _NEGATIVE_PART * data.size or 2 * n_far <= n_negative:
        return Window(0.0, white)
    return Window(float(np.percentile(data, _AIR_PERCENTILE)), white)


def _white_above(data: np.ndarray, black: float) -> float:
    """The percentile of a copy that it may sort: one copy of the volume at a time."""
    brighter = data[data > black]
    if not brighter.size:
        raise ValueError(f"data: expected intensities above {black:g}, got none")
    return float(np.percentile(brighter, WHITE_PERCENTILE, overwrite_input=True))


def _pedestal_of(data: np.ndarray) -> Window | None:
    """The window of a volume whose background is flat and above 0."""
    # Of the axis whose ends vary least: a neck leaves through one face, and stacks begin and end in tissue.
    faces = [np.concatenate([np.take(data, end, axis).ravel() for end in (0, -1)]) for axis in range(3)]
    with np.errstate(over="ignore", invalid="ignore"):  # infinite quartiles are no pedestal
        quartiles = [np.percentile(face, (25, 50, 75)).tolist() for face in faces]
    low, level, high = min(quartiles, key=lambda q: float(q[2] - q[0]))
    # CT's own background, far below zero, has its own rule.
    if not 0 < level < data.max():
        return None
    white = _white_above(data, level)
    spread = _FLAT * (white - level)
    if not level > _PEDESTAL * white or max(high - level, level - low) > spread:
        return None
    if np.count_nonzero(data < level - 2 * spread) > _DARKER * data.size:
        return None
    return Window(float(level), white)
