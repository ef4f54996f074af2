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
from engine.io.measurements.ismrmrd import read_ismrmrd
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
from engine.io.orientation import Orientation
from engine.io.source import Source
from engine.io.volumes.numpy_files import read_npy

log = logging.getLogger("engine")
#: As many samples as an image has add up within float32, unnormalised; squares are taken of scaled ones alone.
_TOO_LARGE = 1e24
#: Part of the samples of those rows and columns that were sampled at all from which on the others count as zeros that
#: were measured, not as holes.
_GRID = 0.99
#: Part of a scan's samples that each slice with any has, where all slices were sampled alike.
_ALIKE = 0.9


def load_kspace(
    path: str | Path,
    *,
    orientation: str | None = None,
    mask: str | Path | None = None,
    argument: str = "kspace",
) -> KSpace:
    """Read an HDF5 file in the layout of fastMRI, or of ISMRMRD.

    The oversampling of a readout is removed, where readouts are whole; axes are brought to those of a volume by
    reversing and transposing, exactly.

    Parameters
    ----------
    path : path
        fastMRI: a dataset `kspace`, complex (n_slices, [n_coils], rows, columns), rows along the readout. ISMRMRD: a
        group `dataset` of Cartesian acquisitions.
    orientation : str or None
        Three letters of R or L, A or P, S or I: where slices, rows (readout) and columns (phase encoding) count to.
        None: as the file says; where it does not, SPL, axial slices in radiological view.
    mask : path or None
        .npy of (columns,) or (rows, columns) in the layout of the file: which of the samples to use. None: as the file
        says; where it does not, all that are not zero in every slice and coil.
    argument : str
        What errors call the file.

    Returns
    -------
    KSpace
        One coil has no axis of its own.

    Raises
    ------
    InputError
        A file that is damaged, of another layout, not Cartesian, or of several contrasts; slices sampled differently;
        samples that are not finite, or all zero; a mask or an orientation that does not fit.
    """
    source = Source(Path(path), argument)
    if not source.path.is_file():
        raise InputError(argument, "an HDF5 file", f"nothing at '{path}'", "check the path")
    samples = _read(source, orientation)
    for remark in samples.remarks:
        log.warning("%s: %s", path, remark)
    _check_values(samples.data, source)
    if samples.calibration is not None:
        _check_values(samples.calibration.data, source)
    chosen = None if mask is None else _mask_file(Source(Path(mask), "mask"), samples.data.shape[-2:])
    return _in_volume(samples, _sampled(samples, chosen, source), str(path))


@guarded("an HDF5 file", "h5py")
def _read(source: Source, orientation: str | None) -> Samples:
    with opened(source) as file:
        if has(file, "kspace"):
            return read_fastmri(file, orientation, source)
        if has(file, "dataset"):
            return read_ismrmrd(member_of(file, "dataset", source), orientation, source)
    expected = "a dataset 'kspace' (fastMRI) or a group 'dataset' (ISMRMRD)"
    raise source.refusal(expected, "neither", "convert the file to one")


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


def _mask_file(source: Source, shape: tuple[int, ...]) -> np.ndarray:
    mask = read_npy(source, "buif")
    if mask.shape not in (shape[1:], shape):
        expected = f"numbers {shape[1:]} or {shape}, one a sample"
        raise source.refusal(expected, f"{mask.dtype} {mask.shape}", "make one of that shape")
    return np.asarray(mask)


def _sampled(samples: Samples, chosen: np.ndarray | None, source: Source) -> np.ndarray:
    """Which samples to use, bool (rows, columns)."""
    shape = samples.data.shape[-2:]
    if chosen is not None:
        asker = Source(source.path, "mask")
        mask = _as_bool(chosen, shape, asker)
    elif samples.mask is not None:
        asker = source
        mask = _as_bool(samples.mask, shape, source)
    else:
        asker, mask = source, np.ones(shape, bool)
    if samples.is_exact and samples.mask is not None:
        mask = mask & _as_bool(samples.mask, shape, source)
    elif chosen is None and samples.mask is None:
        mask = _found(samples.data, source)
    else:
        # Padding: what a scanner measures is never zero in a whole line.
        held = np.zeros(shape, bool)
        for part in samples.data:
            held |= _nonzero(part)
        mask = mask & _grid(held)
    if not mask.any() or not any(part[..., mask].any() for part in samples.data):
        raise asker.refusal("a mask with samples that are not zero", "none left", "check the mask against the file")
    return mask


def _as_bool(mask: np.ndarray, shape: tuple[int, ...], asker: Source) -> np.ndarray:
    if not ((mask == 0) | (mask == 1)).all():
        raise asker.refusal("a mask of 0 and 1", "other values", "set 1 where sampled")
    return np.broadcast_to(mask != 0, shape)


def _found(data: np.ndarray, source: Source) -> np.ndarray:
    """Which samples are not zero in some slice or coil, after all slices were found to be sampled alike."""
    of_slices = [_nonzero(part) for part in data]
    found = np.asarray(np.stack(of_slices).any(axis=0))
    counts = np.array([part.sum() for part in of_slices])
    unlike = np.flatnonzero((counts > 0) & (counts < _ALIKE * found.sum()))
    if len(unlike):
        expected = "the same samples in every slice"
        remedy = "split the scan by its masks, or state the samples that all share with --mask"
        raise source.refusal(expected, f"{counts[unlike[0]]} of {int(found.sum())} in slice {unlike[0]}", remedy)
    grid = _grid(found)
    # A value can be zero by chance or by rounding to integers; a line of lines cannot.
    return grid if found.sum() >= _GRID * grid.sum() else found


def _nonzero(part: np.ndarray) -> np.ndarray:
    """Whether any coil has something, bool (rows, columns)."""
    return np.asarray((part != 0).reshape(-1, *part.shape[-2:]).any(axis=0))


def _grid(held: np.ndarray) -> np.ndarray:
    """The samples of those rows and columns that have any."""
    return np.logical_and.outer(held.any(axis=1), held.any(axis=0))


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
    grid = FileGrid(slices, samples.n_slices or len(data), (shape[0], shape[1]), n_rows, orientation)
    return KSpace(data, mask, plane, placed, crop, source, noise, grid, calibration)


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
