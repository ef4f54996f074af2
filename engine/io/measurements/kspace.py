"""Read k-space of Cartesian MRI from files into the convention of `MaskedFourier` and the axes of a volume."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.errors import InputError
from engine.io.guard import guarded
from engine.io.hdf5 import has, member_of, opened
from engine.io.measurements.fastmri import read_fastmri
from engine.io.measurements.ismrmrd import is_ismrmrd, read_ismrmrd
from engine.io.measurements.kspace_arrays import SUFFIXES, read_arrays
from engine.io.measurements.kspace_axes import (
    Calibration,
    FileGrid,
    Samples,
    arranged,
    arranged_crop,
    cropped_along_rows,
    middle,
    uncentre,
)
from engine.io.measurements.kspace_data import KSpace
from engine.io.measurements.kspace_mask import mask_file, sampled
from engine.io.measurements.kspace_options import KSpaceReading
from engine.io.measurements.raw_files import refuse_raw
from engine.io.orientation import Orientation
from engine.io.source import Source, listed

log = logging.getLogger("engine")
#: As many samples as an image has add up within float32, unnormalised; squares are taken of scaled ones alone.
_TOO_LARGE = 1e24
#: The dataset of fastMRI, and the usual group of ISMRMRD.
_FASTMRI, _ISMRMRD = "kspace", "dataset"


def load_kspace(
    path: str | Path,
    *,
    orientation: str | None = None,
    mask: str | Path | None = None,
    argument: str = "kspace",
    how: KSpaceReading | None = None,
) -> KSpace:
    """Read an HDF5 file in the layout of fastMRI, or of ISMRMRD; or an array with stated axes.

    The oversampling of a readout is removed, where readouts are whole; axes are brought to those of a volume by
    reversing and transposing, exactly.

    Parameters
    ----------
    path : path
        fastMRI: a dataset `kspace`, complex (n_slices, [n_coils], rows, columns), rows along the readout. ISMRMRD: a
        group, of any name, of Cartesian acquisitions. A .npy, .npz, .mat, HDF5 or BART's .cfl with axes, see
        `engine.io.measurements.kspace_arrays.read_arrays`.
    orientation : str or None
        Three letters of R or L, A or P, S or I: where slices, rows (readout) and columns (phase encoding) count to.
        None: as the file says; where it does not, SPL, axial slices in radiological view.
    mask : path or None
        .npy of (columns,) or (rows, columns) in the layout of the file: which of the samples to use. None: as the file
        says; where it does not, all that are not zero in every slice and coil.
    argument : str
        What errors call the file.
    how : KSpaceReading, optional

    Returns
    -------
    KSpace
        One coil has no axis of its own.

    Raises
    ------
    InputError
        A file that is damaged, of another layout, not Cartesian, or of several images; a maker's raw file; slices
        sampled differently; samples that are not finite, or all zero; a mask or an orientation that does not fit.
    """
    source, how = Source(Path(path), argument), how or KSpaceReading()
    refuse_raw(source)
    if not source.path.is_file():
        raise InputError(argument, "a file of k-space", f"nothing at '{path}'", "check the path")
    if how.axes or source.path.suffix.lower() in SUFFIXES:
        _check_unselected(source, how)
        samples = read_arrays(source, orientation, how.dataset, how.axes)
    else:
        samples = _read(source, orientation, how)
    for remark in samples.remarks:
        log.warning("%s: %s", path, remark)
    _check_values(samples.data, source)
    if samples.calibration is not None:
        _check_values(samples.calibration.data, source)
    chosen = None if mask is None else mask_file(Source(Path(mask), "mask"), samples.data.shape[-2:])
    return _in_volume(samples, sampled(samples, chosen, source), str(path))


@guarded("an HDF5 file", "h5py")
def _read(source: Source, orientation: str | None, how: KSpaceReading) -> Samples:
    with opened(source) as file:
        if has(file, _FASTMRI) and how.dataset in (None, _FASTMRI):
            _check_unselected(source, how)
            return read_fastmri(file, orientation, source)
        groups = [name for name in file if is_ismrmrd(file, name)]
        if len(groups) > 1 and how.dataset is None:
            got, remedy = f"{len(groups)} ({listed(groups)})", "choose one by --dataset and its name"
            raise source.refusal("one group of acquisitions (ISMRMRD)", got, remedy)
        # A group that is nearly one is refused for what it lacks.
        name = how.dataset.strip("/") if how.dataset else groups[0] if groups else _ISMRMRD
        if name in list(file):
            member = member_of(file, name, source)
            if name in groups or how.dataset is None:
                return read_ismrmrd(member, orientation, source, how.numbers)
        if how.dataset is not None:
            expected = "a group of acquisitions (ISMRMRD), or an array beside --axes"
            remedy = "check the name, or state what the axes of the array count with --axes"
            got = f"'{how.dataset[:40]}' among {listed(list(file))}"
            raise source.refusal(f"as --dataset {expected}", got, remedy)
    expected = "a dataset 'kspace' (fastMRI) or a group 'dataset' (ISMRMRD)"
    raise source.refusal(expected, "neither", "convert the file to one")


def _check_unselected(source: Source, how: KSpaceReading) -> None:
    if how.select:
        expected = "a file of ISMRMRD, whose acquisitions have numbers"
        raise InputError("select", expected, f"'{source.path}', of another format", "drop it")


def _check_values(data: np.ndarray, source: Source) -> None:
    n_nan = sum(int(np.isnan(part).sum()) for part in data)
    n_infinite = sum(int(np.isinf(part).sum()) for part in data)
    if n_nan or n_infinite:
        got = " and ".join(f"{n} {word}" for n, word in ((n_nan, "NaN"), (n_infinite, "infinite")) if n)
        remedy = "write 0 where nothing was sampled, and leave lines out that a receiver spoilt"
        raise source.refusal("finite samples", got, remedy)
    # They would overflow in a transform.
    n_large, largest = sum(int((abs(part) >= _TOO_LARGE).sum()) for part in data), max(abs(part).max() for part in data)
    if n_large:
        remedy = "divide all samples by one number, which changes nothing but the unit"
        raise source.refusal(f"samples below {_TOO_LARGE:g}", f"{n_large} larger, up to {largest:.3g},", remedy)
    if not largest:
        raise source.refusal("samples other than zero", "zeros alone", "check the file")


def _in_volume(samples: Samples, sampled: np.ndarray, source: str) -> KSpace:
    data, affine, calibration = samples.data, samples.affine.copy(), samples.calibration
    if not sampled.all():
        for part in data:
            part *= sampled
    crop = samples.crop
    n_rows = len(sampled)
    if samples.n_rows < n_rows:
        first, stop = middle(n_rows, samples.n_rows)
        if (sampled == sampled[0]).all():
            data, sampled = cropped_along_rows(data, samples.n_rows), sampled[: samples.n_rows]
            calibration = _of_inner_rows(calibration, samples.n_rows, source)
            affine[:3, 3] += affine[:3, 1] * first
        else:
            # Incomplete readouts know too little to tell the middle from the rest.
            log.warning("%s: readouts are not whole; their oversampling stays, as a wider image", source)
            crop = ((first, stop), crop[1])
    shape = sampled.shape
    uncentre(data)
    orientation = Orientation.of((len(data), *shape), affine)
    crop = arranged_crop(crop, (shape[0], shape[1]), orientation)
    data, mask, plane = arranged(data, sampled.astype(np.float32), orientation)
    if calibration is not None:
        uncentre(calibration.data)
        lines, lines_mask, _ = arranged(calibration.data, calibration.mask, orientation)
        calibration = replace(calibration, data=lines, mask=lines_mask)
    noise = None if samples.noise is None else samples.noise * float(np.sqrt(mask.size))
    placed = orientation.volume_affine if samples.volume_affine is None else samples.volume_affine
    slices = tuple(range(len(data))) if samples.slices is None else samples.slices
    grid = FileGrid(slices, samples.n_slices or len(data), (shape[0], shape[1]), n_rows, orientation, samples.whitening)
    return KSpace(data, mask, plane, placed, crop, source, noise, grid, calibration, samples.noise_origin)


def _of_inner_rows(calibration: Calibration | None, n_rows: int, source: str) -> Calibration | None:
    """Calibration lines without the oversampling of the readout."""
    if calibration is None:
        return None
    if not (calibration.mask == calibration.mask[0]).all():
        log.warning("%s: readouts of calibration lines are not whole; they are left out", source)
        return None
    return replace(
        calibration, data=cropped_along_rows(calibration.data, n_rows), mask=calibration.mask[:n_rows].copy()
    )
