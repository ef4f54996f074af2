"""Read Cartesian scans from ISMRMRD files: acquisitions, one readout each, sorted into k-space.

Format: Inati et al., "ISMRM Raw data format", MRM 77:411 (2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.io.guard import allow
from engine.io.hdf5 import MAX_RATIO, has, member_of, text_of
from engine.io.measurements.ismrmrd_geometry import slice_order_and_affine
from engine.io.measurements.ismrmrd_noise import ReceiverNoise, noise_of
from engine.io.measurements.ismrmrd_selection import of_coils, of_image
from engine.io.measurements.kspace_axes import Calibration, Samples, affine_of, centred_inverse, middle
from engine.io.measurements.mri_header import DEFAULT_ORIENTATION, Encoding, encoding_of, grid_of
from engine.io.source import Source

#: Acquisitions that are no image.
_SKIPPED = (
    "NOISE_MEASUREMENT NAVIGATION_DATA PHASECORR_DATA HPFEEDBACK_DATA DUMMYSCAN_DATA RTFEEDBACK_DATA "
    "SURFACECOILCORRECTIONSCAN_DATA PHASE_STABILIZATION_REFERENCE PHASE_STABILIZATION"
).split()


def read_ismrmrd(
    group: Any, orientation: str | None, source: Source, select: Mapping[str, int] | None = None
) -> Samples:
    """Read a group of acquisitions of an ISMRMRD file.

    Averages are averaged; navigators and the like are left out. A noise scan tells the noise, and channels are mixed so
    that it is white. A partition direction is transformed, and partitions become slices. Calibration lines that are
    none of the image's come as its `calibration`.

    Parameters
    ----------
    group : h5py.Group
    orientation : str or None
        Where slices, readout and phase encoding count to, instead of what the file says of its position. None, and
        nothing in the file: `DEFAULT_ORIENTATION`.
    source : Source
    select : mapping of str to int, optional
        Which contrast, phase, repetition, set or average to read, where there are several.

    Raises
    ------
    InputError
        Not Cartesian, several images that `select` does not choose between, or no such one, lines that are missing,
        double, or do not fit the header, slices sampled differently; `ismrmrd` is not installed.
    """
    ismrmrd = _package(source)
    encoding = encoding_of(text_of(member_of(group, "xml", source), "xml", source), source)
    if encoding.trajectory != "cartesian":
        raise source.refusal("a Cartesian trajectory", repr(encoding.trajectory[:40]), "grid the samples first")
    dataset = member_of(group, "data", source)
    if dataset.ndim != 1 or (dataset.dtype.names or ())[:1] != ("head",):
        raise source.refusal("a list of acquisitions as 'data'", f"{dataset.shape}", "convert the scan again")
    records = dataset[:]
    is_image, is_calibration = _kinds(records["head"], encoding, ismrmrd)
    select, counters = select or {}, records["head"]["idx"]
    if is_image.any():
        is_image[is_image] = of_image(counters[is_image], select, source)
    is_calibration[is_calibration] = of_coils(counters[is_calibration], select)
    heads = records["head"][is_image]
    _check_one_image(heads, ismrmrd, source)
    n_channels, lines = _placed(heads, encoding, source)
    rows, columns, n_partitions = encoding.encoded.matrix
    slice_numbers, slices = np.unique(heads["idx"]["slice"], return_inverse=True)
    if n_partitions > 1 and len(slice_numbers) > 1:
        raise source.refusal("one slab of partitions", f"{len(slice_numbers)} slabs", "write each to its own file")
    depths = lines[:, 1] if n_partitions > 1 else slices
    n_slices = max(len(slice_numbers), n_partitions)
    shape = (n_slices, n_channels, rows, columns)
    _check_size(shape, heads, source, 2 if is_calibration.any() else 1)
    total, count = _averaged(records[is_image], lines, depths, shape, ismrmrd)
    mask = _shared_mask(count, n_partitions > 1, source)
    calibration, remarks = None, list[str]()
    if is_calibration.any() and n_channels > 1:
        lines_of_coils = records[is_calibration]
        if _is_on_grid(lines_of_coils["head"], n_channels, slice_numbers, ismrmrd):
            calibration = _calibration(lines_of_coils, slice_numbers, (total, count), encoding, ismrmrd, source)
        else:
            remarks.append("calibration lines of another grid than the image's are left out")
    noise = _noise(records, heads, n_channels, encoding, ismrmrd)
    if isinstance(noise, str):
        remarks.append(noise)
        noise = None
    if noise is not None and n_channels > 1:
        noise.whiten(total)
        if calibration is not None:
            noise.whiten(calibration.data)
    order, affine, crop, n_rows = _geometry(heads, slices, encoding, orientation, source)
    if n_partitions > 1:
        order = np.arange(*_slab(encoding))
        total = _slices_of_slab(total, encoding)
        calibration = calibration and replace(calibration, data=_slices_of_slab(calibration.data, encoding))
    else:
        total = total[order]
        calibration = calibration and replace(calibration, data=calibration.data[order])
    data = total[:, 0] if n_channels == 1 else total
    numbers = tuple(order.tolist())
    return Samples(
        *(data, mask, True, affine, n_rows, crop),
        slices=numbers,
        n_slices=n_slices,
        calibration=calibration,
        remarks=tuple(remarks),
        whitening=None if noise is None or n_channels == 1 else noise.whitening,
        # Averages have less of it; where samples differ in their number, what counts is the mean of the variances.
        noise=None if noise is None else noise.level * float(np.sqrt((1 / count[count > 0]).mean())),
        noise_origin="" if noise is None else noise.origin,
    )


def is_ismrmrd(file: Any, name: str) -> bool:
    """Whether the member of that name is a group of acquisitions, without following links."""
    import h5py

    if file.id.links.get_info(name.encode("utf-8", "surrogateescape")).type != h5py.h5l.TYPE_HARD:
        return False
    group = file[name]
    return isinstance(group, h5py.Group) and has(group, "xml") and has(group, "data")


def _package(source: Source) -> ModuleType:
    try:
        import ismrmrd
        import ismrmrd.file
        import ismrmrd.hdf5
    except ImportError as error:
        expected = f"the package ismrmrd to read '{source.path}'"
        raise InputError(source.argument, expected, "none", "`pip install -c constraints.txt -e '.[mri]'`") from error
    return ismrmrd


def _is_set(heads: np.ndarray, name: str, ismrmrd: ModuleType) -> np.ndarray:
    bit = np.uint64(1 << (getattr(ismrmrd, f"ACQ_IS_{name}") - 1))
    return np.asarray((heads["flags"].astype(np.uint64) & bit) != 0)


def _kinds(heads: np.ndarray, encoding: Encoding, ismrmrd: ModuleType) -> tuple[np.ndarray, np.ndarray]:
    """Which acquisitions are of the image, and which of the coils alone."""
    used = np.ones(len(heads), bool)
    for name in _SKIPPED:
        used &= ~_is_set(heads, name, ismrmrd)
    # Calibration lines of the same contrast, taken with the scan, are part of it; others may have their own contrast.
    if encoding.calibration == "embedded":
        return used, np.zeros(len(heads), bool)
    is_calibration = used & (
        _is_set(heads, "PARALLEL_CALIBRATION", ismrmrd) & ~_is_set(heads, "PARALLEL_CALIBRATION_AND_IMAGING", ismrmrd)
    )
    return used & ~is_calibration, is_calibration


def _noise(
    records: np.ndarray, heads: np.ndarray, n_channels: int, encoding: Encoding, ismrmrd: ModuleType
) -> ReceiverNoise | str | None:
    """What the noise scan tells, or why it does not; None where there is none."""
    is_noise = _is_set(records["head"], "NOISE_MEASUREMENT", ismrmrd)
    if not is_noise.any():
        return None
    return noise_of(records[is_noise], heads["sample_time_us"], n_channels, encoding.noise_bandwidth, ismrmrd)


def _averaged(
    records: np.ndarray, lines: np.ndarray, depths: np.ndarray, shape: tuple[int, ...], ismrmrd: ModuleType
) -> tuple[np.ndarray, np.ndarray]:
    """Samples where they belong, complex64 of that shape, and how many were averaged, float32 (depths, rows, columns).

    A partial echo has fewer than a whole one.
    """
    total = np.zeros(shape, np.complex64)
    count = np.zeros((shape[0], *shape[2:]), np.float32)
    discarded = records["head"]["discard_pre"].tolist()
    for record, (column, _, first, stop), depth, begin in zip(records, lines.tolist(), depths, discarded, strict=True):
        # Here the package compares the samples that there are with their number in the head.
        readout = ismrmrd.file.Acquisitions.from_numpy(record).data[:, begin : begin + stop - first]
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is reported later
            total[depth, :, first:stop, column] += readout
        count[depth, first:stop, column] += 1
    for part, number in zip(total, count, strict=True):
        part /= np.maximum(number, 1)
    return total, count


def _is_on_grid(heads: np.ndarray, n_channels: int, slice_numbers: np.ndarray, ismrmrd: ModuleType) -> bool:
    """Whether calibration lines have the coils, slices and encoding of the image."""
    is_alike = (heads["encoding_space_ref"] == 0) & (heads["active_channels"] == n_channels)
    is_alike &= np.isin(heads["idx"]["slice"], slice_numbers) & ~_is_set(heads, "REVERSE", ismrmrd)
    return bool(is_alike.all())


def _calibration(
    records: np.ndarray,
    slice_numbers: np.ndarray,
    scan: tuple[np.ndarray, np.ndarray],
    encoding: Encoding,
    ismrmrd: ModuleType,
    source: Source,
) -> Calibration:
    """Calibration lines on the grid of the scan.

    Interleaved ones have the image's lines between them; those of a scan of their own may differ from it in contrast.
    """
    total, count = scan
    heads = records["head"]
    is_slab = encoding.encoded.matrix[2] > 1
    depths = np.searchsorted(slice_numbers, heads["idx"]["slice"])
    _, lines = _placed(heads, encoding, source)
    calibrated, n_averaged = _averaged(records, lines, lines[:, 1] if is_slab else depths, total.shape, ismrmrd)
    is_of_image = encoding.calibration not in ("separate", "external")
    if is_of_image:
        calibrated += np.where((n_averaged > 0)[:, None], np.complex64(0), total)
        n_averaged = np.maximum(n_averaged, count)
    # Of a slab only the middle partitions need be there, of slices all.
    is_taken = n_averaged > 0
    taken = np.asarray(is_taken.any(axis=0) if is_slab else is_taken.all(axis=0), np.float32)
    calibrated *= taken
    return Calibration(calibrated, taken, is_of_image)


def _check_one_image(heads: np.ndarray, ismrmrd: ModuleType, source: Source) -> None:
    if not len(heads):
        raise source.refusal("acquisitions of an image", "none", "check the file")
    if (heads["encoding_space_ref"] != 0).any():
        raise source.refusal("one encoding", "several", "write the one to reconstruct to its own file")
    if _is_set(heads, "REVERSE", ismrmrd).any():
        raise source.refusal("readouts in one direction", "reversed ones", "correct and sort an echo-planar scan first")
    counters = np.stack([heads["idx"][n] for n in ("slice", "kspace_encode_step_1", "kspace_encode_step_2", "average")])
    if len(np.unique(counters, axis=1).T) < len(heads):
        raise source.refusal("every line once in an average", "some twice", "leave out what belongs to another image")


def _placed(heads: np.ndarray, encoding: Encoding, source: Source) -> tuple[int, np.ndarray]:
    """The number of channels; and of every readout its column, partition, first row and the one past the last."""
    channels = np.unique(heads["active_channels"])
    if len(channels) > 1 or channels[0] < 1:
        raise source.refusal("the same channels in every readout", f"{channels[:4].tolist()}", "convert the scan again")
    n_x, n_y, n_z = encoding.encoded.matrix
    places = []
    for number, n, centre in zip((1, 2), (n_y, n_z), encoding.centres, strict=True):
        place = heads["idx"][f"kspace_encode_step_{number}"].astype(np.int64)
        # A single line or partition is placed by nothing, but there must be one.
        first_count = place.min() if n == 1 else n // 2 if centre is None else centre
        places.append(place - first_count + n // 2)
    n_samples = heads["number_of_samples"].astype(np.int64)
    centre_sample = heads["center_sample"].astype(np.int64)
    # Whole readouts whose centre was never filled in.
    centre_sample = np.where((centre_sample == 0) & (n_samples == n_x), n_x // 2, centre_sample)
    start = n_x // 2 - centre_sample
    first, stop = start + heads["discard_pre"], start + n_samples - heads["discard_post"]
    lines = np.stack([*places, first, stop], axis=1)
    fits = (first >= 0) & (first < stop) & (stop <= n_x)
    for place, n in zip(places, (n_y, n_z), strict=True):
        fits &= (place >= 0) & (place < n)
    if not fits.all():
        column, partition, low, high = lines[~fits][0].tolist()
        expected = f"readouts within the encoded matrix {encoding.encoded.matrix}"
        got = f"samples {low} to {high - 1} of line {column}, partition {partition}"
        raise source.refusal(expected, got, "mend the header's matrix or the centres of its limits")
    return int(channels[0]), lines


def _check_size(shape: tuple[int, ...], heads: np.ndarray, source: Source, n_grids: int) -> None:
    n_claimed = 8 * int((heads["number_of_samples"].astype(np.int64) * heads["active_channels"]).sum())
    n_grid = 8 * math.prod(shape)
    allow(n_grids * n_grid, source)
    if n_grid > MAX_RATIO * n_claimed:
        expected = f"a matrix that is filled to 1 in {MAX_RATIO}"
        got = f"{shape} for {n_claimed} bytes of samples"
        raise source.refusal(expected, got, "mend the header's matrix or split the scan")


def _shared_mask(count: np.ndarray, is_slab: bool, source: Source) -> np.ndarray:
    sampled = count > 0
    unlike = np.flatnonzero((sampled != sampled[0]).any(axis=(1, 2)))
    if len(unlike):
        what = "partition" if is_slab else "slice"
        remedy = "fill or transform the partition direction first" if is_slab else "split the scan by its masks"
        n, n_first = int(sampled[unlike[0]].sum()), int(sampled[0].sum())
        expected = f"the same samples in every {what}"
        raise source.refusal(expected, f"{n} in {what} {unlike[0]}, {n_first} in {what} 0", remedy)
    return sampled[0].astype(np.float32)


def _slices_of_slab(total: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Transform the partition direction; of an oversampled slab the middle."""
    first, stop = _slab(encoding)
    # Coil by coil: transforms take memory.
    for coil in range(total.shape[1]):
        total[:, coil] = centred_inverse(total[:, coil], axis=0)
    return np.ascontiguousarray(total[first:stop])


def _slab(encoding: Encoding) -> tuple[int, int]:
    n, step = encoding.encoded.matrix[2], encoding.encoded.fov_mm[2] / encoding.encoded.matrix[2]
    return middle(n, max(1, min(n, round(encoding.recon.fov_mm[2] / step))))


def _geometry(
    heads: np.ndarray, slices: np.ndarray, encoding: Encoding, orientation: str | None, source: Source
) -> tuple[np.ndarray, np.ndarray, tuple[tuple[int, int], tuple[int, int]], int]:
    """The order of slices, the affine of (slice, row, column), the crop, and the rows without oversampling."""
    rows, columns, n_partitions = encoding.encoded.matrix
    spacing, n_rows, crop = grid_of(encoding, rows, columns)
    n_slices = int(slices.max()) + 1
    placed = None
    if orientation is None:
        firsts = heads[np.unique(slices, return_index=True)[1]]
        placed = slice_order_and_affine(firsts, heads, (rows, columns), spacing, n_partitions, source)
    if placed is not None:
        order, affine = placed
    else:
        numbers = np.unique(heads["idx"]["slice"])
        if np.ptp(numbers) >= len(numbers):
            expected = "slices without gaps where nothing states their position"
            raise source.refusal(expected, f"{len(numbers)} of {np.ptp(numbers) + 1}", "number them without gaps")
        order = np.arange(n_slices)
        n = n_partitions if n_partitions > 1 else n_slices
        affine = affine_of(DEFAULT_ORIENTATION if orientation is None else orientation, (n, rows, columns), spacing)
    if n_partitions > 1:
        affine[:3, 3] += affine[:3, 0] * _slab(encoding)[0]
    return order, affine, crop, n_rows
