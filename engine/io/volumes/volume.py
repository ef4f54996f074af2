"""Volumes, from files of any kind and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.errors import InputError
from engine.io.checks import check_affine, check_numbers, check_shape
from engine.io.orientation import Orientation
from engine.io.source import Source
from engine.io.volumes import background, nifti, numpy_files, reading, tiff
from engine.io.volumes.intensities import window_of, without_padding
from engine.io.volumes.reading import NIFTI, TIFF, Thickness

#: Nothing in a body is so bright beside tissue: a voxel beyond is damage.
_MOST_WHITES = 1e6


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
        `data` times this, plus `offset`, is in the file's own intensity units.
    source : str
        Where it came from, for the run's record.
    orientation : Orientation or None
        How the file's own axes lie in these, so that a result can be put back; None: they are the same.
    offset : float
        What 0 in `data` is in the file's units: black.
    thickness : Thickness or None
        Of slices, where the file says it.
    """

    data: np.ndarray
    affine: np.ndarray
    scale: float
    source: str
    orientation: Orientation | None = None
    offset: float = 0.0
    thickness: Thickness | None = None

    @property
    def voxel_mm(self) -> np.ndarray:
        """Edge lengths of a voxel along the three axes, in mm."""
        return np.asarray(np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)))

    def in_file_units(self, data: np.ndarray) -> np.ndarray:
        """Undo the scaling of `load_volume`: `data` times scale plus offset.

        Parameters
        ----------
        data : float32, any shape
            In the units of `self.data`.

        Returns
        -------
        float32
        """
        scaled = np.asarray(data, dtype=np.float32) * np.float32(self.scale)
        return np.asarray(scaled + np.float32(self.offset) if self.offset else scaled, dtype=np.float32)


def load_volume(
    path: str | Path,
    stack_axis: int = 2,
    *,
    argument: str = "volume",
    white: float | None = None,
    black: float | None = None,
    frame: int | None = None,
) -> Volume:
    """Read a volume and scale it so that tissue lies in [0, 1].

    Parameters
    ----------
    path : path
        ``.nii``, ``.nii.gz``, a pair ``.hdr`` and ``.img``, ``.mgz``, ``.nrrd``, ``.mha`` or ``.mhd`` in any
        orientation; ``.npy`` of rank 3 in (x, y, z) order; ``.npz`` of one such array, or one of the name "volume"; a
        TIFF stack; a folder of ``.npy`` or TIFF slices, stacked in the order of their names, where numbers count by
        value: 2 before 10; the folder of a DICOM series, or an enhanced DICOM file.
    stack_axis : int
        Volume axis, 0, 1 or 2, along which slices and the pages of a TIFF stack are stacked; their rows and columns
        take the other two in order.
    argument : str
        The option that named the path: messages begin with it.
    white, black : float or None
        Intensities, in the file's units, that become 1 and 0; None: those of `engine.io.volumes.intensities.window_of`.
    frame : int or None
        Which volume, counted from 0, where the file has several: time points, echoes, b-values. None: the only one.

    Returns
    -------
    Volume
        Padding of CT is air.

    Raises
    ------
    InputError
        Nothing there, unreadable, not of rank 3, complex, infinite values or NaN inside, or constant; an affine that is
        not finite or not invertible; a header that claims more voxels than the file can hold, or than 1024 cubed; a
        folder of several kinds of slices; several volumes and none chosen, or one that is not there; a `white` or
        `black` that is not finite, or the first not above the second.
    """
    source = Source(Path(path), argument)
    if stack_axis not in (0, 1, 2):
        raise InputError("stack_axis", "0, 1 or 2", stack_axis, "name the axis that slices follow each other on")
    file = reading.read(source, stack_axis, frame)
    volume = normalised(
        *(file.data, file.affine, str(path)), argument=argument, white=white, black=black, orientation=file.orientation
    )
    return replace(volume, thickness=file.thickness)


def normalised(
    data: np.ndarray,
    affine: np.ndarray,
    source: str,
    *,
    argument: str = "volume",
    white: float | None = None,
    black: float | None = None,
    orientation: Orientation | None = None,
) -> Volume:
    """Check an array and its affine, and scale its intensities; arguments and errors as in `load_volume`."""
    named = Source(Path(source), argument)
    check_shape(data.shape, named)
    check_numbers(data.dtype, named)
    check_affine(affine, named)
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold becomes infinite: reported below
        data = np.ascontiguousarray(data, dtype=np.float32)
    data = background.filled(data, named)
    low, high = data.min(), data.max()
    data = without_padding(data)
    try:
        if low == high:
            raise ValueError("constant")
        found = window_of(data)
    except ValueError as error:
        remedy = "check the file"
        raise named.refusal("positive, varying intensities", f"{low:g} to {high:g}", remedy) from error
    offset, top = found.black if black is None else black, found.white if white is None else white
    if not math.isfinite(offset):
        raise InputError("black", "a finite intensity", offset, "give the intensity that is to become 0")
    if not (math.isfinite(top) and top > offset):
        expected = f"a finite intensity above {offset:g}, which becomes 0"
        name, got = ("black", black) if white is None else ("white", white)
        if name == "black":
            expected = f"an intensity below {top:g}, which becomes 1"
        raise InputError(name, expected, got, "give the intensities, in the file's units, that become 0 and 1")
    scale = top - offset
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        # One copy of the volume in either case.
        result = data - np.float32(offset) if offset else data.copy()
        result /= np.float32(scale)
        # Written so that NaN is out of range as well.
        in_range = 0 < np.float32(scale) < np.inf and bool(abs(result).max() <= _MOST_WHITES)
    if not in_range:
        expected = f"intensities of at most {_MOST_WHITES:g} times white"
        raise named.refusal(expected, f"{low:g} to {high:g} with white {top:g}", "mend the file, or state --white")
    return Volume(result, np.asarray(affine, np.float64), scale, source, orientation, offset)


def save_volume(
    path: str | Path,
    data: np.ndarray,
    affine: np.ndarray,
    orientation: Orientation | None = None,
    *,
    argument: str = "out",
) -> None:
    """Write a volume, whole or not at all; the same volume gives the same bytes.

    Parameters
    ----------
    path : path
        ``.nii``, ``.nii.gz``, ``.npy`` (without its place) or ``.tif``, ``.tiff`` (for ImageJ: with voxel sizes, pages
        along axis 2).
    data : float32 (d0, d1, d2)
        In the units that the file is to have.
    affine : float64 (4, 4)
        Voxel indices of `data` to mm (right, anterior, superior).
    orientation : Orientation or None
        That of the volume which was read: the file gets its axes, and NIfTI its coordinate systems.
    argument : str
        The option that named the path: messages begin with it.

    Raises
    ------
    InputError
        Another ending; no such folder.
    """
    path = Path(path)
    name = path.name.lower()
    if not name.endswith((*NIFTI, *TIFF, ".npy")):
        raise InputError(argument, ".nii, .nii.gz, .npy or .tif", f"'{path.name}'", "name one of these")
    if not path.parent.is_dir():
        raise InputError(argument, "an existing folder", f"none at '{path.parent}'", "make it first")
    data = np.asarray(data, dtype=np.float32)
    if orientation is not None:
        data, affine = orientation.file_of(data, affine)
    if name.endswith(NIFTI):
        nifti.write(path, data, affine, orientation)
    elif name.endswith(".npy"):
        numpy_files.write_npy(path, data)
    else:
        tiff.write(path, data, np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))


def save_nifti(path: str | Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write a float32 volume as NIfTI, atomically; arguments as in `save_volume`."""
    nifti.write(Path(path), np.asarray(data, dtype=np.float32), affine)
