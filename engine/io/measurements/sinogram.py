"""Sinograms in and out of NumPy, HDF5 and TIFF files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import kernels
from engine.errors import InputError
from engine.io.files import replacing
from engine.io.measurements.geometry import ScanGeometry, pixel_mm_of, read_fields, scan_of
from engine.io.measurements.line_integrals import LineIntegrals, check_voxels, line_integrals, scale_into
from engine.io.measurements.projections import read_projections
from engine.io.measurements.sinogram_checks import Lines, warn_of_doubts
from engine.io.measurements.sinogram_options import Reading
from engine.io.source import Source
from engine.io.volumes.tiff import MAX_CLASSIC_BYTES
from engine.volume import Plane

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
    weights : float32 (n_slices, n_views, n_bins) or None
        Inverse variances of the samples' noise, but for a factor; their mean is 1. None: all are alike.
    details : dict
        What was found out about it, for the plan and the record.
    """

    data: np.ndarray
    geometry: kernels.Geometry
    slice_shape: tuple[int, int]
    plane: Plane
    affine: np.ndarray
    source: str
    weights: np.ndarray | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """Shape of the volume (x, y, z)."""
        sides = (len(self.data), *self.slice_shape)
        x, y, z = (sides[self.plane.axes.index(axis)] for axis in range(3))
        return x, y, z


def load_sinogram(
    path: str | Path,
    geometry_path: str | Path | None = None,
    *,
    dataset: str | None = None,
    argument: str = "sinogram",
    how: Reading | None = None,
) -> Sinogram:
    """Read line integrals, and bring them to a canonical volume's slices and to pixels.

    What is likely to be wrong with them is warned of: see `engine.io.measurements.sinogram_checks`.

    Parameters
    ----------
    path : path
        ``.npy``; ``.npz`` or ``.h5``/``.hdf5`` of one array, or one called ``sinogram``, or in the layout of
        `engine.io.measurements.exchange`; ``.tif``/``.tiff`` of one page a slice, or a view; a folder of ``.tif`` or
        ``.npy`` of one view, or slice, each. Axes are slices, views, bins, or views, slices, bins; an array of two axes
        is one slice. Values are integrals along rays, in image units times mm; or counts, see `Reading`.
    geometry_path : path or None
        JSON, see `engine.io.measurements.geometry.load_geometry`; the angles may be those of the exchange layout. None:
        a parallel beam with pixels as wide as bins, angles from the file or `Reading`.
    dataset : str or None
        Name of the array in a ``.npz`` or HDF5 file; that of `how` where None.
    argument : str
        First word of messages.
    how : Reading, optional

    Returns
    -------
    Sinogram

    Raises
    ------
    InputError
        Nothing there, unreadable, not of two or three axes, complex, NaN or infinite values, or constant; a header that
        claims more than the file can hold; compressed otherwise than with gzip; links out of an HDF5 file; views or
        bins that are not the geometry's; flat fields without light; anything wrong with the geometry.
    """
    source, how = Source(Path(path), argument), how or Reading()
    stored = read_projections(source, how.dataset if dataset is None else dataset)
    fields = {} if geometry_path is None else read_fields(geometry_path)
    read = line_integrals(stored, source, fields, how, has_geometry=geometry_path is not None)
    # All views: what is wrong shows best where there are many.
    _warn(read, source)
    read = read.thinned(how.view_step)
    return _placed(read, scan_of(read.fields, *read.values.shape[1:]), source)


def _warn(read: LineIntegrals, source: Source) -> None:
    """Warn of what is likely to be wrong with line integrals."""
    # In the order of the file, whatever the image's orientation.
    here = {key: value for key, value in read.fields.items() if key not in ("affine", "orientation", "origin_mm")}
    scan = scan_of({**here, "slice_spacing_mm": 1.0}, *read.values.shape[1:])
    warn_of_doubts(Lines(read.values, scan.geometry), source, in_file=read.angles_in_file)


def _placed(read: LineIntegrals, scan: ScanGeometry, source: Source) -> Sinogram:
    """Line integrals in mm as those of canonical slices in pixels."""
    values, weights, place = read.values, read.weights, scan.place
    check_voxels((len(values), *place.slice_shape), source)
    data = np.empty(values.shape, np.float32)
    order = np.s_[:: -1 if place.slices_reversed else 1, :, :: -1 if place.bins_reversed else 1]
    scale_into(data[order], values, place.pixel_mm, source)
    if weights is not None:
        weights = np.ascontiguousarray(weights[order])
    return Sinogram(
        *(data, scan.geometry, place.slice_shape, place.plane, place.affine_of(len(data)), str(source.path), weights),
        read.details,
    )


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
    save_integrals(path, sinogram.data, pixel_mm_of(sinogram.affine, sinogram.plane))


def save_integrals(path: str | Path, data: np.ndarray, pixel_mm: float) -> None:
    """Write line integrals in image units times pixels as `save_sinogram` does, in mm.

    Parameters
    ----------
    path : path
    data : float32, of three axes
    pixel_mm : float

    Raises
    ------
    InputError
        Another kind of file.
    """
    path = Path(path)
    if path.suffix not in (".npy", ".h5", ".hdf5", ".tif", ".tiff"):
        raise InputError(_NAME, "a name in .npy, .h5 or .tif to save to", f"'{path.name}'", "choose one")
    values = data.astype(np.float64) * pixel_mm
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
