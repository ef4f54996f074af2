"""Read NIfTI, NumPy and slice-folder volumes; write NIfTI."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from engine.errors import InputError

#: Intensities above this percentile of the non-zero voxels map above 1: bright vessels must not dim the whole head.
_WHITE_PERCENTILE = 99.5


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
    """

    data: np.ndarray
    affine: np.ndarray
    scale: float
    source: str

    @property
    def voxel_mm(self) -> np.ndarray:
        """Edge lengths of a voxel along the three axes, in mm."""
        return np.asarray(np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)))

    def with_data(self, data: np.ndarray) -> Volume:
        """The same place and scale with other voxels of the same shape."""
        return replace(self, data=np.ascontiguousarray(data, dtype=np.float32))


def load_volume(path: str | Path, stack_axis: int = 2) -> Volume:
    """Read a volume and scale it so that tissue lies in [0, 1].

    Parameters
    ----------
    path : path
        ``.nii`` or ``.nii.gz`` (brought to the closest canonical orientation), ``.npy`` of rank 3 in (x, y, z) order, or a
        folder of ``.npy`` slices, stacked in the order of their names.
    stack_axis : int
        Volume axis along which a folder's slices are stacked; rows and columns take the other two in order.

    Returns
    -------
    Volume

    Raises
    ------
    InputError
        Nothing there, unreadable, not of rank 3, complex, NaN or infinite values, or constant.
    """
    path = Path(path)
    if path.is_dir():
        data, affine = _read_slices(path, stack_axis), np.eye(4)
    elif not path.is_file():
        raise InputError(f"volume: expected a .nii, .nii.gz or .npy file or a folder of .npy slices, found nothing at '{path}'; check the path")
    elif path.name.endswith((".nii", ".nii.gz")):
        data, affine = _read_nifti(path)
    elif path.suffix == ".npy":
        data, affine = _read_npy(path), np.eye(4)
    else:
        raise InputError(f"volume: expected .nii, .nii.gz or .npy, got '{path.name}'; convert the file to one of these")
    return normalised(data, affine, str(path))


def normalised(data: np.ndarray, affine: np.ndarray, source: str) -> Volume:
    """Check an array and scale its intensities; errors as in `load_volume`."""
    if data.ndim != 3 or 0 in data.shape:
        raise InputError(f"volume: expected rank 3 with no empty axis, got shape {data.shape} in '{source}'; give a single 3D volume")
    if not np.issubdtype(data.dtype, np.number) or np.iscomplexobj(data):
        raise InputError(f"volume: expected real numbers, got {data.dtype} in '{source}'; save the magnitude")
    data = np.ascontiguousarray(data, dtype=np.float32)
    if not np.isfinite(data).all():
        n_bad = int((~np.isfinite(data)).sum())
        raise InputError(f"volume: expected finite values, got {n_bad} NaN or infinite voxels in '{source}'; replace them before the run")
    tissue = data[data > 0]
    scale = float(np.percentile(tissue, _WHITE_PERCENTILE)) if tissue.size else 0.0
    if not scale > 0 or data.max() == data.min():
        raise InputError(f"volume: expected positive, varying intensities, got {data.min():g} to {data.max():g} in '{source}'; check the file")
    return Volume(data / np.float32(scale), affine, scale, source)


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        image = nib.as_closest_canonical(nib.load(path))  # type: ignore[no-untyped-call, arg-type]
        data = np.asanyarray(image.dataobj)
        affine = np.asarray(image.affine, dtype=np.float64)
    except Exception as error:  # nibabel lets its readers' own errors through: zlib, struct, OSError, ValueError
        raise InputError(
            f"volume: expected a NIfTI image, '{path}' cannot be read ({type(error).__name__}: {error}); export it again"
        ) from error
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    return data, affine


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except Exception as error:  # NumPy raises ValueError, OSError or EOFError, as the damage goes
        raise InputError(f"volume: expected a .npy array of numbers, '{path}' cannot be read ({error}); save it again") from error


def _read_slices(folder: Path, stack_axis: int) -> np.ndarray:
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise InputError(f"volume: expected .npy slices in the folder '{folder}', found none; give a folder of 2D arrays")
    slices = [np.squeeze(_read_npy(f)) for f in files]
    shapes = {s.shape for s in slices}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        raise InputError(f"volume: expected 2D slices of one shape in '{folder}', got shapes {sorted(shapes)[:4]}; remove what does not belong")
    return np.stack(slices, axis=stack_axis)


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
    suffix = ".nii.gz" if path.name.endswith(".nii.gz") else ".nii"
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part", suffix=suffix)
    os.close(handle)
    try:
        nib.save(image, temporary)  # type: ignore[no-untyped-call]
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
