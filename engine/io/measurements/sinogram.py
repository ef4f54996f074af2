"""Sinograms in and out of NumPy, HDF5 and TIFF files."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import kernels
from engine.errors import InputError
from engine.io.checks import MAX_VOXELS
from engine.io.files import replacing
from engine.io.measurements.geometry import (
    ScanGeometry,
    angles_of,
    n_angles_of,
    pixel_mm_of,
    read_fields,
    scan_of,
)
from engine.io.measurements.projections import Projections, read_projections
from engine.io.measurements.sinogram_checks import Lines, doubts
from engine.io.measurements.sinogram_geometry import add_angles, complete, set_centre, set_unit
from engine.io.measurements.sinogram_options import Reading
from engine.io.measurements.transmission import corrected, is_bright_at_border, minus_log, open_beam, weights_of
from engine.io.source import Source
from engine.io.volumes.tiff import MAX_CLASSIC_BYTES
from engine.volume import Plane
from kernels.geometry import LARGEST_DETECTOR

log = logging.getLogger("engine")

#: More than any scanner makes: 8 GiB as float32, volumes of 1024 cubed.
_MAX_SAMPLES, _MAX_VIEWS = 2**31, 100_000
_NAME = "sinogram"
_AXES = ("slices", "views", "bins")


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
    angles_in_file = add_angles(fields, stored, how)
    values, flat, dark = _in_order(stored, n_angles_of(fields), how, source)
    _check(values, source)
    n_views, n_bins = values.shape[1:]
    if how.turn is not None:
        fields["angles_deg"] = {"first": 0, "last_excluded": how.turn, "count": n_views}
    if geometry_path is None:
        complete(fields, n_bins, how)
    elif how.bin_mm is not None:
        raise InputError("bin-mm", "no --geometry beside it, which has bin_spacing_mm", how.bin_mm, "drop one of them")
    set_unit(fields, n_views, n_bins, how)
    values = _integrals(values, flat, dark, how, source)
    weights = weights_of(values, flat, dark) if how.weights == "counts" else None
    found = set_centre(fields, values, how, has_geometry=geometry_path is not None)
    # All views: what is wrong shows best where there are many.
    _warn(values, fields, source, angles_in_file)
    if how.view_step > 1:
        fields["angles_deg"] = angles_of(fields, n_views, n_bins)[:: how.view_step]
        fields.pop("angles_rad", None)
        values = values[:, :: how.view_step]
        weights = None if weights is None else weights[:, :: how.view_step]
    placed = _placed(values, weights, scan_of(fields, *values.shape[1:]), source)
    details = {} if found is None else {"centre_bin": round(found, 2)}
    return replace(placed, details=details if weights is None else {**details, "weights": how.weights})


def _in_order(
    stored: Projections, n_angles: int | None, how: Reading, source: Source
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Values (slices, views, bins), a view of what is stored, with flat and dark field (slices, bins)."""
    values = stored.values
    if how.axes:
        if sorted(how.axes) != sorted(_AXES):
            got = f"'{','.join(how.axes)}'"
            raise InputError("axes", "slices, views and bins in the order of the file", got, "give each of them once")
        if values.ndim != 3:
            raise InputError("axes", "an array of three axes", f"{values.ndim} in '{source.path}'", "drop --axes")
        return values.transpose([how.axes.index(name) for name in _AXES]), stored.flat, stored.dark
    if values.ndim == 2:
        values = values[None]
        return values, stored.flat, stored.dark
    views_first = stored.views_first
    if values.ndim == 3 and n_angles is not None and (values.shape[0] == n_angles) != (values.shape[1] == n_angles):
        views_first = values.shape[0] == n_angles
    if stored.flat is not None or stored.dark is not None:
        # The fields belong to projections.
        views_first = True
    return (values.swapaxes(0, 1) if views_first and values.ndim == 3 else values), stored.flat, stored.dark


def _integrals(
    values: np.ndarray, flat: np.ndarray | None, dark: np.ndarray | None, how: Reading, source: Source
) -> np.ndarray:
    """Line integrals from what the detector counted; as they are where they are integrals."""
    takes_log = how.minus_log
    beam = how.open_beam
    if beam is not None and not takes_log:
        raise InputError("open-beam", "--minus-log beside it", f"{beam:g}, which has no effect", "pass --minus-log")
    if how.flats != "none" and (flat is not None or dark is not None):
        if beam is not None:
            raise InputError("open-beam", "no flat field in the file", f"{beam:g}", "drop it, or pass --flats none")
        # Fields of ones and zeros say that somebody has corrected the values: with or without a logarithm.
        is_trivial = flat is not None and bool((flat == 1).all()) and (dark is None or not dark.any())
        values = corrected(values, flat, dark, source, mend=how.flats == "mend")
        takes_log, beam = takes_log or not is_trivial or is_bright_at_border(values), 1.0
    if not takes_log:
        return values
    return minus_log(values, open_beam(values) if beam is None else beam, source)


def _warn(values: np.ndarray, fields: dict[str, Any], source: Source, angles_in_file: bool) -> None:
    """Warn of what is likely to be wrong with line integrals."""
    # In the order of the file, whatever the image's orientation.
    here = {key: value for key, value in fields.items() if key not in ("affine", "orientation", "origin_mm")}
    scan = scan_of({**here, "slice_spacing_mm": 1.0}, *values.shape[1:])
    if np.isfinite(values).all():
        for doubt in doubts(Lines(values, scan.geometry), in_file=angles_in_file):
            log.warning("%s: %s", source.path, doubt)


def _placed(values: np.ndarray, weights: np.ndarray | None, scan: ScanGeometry, source: Source) -> Sinogram:
    """Line integrals in mm as those of canonical slices in pixels."""
    n_voxels = math.prod((len(values), *scan.slice_shape))
    if n_voxels > MAX_VOXELS:
        got = f"{n_voxels} of {len(values)} slices of {scan.image_shape}"
        raise source.refusal(f"at most {MAX_VOXELS} voxels", got, "take fewer slices or a smaller image")
    data = np.empty(values.shape, np.float32)
    order = np.s_[:: -1 if scan.slices_reversed else 1, :, :: -1 if scan.bins_reversed else 1]
    slices = data[order]
    # What float32 cannot hold becomes infinite and is reported below.
    with np.errstate(over="ignore", invalid="ignore"):
        for target, lines in zip(slices, values, strict=True):
            target[...] = np.true_divide(lines, scan.pixel_mm, dtype=np.float64)
    if not np.isfinite(data).all():
        n_bad = int((~np.isfinite(data)).sum())
        raise source.refusal("finite float32 values", f"{n_bad} NaN or infinite ones", "replace them before the run")
    if data.min() == data.max():
        raise source.refusal("line integrals that vary", f"{data.min():g} everywhere", "check the file")
    if weights is not None:
        weights = np.ascontiguousarray(weights[order])
    affine = scan.affine_of(len(data))
    return Sinogram(data, scan.geometry, scan.slice_shape, scan.plane, affine, str(source.path), weights)


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
