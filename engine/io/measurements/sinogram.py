"""Sinograms in and out of NumPy, HDF5 and TIFF files."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import kernels
from engine.errors import InputError
from engine.io.checks import MAX_VOXELS
from engine.io.files import replacing
from engine.io.measurements.arrays import SUFFIXES, read_array
from engine.io.measurements.geometry import load_geometry, pixel_mm_of
from engine.io.source import Source
from engine.io.volumes.tiff import MAX_CLASSIC_BYTES
from engine.volume import Plane
from kernels.geometry import LARGEST_DETECTOR

#: More than any scanner makes: 8 GiB as float32, volumes of 1024 cubed.
_MAX_SAMPLES, _MAX_VIEWS = 2**31, 100_000
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
    source = Source(Path(path), argument)
    if source.path.suffix.lower() not in SUFFIXES or not source.path.is_file():
        got = "another" if source.path.is_file() else "nothing"
        raise InputError(argument, "a file .npy, .npz, .h5 or .tif", f"{got} at '{path}'", "check it")
    stored = read_array(source, dataset, _NAME)
    stored = stored[None] if stored.ndim == 2 else stored
    _check(stored, source)
    scan = load_geometry(geometry_path, *stored.shape[1:])
    n_voxels = math.prod((len(stored), *scan.slice_shape))
    if n_voxels > MAX_VOXELS:
        got = f"{n_voxels} of {len(stored)} slices of {scan.image_shape}"
        raise source.refusal(f"at most {MAX_VOXELS} voxels", got, "take fewer slices or a smaller image")
    data = np.empty(stored.shape, np.float32)
    slices = data[:: -1 if scan.slices_reversed else 1, :, :: -1 if scan.bins_reversed else 1]
    # What float32 cannot hold becomes infinite and is reported below.
    with np.errstate(over="ignore", invalid="ignore"):
        for target, values in zip(slices, stored, strict=True):
            target[...] = np.true_divide(values, scan.pixel_mm, dtype=np.float64)
    if not np.isfinite(data).all():
        n_bad = int((~np.isfinite(data)).sum())
        raise source.refusal("finite float32 values", f"{n_bad} NaN or infinite ones", "replace them before the run")
    if data.min() == data.max():
        raise source.refusal("line integrals that vary", f"{data.min():g} everywhere", "check the file")
    return Sinogram(data, scan.geometry, scan.slice_shape, scan.plane, scan.affine_of(len(data)), str(path))


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

            with tifffile.TiffWriter(temporary, bigtiff=values.nbytes > MAX_CLASSIC_BYTES) as tiff:
                for page in values:
                    tiff.write(page, photometric="minisblack", metadata=None)


def _check(stored: np.ndarray, source: Source) -> None:
    shape, dtype = stored.shape, stored.dtype
    if len(shape) != 3 or min(shape) < 1:
        expected = "axes slices, views, bins or views, bins"
        raise source.refusal(expected, f"shape {shape}", "give one array of these axes")
    if dtype.kind not in "iuf":
        raise source.refusal("real numbers", re.sub("[^a-z0-9]", "", dtype.name), "save line integrals as float32")
    if shape[1] > _MAX_VIEWS or shape[2] > LARGEST_DETECTOR or stored.size > _MAX_SAMPLES:
        limits = f"at most {_MAX_VIEWS} views, {LARGEST_DETECTOR} bins and {_MAX_SAMPLES} values"
        raise source.refusal(limits, f"shape {shape}", "save a part of it")
