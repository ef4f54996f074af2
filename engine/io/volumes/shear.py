"""Volumes whose slices follow each other aslant, as with a tilted gantry, brought to a straight grid."""

from __future__ import annotations

import logging
import math

import numpy as np

from engine.io.checks import check_shape
from engine.io.source import Source
from engine.io.volumes.background import filled

#: Slices that follow each other further off their normal were made with a tilted gantry: the grid is not rectangular.
MAX_TILT_DEG = 0.5
#: No gantry tilts further.
_MOST_DEG = 45.0
#: Part of a pixel that headers round.
_ROUNDING_PX = 1e-3
_log = logging.getLogger(__name__)


def straightened(
    data: np.ndarray, affine: np.ndarray, source: Source, slice_axis: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Move slices within their planes so that they follow their normal; a straight volume is returned as it is.

    Nothing is interpolated between slices: each keeps its plane, and is moved by cubic splines of its pixels, within
    the range of its intensities. The grid grows to hold all of them; where it has no pixels those nearest go on.

    Parameters
    ----------
    data : float32 (d0, d1, d2)
    affine : float64 (4, 4)
        Voxel indices of `data` to mm.
    source : Source
        For messages: a warning, where slices are moved.
    slice_axis : int
        Axis along which slices follow each other, if the other two are perpendicular; else another for which they are.

    Returns
    -------
    data : float32
    affine : float64 (4, 4)
        Of perpendicular axes: those of rows and columns as they were, and the normal.

    Raises
    ------
    InputError
        No two axes are perpendicular, slices follow each other more than 45° aslant, more than 1024 cubed voxels, or
        NaN and infinite values that `background.filled` refuses.
    """
    axes = affine[:3, :3]
    directions = axes / np.linalg.norm(axes, axis=0)
    cosines = abs(directions.T @ directions - np.eye(3))
    limit = math.sin(math.radians(MAX_TILT_DEG))
    if cosines.max() <= limit:
        return data, affine
    others = [(i + 1) % 3 for i in range(3)], [(i + 2) % 3 for i in range(3)]
    order = sorted(range(3), key=lambda i: (i != slice_axis, -i))
    axis = next((i for i in order if cosines[others[0][i], others[1][i]] <= limit), None)
    remedy = "resample it to a straight grid, for example with nibabel.processing.resample_to_output"
    if axis is None:
        raise source.refusal("rows and columns at right angles", "a grid that is sheared in every plane", remedy)
    a, b = (i for i in range(3) if i != axis)
    normal = np.cross(directions[:, a], directions[:, b])
    normal /= np.linalg.norm(normal) * (1 if normal @ axes[:, axis] > 0 else -1)
    distance = float(normal @ axes[:, axis])
    # Pixels along rows and columns by which each slice is further than the one before.
    sideways_px = np.linalg.lstsq(axes[:, [a, b]], axes[:, axis] - distance * normal, rcond=None)[0]
    tilt_deg = math.degrees(math.acos(min(1.0, distance / float(np.linalg.norm(axes[:, axis])))))
    if tilt_deg > _MOST_DEG:
        raise source.refusal(f"slices at most {_MOST_DEG:g}° aslant", f"{tilt_deg:.1f}°", remedy)
    n = data.shape[axis]
    ends = (n - 1) * sideways_px
    first = np.floor(np.minimum(ends, 0) + _ROUNDING_PX).astype(int)
    more = np.ceil(np.maximum(ends, 0) - _ROUNDING_PX).astype(int) - first
    shape = [*data.shape]
    shape[a], shape[b] = shape[a] + int(more[0]), shape[b] + int(more[1])
    check_shape(tuple(shape), source)
    data = filled(data, source)  # a spline would spread a NaN over its slice
    straight = np.empty(shape, np.float32)
    for k in range(n):
        _move(np.moveaxis(data, axis, 0)[k], first - k * sideways_px, np.moveaxis(straight, axis, 0)[k])
    result = np.array(affine, np.float64)
    result[:3, axis] = distance * normal
    result[:3, 3] += axes[:, [a, b]] @ first
    _log.warning(
        "'%s': slices follow each other %.1f° aslant, as with a tilted gantry; they are moved within their planes "
        "to a straight grid of %s voxels",
        *(source.path, tilt_deg, "×".join(map(str, shape))),
    )
    return straight, result


def _move(image: np.ndarray, start_px: np.ndarray, out: np.ndarray) -> None:
    """Interpolate an image at pixels start + i into another one."""
    from scipy import ndimage

    ndimage.affine_transform(image, np.ones(2), start_px, out.shape, out, order=3, mode="nearest")
    # Splines overshoot beside edges.
    np.clip(out, image.min(), image.max(), out=out)
