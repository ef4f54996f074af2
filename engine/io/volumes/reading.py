"""The voxels of a volume, from files of any kind: which reader a path belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.errors import InputError
from engine.io.checks import check_affine, check_frame, check_shape
from engine.io.orientation import Orientation
from engine.io.source import Source
from engine.io.volumes import dicom, itk, mgh, nifti, numpy_files, sidecar, tiff
from engine.io.volumes.dicom_files import SUFFIXES, is_series
from engine.io.volumes.shear import straightened

NIFTI, TIFF = (".nii", ".nii.gz"), (".tif", ".tiff")
_PAIRS = tuple(ending for pair in nifti.PAIRS.items() for ending in pair)
_MGH = (".mgz", ".mgh")
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
#: Names of volumes' files end like this, those of DICOM perhaps.
VOLUME_ENDINGS = (*NIFTI, *TIFF, *itk.ENDINGS, *_MGH, *nifti.PAIRS, ".npy", ".npz", ".dcm")
_KINDS = ".nii, .nii.gz, .hdr with .img, .mgz, .nrrd, .mha, .mhd, .npy, .npz, .tif or .tiff"


@dataclass(frozen=True)
class Thickness:
    """How thick slices are, which may be less than their distance, or more.

    Parameters
    ----------
    mm : float
    origin : str
        What says it.
    axis : int or None
        Of the volume, along which slices follow each other; None: not said, as programs that turn an image leave its
        description as it was.
    """

    mm: float
    origin: str
    axis: int | None = None


@dataclass(frozen=True)
class Voxels:
    """What a file says of a volume.

    Parameters
    ----------
    data : array (d0, d1, d2)
        In the units of the file, with the axes of a volume.
    affine : float64 (4, 4)
        Its voxel indices to mm; of perpendicular axes.
    orientation : Orientation or None
        The way back to the axes of the file; None: they are the same.
    thickness : Thickness or None
    """

    data: np.ndarray
    affine: np.ndarray
    orientation: Orientation | None = None
    thickness: Thickness | None = None


def read(source: Source, stack_axis: int, frame: int | None = None) -> Voxels:
    """Read the voxels that a path names.

    Parameters
    ----------
    source : Source
    stack_axis : int
        Volume axis along which slices of a folder and pages of a TIFF follow each other.
    frame : int or None
        Which volume, counted from 0, of a file or series that has several.

    Raises
    ------
    InputError
        As `load_volume`, except what the intensities are.
    """
    name = source.path.name.lower()
    if source.path.is_dir():
        return _read_folder(source, stack_axis, frame)
    if not source.path.is_file():
        expected = f"a {_KINDS} file or a folder of slices"
        raise InputError(source.argument, expected, f"nothing at '{source.path}'", "check the path")
    if name.endswith((*NIFTI, *_PAIRS)):
        data, placed = nifti.read(source, frame)
        said = sidecar.slice_thickness_mm(source.path)
        return _straight(data, placed, None if said is None else Thickness(*said), source)
    if name.endswith(_MGH):
        return _straight(*mgh.read(source, frame), None, source)
    if name.endswith(itk.ENDINGS):
        return _straight(*itk.read(source, frame), None, source)
    if name.endswith(".npy"):
        check_frame(frame, 1, source)
        return Voxels(numpy_files.read_npy(source), np.eye(4))
    if name.endswith(".npz"):
        check_frame(frame, 1, source)
        return Voxels(numpy_files.read_npz(source, None, "volume"), np.eye(4))
    if name.endswith(TIFF):
        check_frame(frame, 1, source)
        return _stacked(*tiff.read(source), stack_axis, source)
    if name.endswith(_ARCHIVES):
        raise InputError(source.argument, _KINDS, f"the archive '{source.path}'", "unpack it, and give what it holds")
    if name.endswith(SUFFIXES) or is_series(source.path, source.argument):
        return _read_series(source, frame)
    raise InputError(source.argument, _KINDS, f"'{source.path.name}'", "convert the file to one of these")


def _read_series(source: Source, frame: int | None) -> Voxels:
    series = dicom.read_series(source.path, source.argument, frame)
    check_shape(series.data.shape, source)
    check_affine(series.affine, source)
    orientation = Orientation.of(series.data.shape, series.affine)
    thickness = None
    if series.thickness_mm is not None:
        thickness = Thickness(series.thickness_mm, "DICOM", orientation.order.index(2))
    return _straight(orientation.volume_of(series.data), orientation, thickness, source)


def _straight(data: np.ndarray, orientation: Orientation, thickness: Thickness | None, source: Source) -> Voxels:
    """Voxels on a straight grid. Slices are along the third axis of the file."""
    axis = orientation.order.index(2)
    aslant = orientation.volume_affine
    data, affine = straightened(data, aslant, source, axis)
    before, after = (float(np.linalg.norm(a[:3, axis])) for a in (aslant, affine))
    if thickness is not None and after < thickness.mm <= before:
        # Under a tilted gantry slices as thick as the table moves are a little thicker than they are apart.
        thickness = replace(thickness, mm=after)
    return Voxels(data, affine, orientation, thickness)


def _read_folder(source: Source, stack_axis: int, frame: int | None) -> Voxels:
    """The voxels of a folder's slices, all of one kind."""
    # Hidden files are those of file managers, and what a stopped program left.
    files = sorted((f for f in source.path.iterdir() if not f.name.startswith(".")), key=_by_number)
    arrays = [f for f in files if f.suffix.lower() == ".npy"]
    images = [f for f in files if f.suffix.lower() in TIFF]
    # A pipe would be waited for.
    if odd := next((f for f in (*arrays, *images) if not f.is_file()), None):
        raise source.refusal("files as slices", f"another thing '{odd.name}'", "move it away")
    series = is_series(source.path, source.argument)
    if bool(arrays) + bool(images) + series != 1:
        kinds = [kind for kind, there in ((".npy", arrays), (".tif", images), ("DICOM", series)) if there]
        got = " and ".join(kinds) or "none"
        raise source.refusal("slices of one kind, .npy, .tif or DICOM", got, "give a folder of slices alone")
    if series:
        return _read_series(source, frame)
    check_frame(frame, 1, source)
    voxel_mm = (1.0, 1.0, 1.0)
    slices: Iterable[np.ndarray]
    if arrays:
        # No more than one is open at a time.
        slices = (numpy_files.read_npy(Source(file, source.argument)) for file in arrays)
    else:
        slices, voxel_mm = tiff.read_slices(source, [file.name for file in images])
    files = arrays or images
    stack: np.ndarray | None = None
    for i, (file, array) in enumerate(zip(files, map(np.squeeze, slices), strict=True)):
        if array.ndim != 2 or (stack is not None and array.shape != stack.shape[1:]):
            expected = "2D slices" if stack is None else f"2D slices of shape {stack.shape[1:]}"
            raise source.refusal(expected, f"shape {array.shape} of '{file.name}'", "remove what does not belong")
        if stack is None:
            check_shape((len(files), *array.shape), source)
            stack = np.empty((len(files), *array.shape), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is reported later
            stack[i] = array
    assert stack is not None
    return _stacked(stack, voxel_mm, stack_axis, source)


def _stacked(pages: np.ndarray, voxel_mm: tuple[float, float, float], stack_axis: int, source: Source) -> Voxels:
    """Pages that follow each other along an axis of the volume: a view."""
    check_shape(pages.shape, source)
    sizes = list(voxel_mm[1:])
    sizes.insert(stack_axis, voxel_mm[0])
    return Voxels(np.moveaxis(pages, 0, stack_axis), np.diag([*sizes, 1.0]))


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Sort key under which slice_2 comes before slice_10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in parts]
