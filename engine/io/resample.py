"""Bring a volume to a cube of isotropic voxels."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from engine.io.volumes import Volume

#: Gaussian width, in units of the ratio of voxel sizes, whose half maximum spans one coarse voxel.
_ANTIALIAS = 1 / (2 * np.sqrt(2 * np.log(2)))


def antialiased(volume: Volume, voxel_mm: float) -> np.ndarray:
    """Blur along each axis so that sampling at `voxel_mm` does not alias; finer axes stay as they are."""
    ratio = voxel_mm / volume.voxel_mm
    width = np.where(ratio > 1, np.sqrt(np.maximum(ratio**2 - 1, 0)) * _ANTIALIAS, 0.0)
    return np.asarray(ndimage.gaussian_filter(volume.data, width, mode="constant"), dtype=np.float32)


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
    data = ndimage.affine_transform(
        antialiased(volume, voxel_mm), step, offset=origin, output_shape=(size,) * 3, order=1, mode="constant"
    )
    move = np.eye(4)
    move[:3, :3] = np.diag(step)
    move[:3, 3] = origin
    return Volume(np.ascontiguousarray(data, dtype=np.float32), volume.affine @ move, volume.scale, volume.source)
