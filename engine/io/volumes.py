"""Read NIfTI, NumPy and slice-folder volumes; write NIfTI."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from engine.errors import InputError
from engine.io.files import replacing
from engine.io.frame import Frame

#: Intensities above this percentile of the non-zero voxels map above 1: bright vessels must not dim the whole head.
_WHITE_PERCENTILE = 99.5
#: More than any scanner makes: 1024 cubed, 4 GiB as float32.
_MAX_VOXELS = 2**30
#: Deflate cannot shrink anything further (zlib, "Maximum Expansion Factor").
_MAX_GZIP_RATIO = 1032


@dataclass(frozen=True)
class Volume:
    """A volume with its place in the world.

    Parameters
    ----------
    data : float32 (d0, d1, d2), C-contiguous
        Axes x to the right, y to the front, z to the top, where the file says so.
    affine : float64 (4, 4)
        Voxel indices of `data` to millimetres (right, anterior, superior).
    scale : float
        `data` times this is in the file's own intensity units.
    source : str
        Where it came from, for the run's record.
    frame : Frame or None
        How the file's own axes lie in these, so that a result can be put back; None: they are the same.
    """

    data: np.ndarray
    affine: np.ndarray
    scale: float
    source: str
    frame: Frame | None = None

    @property
    def voxel_mm(self) -> np.ndarray:
        """Edge lengths of a voxel along the three axes, in mm."""
        return np.asarray(np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)))


def load_volume(path: str | Path, stack_axis: int = 2) -> Volume:
    """Read a volume and scale it so that tissue lies in [0, 1].

    Parameters
    ----------
    path : path
        ``.nii`` or ``.nii.gz`` (brought to the closest canonical orientation), ``.npy`` of rank 3 in (x, y, z) order,
        or a folder of ``.npy`` slices, stacked in the order of their names, where numbers count by value: 2 before 10.
    stack_axis : int
        Volume axis, 0, 1 or 2, along which a folder's slices are stacked; rows and columns take the other two in order.

    Returns
    -------
    Volume

    Raises
    ------
    InputError
        Nothing there, unreadable, not of rank 3, complex, NaN or infinite values, or constant; an affine that is not
        finite or not invertible; a header that claims more voxels than the file can hold, or than 1024 cubed.
    """
    path = Path(path)
    if path.is_dir():
        data, affine = _read_slices(path, stack_axis), np.eye(4)
    elif not path.is_file():
        raise InputError(
            "volume: expected a .nii, .nii.gz or .npy file or a folder of .npy slices, "
            f"found nothing at '{path}'; check the path"
        )
    elif path.name.endswith((".nii", ".nii.gz")):
        data, affine = _read_nifti(path)
    elif path.suffix == ".npy":
        data, affine = _read_npy(path), np.eye(4)
    else:
        raise InputError(f"volume: expected .nii, .nii.gz or .npy, got '{path.name}'; convert the file to one of these")
    return normalised(data, affine, str(path))


def normalised(data: np.ndarray, affine: np.ndarray, source: str) -> Volume:
    """Check an array and its affine, and scale its intensities; errors as in `load_volume`."""
    _check_shape(data.shape, source)
    if not np.issubdtype(data.dtype, np.number) or np.iscomplexobj(data):
        raise InputError(f"volume: expected real numbers, got {data.dtype} in '{source}'; save the magnitude")
    if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise InputError(
            f"affine: expected finite, independent axes, got {np.asarray(affine)[:3].tolist()} in '{source}'; "
            "mend the header's voxel sizes and orientation"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is reported below
        data = np.ascontiguousarray(data, dtype=np.float32)
    if not np.isfinite(data).all():
        n_bad = int((~np.isfinite(data)).sum())
        raise InputError(
            f"volume: expected finite float32 values, got {n_bad} NaN or infinite voxels in '{source}'; "
            "replace them before the run"
        )
    tissue = data[data > 0]
    scale = float(np.percentile(tissue, _WHITE_PERCENTILE)) if tissue.size else 0.0
    if not scale > 0 or data.max() == data.min():
        raise InputError(
            f"volume: expected positive, varying intensities, got {data.min():g} to {data.max():g} in '{source}'; "
            "check the file"
        )
    return Volume(data / np.float32(scale), affine, scale, source)


def _check_shape(shape: tuple[int, ...], source: str) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(
            f"volume: expected rank 3 with no empty axis, got shape {shape} in '{source}'; give a single 3D volume"
        )
    if math.prod(shape) > _MAX_VOXELS:
        raise InputError(
            f"volume: expected at most {_MAX_VOXELS} voxels, got shape {shape} in '{source}'; crop or resample it"
        )


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        image: Any = nib.load(path)  # type: ignore[attr-defined]
        shape = tuple(int(n) for n in image.shape)
        n_bytes = math.prod(shape) * image.get_data_dtype().itemsize
    except Exception as error:  # nibabel lets its readers' own errors through: zlib, struct, OSError, ValueError
        raise _unreadable(path, "a NIfTI image", error) from error
    # Before anything is read: the reader allocates what the header claims, and only then looks into the file.
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    _check_shape(shape, str(path))
    n_room = path.stat().st_size * (_MAX_GZIP_RATIO if path.name.endswith(".gz") else 1)
    if n_bytes > n_room:
        raise InputError(
            f"volume: expected {n_bytes} bytes of voxels for the header's shape {shape}, "
            f"got at most {n_room} in '{path}'; export the file again"
        )
    try:
        image = nib.as_closest_canonical(image)  # type: ignore[attr-defined]
        data = np.asanyarray(image.dataobj)
        affine = np.asarray(image.affine, dtype=np.float64)
    except Exception as error:
        raise _unreadable(path, "a NIfTI image", error) from error
    return data.reshape(data.shape[:3]), affine


def _read_npy(path: Path) -> np.ndarray:
    try:
        # Mapped, a file too short for its header is refused before anything is allocated.
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # NumPy raises ValueError, OSError or EOFError, as the damage goes
        raise _unreadable(path, "a .npy array of numbers", error) from error


def _unreadable(path: Path, expected: str, error: Exception) -> InputError:
    # Readers put pages into their messages; the first sentence says what is wrong.
    reason = re.split(r"\n|\.\s", str(error).strip())[0].rstrip(" .")
    return InputError(
        f"volume: expected {expected}, '{path}' cannot be read ({type(error).__name__}: {reason}); save it again"
    )


def _read_slices(folder: Path, stack_axis: int) -> np.ndarray:
    if stack_axis not in (0, 1, 2):
        raise InputError(
            f"stack_axis: expected 0, 1 or 2, got {stack_axis}; name the axis that slices follow each other on"
        )
    files = sorted(folder.glob("*.npy"), key=_by_number)
    if not files:
        raise InputError(
            f"volume: expected .npy slices in the folder '{folder}', found none; give a folder of 2D arrays"
        )
    slices = [np.squeeze(_read_npy(f)) for f in files]
    shapes = {s.shape for s in slices}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        raise InputError(
            f"volume: expected 2D slices of one shape in '{folder}', got shapes {sorted(shapes)[:4]}; "
            "remove what does not belong"
        )
    return np.stack(slices, axis=stack_axis)


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Sort key under which slice_2 comes before slice_10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def save_nifti(path: str | Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write a float32 volume as NIfTI, atomically.

    Parameters
    ----------
    path : path
        Ends in ``.nii`` or ``.nii.gz``.
    data : float32 (d0, d1, d2)
    affine : float64 (4, 4)
        Voxel indices to mm (right, anterior, superior).
    """
    path = Path(path)
    image = nib.Nifti1Image(np.asarray(data, dtype=np.float32), affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    with replacing(path) as temporary:
        nib.save(image, temporary)  # type: ignore[no-untyped-call]
