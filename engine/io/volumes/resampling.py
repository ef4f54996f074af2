"""Bring a volume to isotropic voxels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from engine.errors import InputError
from engine.io.checks import MAX_VOXELS
from engine.io.volumes.volume import Volume

#: Gaussian width, in units of the ratio of voxel sizes, whose half maximum spans one coarse voxel.
_ANTIALIAS = 1 / (2 * np.sqrt(2 * np.log(2)))
#: Part of a voxel by which a field of view may exceed whole voxels: headers round their sizes.
_ROUNDING = 0.01


def antialiased(volume: Volume, voxel_mm: float, mode: str = "constant") -> np.ndarray:
    """Blur along each axis so that sampling at `voxel_mm` does not alias; finer axes stay as they are.

    `mode` says what lies outside, as in `scipy.ndimage`: "constant" is nothing, "nearest" more of the same.
    """
    from scipy import ndimage

    ratio = voxel_mm / volume.voxel_mm
    width = np.where(ratio > 1, np.sqrt(np.maximum(ratio**2 - 1, 0)) * _ANTIALIAS, 0.0)
    return np.asarray(ndimage.gaussian_filter(volume.data, width, mode=mode), dtype=np.float32)


def tissue_centre(volume: Volume) -> np.ndarray:
    """Middle of the bounding box of the voxels above 5 % of white, in voxel indices."""
    corners = [np.flatnonzero((volume.data > 0.05).any(axis=tuple({0, 1, 2} - {a}))) for a in range(3)]
    return np.array([(c[0] + c[-1]) / 2 for c in corners])


def resample(volume: Volume, size: int, voxel_mm: float) -> Volume:
    """Sample a cube around the tissue's centre.

    Parameters
    ----------
    volume : Volume
    size : int
        Side of the cube, in voxels.
    voxel_mm : float
        Side of its voxels, in mm.

    Returns
    -------
    Volume
        (size, size, size); zeros outside the original field of view; the affine keeps world coordinates.
    """
    step = voxel_mm / volume.voxel_mm
    origin = tissue_centre(volume) - step * (size - 1) / 2
    return _sampled(volume, antialiased(volume, voxel_mm), step, origin, (size,) * 3, "constant")


def resample_isotropic(volume: Volume, voxel_mm: float, *, argument: str = "voxel_mm") -> Volume:
    """Sample the whole field of view on cubic voxels.

    The corner of the field of view, half a voxel before the first one's centre, keeps its place in the world; at the
    other end it grows to whole voxels, the last of which take what lies nearest.

    Parameters
    ----------
    volume : Volume
    voxel_mm : float
        Side of the voxels, in mm.
    argument : str
        What messages call the size.

    Returns
    -------
    Volume
        With the orientation of `volume`, whose `file_of` takes any size.

    Raises
    ------
    InputError
        Not positive and finite; wider than the field of view; so small that there are more than 1024 cubed voxels.
    """
    field_mm = volume.voxel_mm * volume.data.shape
    if not (math.isfinite(voxel_mm) and voxel_mm > 0):
        raise InputError(argument, "a positive size", voxel_mm, "give the side of a voxel in mm")
    if voxel_mm > field_mm.min() * (1 + _ROUNDING):
        expected = f"at most the field of view's smallest side, {field_mm.min():g} mm"
        raise InputError(argument, expected, f"{voxel_mm:g}", "give the side of a voxel in mm")
    # As Python's integers, which do not overflow.
    a, b, c = (max(1, math.ceil(side / voxel_mm - _ROUNDING)) for side in field_mm.tolist())
    if a * b * c > MAX_VOXELS:
        expected = f"at most {MAX_VOXELS} voxels"
        raise InputError(argument, expected, f"{voxel_mm:g}, which makes {a} × {b} × {c}", "give larger voxels")
    step = voxel_mm / volume.voxel_mm
    return _sampled(volume, antialiased(volume, voxel_mm, "nearest"), step, (step - 1) / 2, (a, b, c), "nearest")


def _sampled(
    volume: Volume, data: np.ndarray, step: np.ndarray, origin: np.ndarray, shape: tuple[int, int, int], mode: str
) -> Volume:
    """Interpolate `data` at voxel indices origin + step · i; the affine follows."""
    from scipy import ndimage

    sampled = ndimage.affine_transform(data, step, offset=origin, output_shape=shape, order=1, mode=mode)
    move = np.eye(4)
    move[:3, :3] = np.diag(step)
    move[:3, 3] = origin
    return replace(volume, data=np.ascontiguousarray(sampled, dtype=np.float32), affine=volume.affine @ move)
