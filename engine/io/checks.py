"""What the readers of every format ask of a volume."""

from __future__ import annotations

import math

import numpy as np

from engine.errors import InputError

#: More than any scanner makes: 1024 cubed, 4 GiB as float32.
MAX_VOXELS = 2**30
#: Deflate cannot shrink anything further (zlib, "Maximum Expansion Factor").
MAX_DEFLATE_RATIO = 1032
#: Voxel sizes in mm, from a nanometre to a kilometre: what lies outside is damage.
_VOXEL_SIZES_MM = (1e-6, 1e6)
#: Below this, the axes of a voxel of unit edges lie in a plane (smallest singular value).
_FLAT = 1e-4


def check_shape(shape: tuple[int, ...], source: str, argument: str) -> None:
    """Refuse what is not of rank 3, is empty, or has more than 1024 cubed voxels."""
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(
            argument, "rank 3 with no empty axis", f"shape {shape} in '{source}'", "give a single 3D volume"
        )
    if math.prod(shape) > MAX_VOXELS:
        raise InputError(
            argument, f"at most {MAX_VOXELS} voxels", f"shape {shape} in '{source}'", "crop or resample it"
        )


def check_numbers(dtype: np.dtype, source: str, argument: str) -> None:
    """Refuse complex numbers, and what is no number."""
    if dtype.kind not in "iuf":
        raise InputError(argument, "real numbers", f"{dtype} in '{source}'", "save the magnitude")


def check_affine(affine: np.ndarray, source: str, argument: str) -> None:
    """Refuse an affine that is not finite, whose axes lie in a plane, or whose voxels have no possible size."""
    axes = np.asarray(affine, dtype=np.float64)[:3, :3]
    low, high = _VOXEL_SIZES_MM
    usable = bool(np.isfinite(affine).all())
    if usable:
        edges = np.hypot(np.hypot(axes[0], axes[1]), axes[2])
        usable = edges.min() >= low and edges.max() <= high
    if not usable or np.linalg.svd(axes / edges, compute_uv=False)[-1] < _FLAT:
        raise InputError(
            argument,
            f"an affine of finite, independent axes and voxels of {low:g} to {high:g} mm",
            f"{np.asarray(affine)[:3].tolist()} in '{source}'",
            "mend the header's voxel sizes and orientation",
        )
