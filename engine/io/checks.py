"""What the readers of every format ask of a volume."""

from __future__ import annotations

import math

import numpy as np

from engine.errors import InputError
from engine.io.source import Source

#: More than any scanner makes: 1024 cubed, 4 GiB as float32.
MAX_VOXELS = 2**30
#: Deflate cannot shrink anything further (zlib, "Maximum Expansion Factor").
MAX_DEFLATE_RATIO = 1032
#: Voxel sizes in mm, from a nanometre to a kilometre: what lies outside is damage.
_VOXEL_SIZES_MM = (1e-6, 1e6)
#: Below this, the axes of a voxel of unit edges lie in a plane (smallest singular value).
_FLAT = 1e-4


def check_shape(shape: tuple[int, ...], source: Source) -> None:
    """Refuse what is not of rank 3, is empty, or has more than 1024 cubed voxels."""
    if len(shape) != 3 or min(shape) < 1:
        raise source.refusal("rank 3 with no empty axis", f"shape {shape}", "give a single 3D volume")
    if math.prod(shape) > MAX_VOXELS:
        raise source.refusal(f"at most {MAX_VOXELS} voxels", f"shape {shape}", "crop or resample it")


def check_numbers(dtype: np.dtype, source: Source) -> None:
    """Refuse complex numbers, and what is no number."""
    if dtype.kind not in "iuf":
        raise source.refusal("real numbers", f"{dtype}", "save the magnitude")


def check_room(shape: tuple[int, ...], dtype: np.dtype, source: Source, ratio: int = 1) -> None:
    """Refuse an array that the file cannot hold, not even where its bytes are `ratio` times compressed."""
    n_bytes, n_room = math.prod(shape) * dtype.itemsize, ratio * source.path.stat().st_size
    if n_bytes > n_room:
        raise source.refusal(f"{n_bytes} bytes for the header's shape {shape}", f"at most {n_room}", "save it again")


def check_affine(affine: np.ndarray, source: Source) -> None:
    """Refuse an affine that is not finite, whose axes lie in a plane, or whose voxels have no possible size."""
    axes = np.asarray(affine, dtype=np.float64)[:3, :3]
    low, high = _VOXEL_SIZES_MM
    usable = bool(np.isfinite(affine).all())
    if usable:
        edges = np.hypot(np.hypot(axes[0], axes[1]), axes[2])
        usable = edges.min() >= low and edges.max() <= high
    if not usable or np.linalg.svd(axes / edges, compute_uv=False)[-1] < _FLAT:
        expected = f"an affine of finite, independent axes and voxels of {low:g} to {high:g} mm"
        got = f"{np.asarray(affine)[:3].tolist()}"
        raise source.refusal(expected, got, "mend the header's voxel sizes and orientation")


def check_frame(chosen: int | None, n: int, source: Source, differ: str = "") -> int:
    """Return which of n volumes in a file is to be read.

    Parameters
    ----------
    chosen : int or None
        By its number, counted from 0.
    n : int
    source : Source
    differ : str
        What is known of how they differ.

    Raises
    ------
    InputError
        None chosen though there are several, or one that is not there.
    """
    if chosen is None and n > 1:
        got = f"{n} volumes{' ' if differ else ''}{differ}"
        raise source.refusal("a single 3D volume", got, f"choose one with --frame, 0 to {n - 1}")
    if chosen is not None and not 0 <= chosen < n:
        expected = f"0 to {n - 1}" if n > 1 else "0, the only one"
        raise InputError("frame", f"{expected} in '{source.path}'", chosen, "choose one that there is, counted from 0")
    return chosen or 0
