"""Sinograms in and out of NumPy, HDF5 and TIFF files."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

import kernels
from engine.errors import InputError
from engine.io.files import replacing
from engine.io.hdf5 import Origin, member_of, opened
from engine.io.measurements.geometry import load_geometry, pixel_mm_of
from engine.io.volumes.numpy_files import read_npy
from engine.volume import Plane
from kernels.geometry import LARGEST_DETECTOR

#: More than any scanner makes: 8 GiB as float32, volumes of 1024 cubed.
_MAX_SAMPLES, _MAX_VOXELS, _MAX_VIEWS = 2**31, 2**30, 100_000
#: Deflate cannot shrink anything further (zlib, "Maximum Expansion Factor").
_MAX_DEFLATE_RATIO = 1032
#: Bytes of a header of a NumPy array, which has 128 as a rule; groups and datasets of an HDF5 file that are looked at.
_MAX_HEADER, _MAX_OBJECTS = 2**16, 1000
_NAME = "sinogram"


@dataclass(frozen=True, eq=False)
class Sinogram:
    """Line integrals through the slices of a volume, and where their rays run.

    `engine.operators.Radon(geometry, slice_shape)` of the slices that `plane` cuts from the volume is what it measures.

    Parameters
    ----------
    data : float32 (n_slices, n_views, n_bins), C-contiguous
        In image units times pixels.
    geometry : kernels.Geometry
        In pixels.
    slice_shape : (int, int)
        Rows and columns of a slice.
    plane : Plane
        How slices are cut from the volume.
    affine : float64 (4, 4)
        Voxel indices of the volume to mm (right, anterior, superior).
    source : str
        Where it came from, for the run's record.
    """

    data: np.ndarray
    geometry: kernels.Geometry
    slice_shape: tuple[int, int]
    plane: Plane
    affine: np.ndarray
    source: str

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """Shape of the volume (x, y, z)."""
        sides = (len(self.data), *self.slice_shape)
        x, y, z = (sides[self.plane.axes.index(axis)] for axis in range(3))
        return x, y, z


def load_sinogram(
    path: str | Path, geometry_path: str | Path, *, dataset: str | None = None, argument: str = "sinogram"
) -> Sinogram:
    """Read line integrals, and bring them to a canonical volume's slices and to pixels.

    Parameters
    ----------
    path : path
        ``.npy``; ``.npz`` or ``.h5``/``.hdf5`` of one array, or one called ``sinogram``; ``.tif``/``.tiff`` of one page
        a slice. Axes are slices, views, bins; an array of two axes is one slice. Values are integrals along rays, in
        image units times mm: logarithms have been taken.
    geometry_path : path
        JSON, see `engine.io.measurements.geometry.load_geometry`.
    dataset : str or None
        Name of the array in a ``.npz`` or HDF5 file.
    argument : str
        First word of messages.

    Returns
    -------
    Sinogram

    Raises
    ------
    InputError
        Nothing there, unreadable, not of two or three axes, complex, NaN or infinite values, or constant; a header that
        claims more than the file can hold; compressed otherwise than with gzip; links out of an HDF5 file; views or
        bins that are not the geometry's; anything wrong with the geometry.
    """
    origin = Origin(Path(path), argument)
    opener = _OPENERS.get(origin.path.suffix.lower())
    if opener is None or not origin.path.is_file():
        found = "another" if origin.path.is_file() else "nothing"
        raise InputError(argument, "a file .npy, .npz, .h5 or .tif", f"{found} at '{path}'", "check it")
    with ExitStack() as stack:
        with origin.reading("an array of numbers"):
            stored = opener(origin, dataset, stack)
        shape = _checked_shape(stored, origin)
        scan = load_geometry(geometry_path, *shape[1:])
        n_voxels = math.prod((shape[0], *scan.slice_shape))
        if n_voxels > _MAX_VOXELS:
            got = f"{n_voxels} of {shape[0]} slices of {scan.image_shape}"
            raise origin.refusal(f"at most {_MAX_VOXELS} voxels", got, "take fewer slices or a smaller image")
        data = np.empty(shape, np.float32)
        slices = data[:: -1 if scan.slices_reversed else 1, :, :: -1 if scan.bins_reversed else 1]
        # What float32 cannot hold becomes infinite and is reported below.
        with origin.reading("an array of numbers"), np.errstate(over="ignore", invalid="ignore"):
            for target, values in zip(slices, stored.slices(), strict=True):
                target[...] = np.true_divide(values, scan.pixel_mm, dtype=np.float64)
    if not np.isfinite(data).all():
        n_bad = int((~np.isfinite(data)).sum())
        raise origin.refusal("finite float32 values", f"{n_bad} NaN or infinite ones", "replace them before the run")
    if data.min() == data.max():
        raise origin.refusal("line integrals that vary", f"{data.min():g} everywhere", "check the file")
    return Sinogram(data, scan.geometry, scan.slice_shape, scan.plane, scan.affine_of(shape[0]), str(path))


def save_sinogram(path: str | Path, sinogram: Sinogram) -> None:
    """Write the line integrals in image units times mm, atomically; `save_geometry` writes what belongs to them.

    As float64, so that division by the size of a pixel gives the very same float32 again.

    Parameters
    ----------
    path : path
        Ends in ``.npy``, ``.h5``, ``.hdf5``, ``.tif`` or ``.tiff``.
    sinogram : Sinogram

    Raises
    ------
    InputError
        Another kind of file.
    """
    path = Path(path)
    if path.suffix not in (".npy", ".h5", ".hdf5", ".tif", ".tiff"):
        raise InputError(_NAME, "a name in .npy, .h5 or .tif to save to", f"'{path.name}'", "choose one")
    values = sinogram.data.astype(np.float64) * pixel_mm_of(sinogram.affine, sinogram.plane)
    with replacing(path) as temporary:
        if path.suffix == ".npy":
            np.save(temporary, values)
        elif path.suffix in (".h5", ".hdf5"):
            import h5py

            with h5py.File(temporary, "w") as file:
                file.create_dataset(_NAME, data=values)
        else:
            import tifffile

            # Beyond 4 GiB a classic file's offsets do not reach.
            with tifffile.TiffWriter(temporary, bigtiff=values.nbytes > 2**32 - 2**25) as tiff:
                for page in values:
                    tiff.write(page, photometric="minisblack", metadata=None)


@dataclass(frozen=True)
class _Stored:
    """An array in an open file, of which nothing has been read, and what reads it slice by slice."""

    shape: tuple[int, ...]
    dtype: Any
    slices: Callable[[], Iterable[np.ndarray]]


def _checked_shape(stored: _Stored, origin: Origin) -> tuple[int, int, int]:
    shape, dtype = tuple(int(n) for n in stored.shape), np.dtype(stored.dtype)
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise origin.refusal(
            "axes slices, views, bins or views, bins", f"shape {shape}", "give one array of these axes"
        )
    if dtype.kind not in "iuf":
        raise origin.refusal("real numbers", re.sub("[^a-z0-9]", "", dtype.name), "save line integrals as float32")
    n_slices, n_views, n_bins = shape if len(shape) == 3 else (1, *shape)
    if n_views > _MAX_VIEWS or n_bins > LARGEST_DETECTOR or math.prod(shape) > _MAX_SAMPLES:
        limits = f"at most {_MAX_VIEWS} views, {LARGEST_DETECTOR} bins and {_MAX_SAMPLES} values"
        raise origin.refusal(limits, f"shape {shape}", "save a part of it")
    return n_slices, n_views, n_bins


def _check_room(n_bytes: int, n_room: int, origin: Origin) -> None:
    if n_bytes > n_room:
        raise origin.refusal(f"{n_bytes} bytes as its header claims", f"at most {n_room}", "save the file again")


def _whole(array: np.ndarray) -> Iterable[np.ndarray]:
    return array if array.ndim == 3 else array[None]


def _refuse_name(dataset: str | None, origin: Origin) -> None:
    if dataset is not None:
        raise origin.refusal("no dataset for files of one array", "a name", "remove it")


def _chosen(names: list[str], dataset: str | None, origin: Origin) -> str:
    """The array to read: by its name, or because it is the only one or called `sinogram`."""
    wanted = dataset if dataset is not None else names[0] if len(names) == 1 else _NAME
    if names.count(wanted) != 1:
        known = ", ".join(re.sub(r"\.(?!\w)|[^\w/.-]", "?", name[:40]) for name in names[:5])
        raise origin.refusal(f"one array called {wanted}", f"{len(names)} ({known})", "name one of them as the dataset")
    return wanted


def _open_npy(origin: Origin, dataset: str | None, stack: ExitStack) -> _Stored:
    _refuse_name(dataset, origin)
    array = read_npy(origin.path, origin.argument)
    return _Stored(array.shape, array.dtype, lambda: _whole(array))


def _open_npz(origin: Origin, dataset: str | None, stack: ExitStack) -> _Stored:
    archive = stack.enter_context(zipfile.ZipFile(origin.path))
    names = [member.filename.removesuffix(".npy") for member in archive.infolist()]
    member = archive.infolist()[names.index(_chosen(names, dataset, origin))]
    ratio = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _MAX_DEFLATE_RATIO}.get(member.compress_type)
    if ratio is None:
        raise origin.refusal("numpy.savez or savez_compressed", "another compression", "save it with one of them")
    _check_room(member.file_size, ratio * origin.path.stat().st_size, origin)
    with archive.open(member) as stream:
        header = BytesIO(stream.read(_MAX_HEADER))
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(header)
    if version not in readers:
        raise origin.refusal("version 1 or 2 of NumPy's format", f"{version[0]}", "save plain numbers")
    shape, by_columns, dtype = readers[version](header)
    n_header = header.tell()
    _check_room(math.prod(shape) * dtype.itemsize, member.file_size - n_header, origin)

    def slices() -> Iterable[np.ndarray]:
        one = shape if by_columns or len(shape) == 2 else shape[1:]
        n_bytes = math.prod(one) * dtype.itemsize
        with archive.open(member) as stream:
            stream.read(n_header)
            for _ in range(math.prod(shape) // math.prod(one)):
                content = stream.read(n_bytes)
                if len(content) < n_bytes:
                    raise origin.refusal("all values that its header claims", "fewer", "save the file again")
                yield from _whole(np.frombuffer(content, dtype).reshape(one, order="F" if by_columns else "C"))
            # At the end of the member its checksum is compared.
            if stream.read(1):
                raise origin.refusal("the values that its header claims", "more", "save the file again")

    return _Stored(shape, dtype, slices)


def _open_hdf5(origin: Origin, dataset: str | None, stack: ExitStack) -> _Stored:
    import h5py

    found: Any = stack.enter_context(opened(origin))
    if dataset is None:
        dataset = _chosen(_arrays(found), None, origin)
    for part in dataset.strip("/").split("/"):
        if not isinstance(found, h5py.Group):
            raise origin.refusal("a dataset", "a longer name than there is", "check its name")
        found = member_of(found, part, origin)
    if not isinstance(found, h5py.Dataset):
        raise origin.refusal("a dataset", "a group", "add the name of the dataset in it")
    if found.chunks is not None:
        n_chunks = math.prod(-(-side // chunk) for side, chunk in zip(found.shape, found.chunks, strict=True))
        if found.id.get_num_chunks() != n_chunks:  # where nothing was written HDF5 reads zeros
            raise origin.refusal(f"all of {n_chunks} chunks", f"{found.id.get_num_chunks()}", "finish writing it")
    return _Stored(found.shape, found.dtype, lambda: _whole(found[()]))


def _arrays(file: Any) -> list[str]:
    """Names of the arrays of two or three axes in an HDF5 file, or only that of the one called `sinogram`."""
    import h5py

    names: list[str] = []
    n_objects = 0

    def visit(name: str, found: Any) -> bool | None:  # comes by hard links only: what others lead to is not opened
        nonlocal n_objects
        n_objects += 1
        # A virtual dataset's shape is looked up in other files.
        if isinstance(found, h5py.Dataset) and (found.is_virtual or len(found.shape or ()) in (2, 3)):
            names.append(name)
        return True if n_objects >= _MAX_OBJECTS else None

    if _NAME in list(file):
        return [_NAME]
    file.visititems(visit)
    return names


def _open_tiff(origin: Origin, dataset: str | None, stack: ExitStack) -> _Stored:
    from engine.io.volumes import tiff

    _refuse_name(dataset, origin)
    file = stack.enter_context(tiff.opened(origin.path, origin.argument))
    pages: list[Any] = list(file.pages)
    size, shape, dtype = origin.path.stat().st_size, pages[0].shape, pages[0].dtype
    if len(shape) != 2 or dtype is None or any(page.shape != shape or page.dtype != dtype for page in pages):
        raise origin.refusal("pages of views and bins, all alike", f"pages like {shape}", "save one page a slice")
    if any(page.compression != 1 or page.is_tiled or page.bitspersample != 8 * dtype.itemsize for page in pages):
        raise origin.refusal("pages of plain numbers", "compressed, tiled or packed ones", "save them as they are")
    n_bytes = math.prod(shape) * dtype.itemsize
    for page in pages:
        _check_room(max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))), size, origin)
        _check_room(n_bytes, sum(page.databytecounts), origin)
    _check_room(len(pages) * n_bytes, size, origin)
    if (file.imagej_metadata or {}).get("images", 1) not in (1, len(pages)):
        raise origin.refusal("one page a slice", "ImageJ's one page for all", "save it as HDF5 or NumPy")
    return _Stored((len(pages), *shape), dtype, lambda: (page.asarray(maxworkers=1) for page in pages))


_OPENERS: dict[str, Callable[[Origin, str | None, ExitStack], _Stored]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".h5": _open_hdf5,
    ".hdf5": _open_hdf5,
    ".tif": _open_tiff,
    ".tiff": _open_tiff,
}
