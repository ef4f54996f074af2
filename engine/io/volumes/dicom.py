"""Read a DICOM series as a volume with its place in the patient."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.io.guard import allow, guarded
from engine.io.source import Source
from engine.io.volumes.dicom_files import EXPECTED, read_dataset
from engine.io.volumes.dicom_frames import PIXEL_TAGS, Frame, frames_of_series
from engine.io.volumes.dicom_order import in_order, thickness_of
from engine.io.volumes.dicom_padding import PADDING_TAGS, as_background, is_padding

_ROWS_AT_A_TIME = 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Series:
    """What a DICOM series holds.

    Parameters
    ----------
    data : float32 (columns, rows, slices), a view with columns contiguous
        Rescale slope and intercept applied, slice by slice; finite. Pixel padding is background: see
        `engine.io.volumes.dicom_padding`.
    affine : float64 (4, 4)
        Indices of `data` to mm (right, anterior, superior): perpendicular, unless slices follow each other aslant.
    thickness_mm : float or None
        Slice Thickness, where all slices have the same one.
    left_out, copies : list of str
        Names of DICOM files that are no images, and of those whose instance is in another file as well.
    """

    data: np.ndarray
    affine: np.ndarray
    thickness_mm: float | None
    left_out: list[str]
    copies: list[str]


def read_series(path: str | Path, argument: str = "volume", frame: int | None = None) -> Series:
    """Read the one series of a folder: classic single-frame files, or enhanced ones with functional groups.

    Slices are put in order along their normal by their positions, never by name or number. Their distance is that of
    the regular grid that fits the positions best. Files that are no DICOM images (text, a DICOMDIR, reports) are left
    out, and so are further copies of an instance. Takes up to twice the memory of the voxels.

    Parameters
    ----------
    path : path
        Of the folder, or of an enhanced file with all frames.
    argument : str
        What errors call the path.
    frame : int or None
        Which of the frames at each position, where there are several: counted from 0 in the order of image type,
        echo time, inversion time, b-value, time, and number.

    Returns
    -------
    Series

    Raises
    ------
    InputError
        No images, or unreadable, empty, truncated or compressed ones that cannot be decoded here; several series;
        colour; mosaics; slices without geometry, or that differ in size, orientation or pixel spacing; fewer than two
        slices; several at one position, and none or a wrong one chosen; gaps that differ by more than 1 % and more than
        positions are rounded; a header that claims more than the file can hold.

    References
    ----------
    DICOM PS3.3, C.7.6.2 (Image Plane) and C.7.6.16 (Multi-frame Functional Groups).
    """
    series = _read(Source(Path(path), argument), frame)
    for names, what in ((series.left_out, "DICOM files that are no images"), (series.copies, "copies of other files")):
        if names:
            _log.info("%s: %d %s are left out (%s)", path, len(names), what, names[0])
    return series


@guarded(EXPECTED, "pydicom.pixels")
def _read(source: Source, frame: int | None = None) -> Series:
    frames, left_out, copies = frames_of_series(source)
    frames, affine = in_order(frames, source, frame)
    allow(4 * len(frames) * math.prod(frames[0].shape), source)
    return Series(_voxels(frames).transpose(2, 1, 0), affine, thickness_of(frames), left_out, copies)


def _voxels(frames: list[Frame]) -> np.ndarray:
    """The scaled pixels of the frames, float32 (slices, rows, columns)."""
    from pydicom.pixels import iter_pixels

    of_file: dict[Source, list[int]] = {}
    for k, frame in enumerate(frames):
        of_file.setdefault(frame.file, []).append(k)
    data = np.empty((len(frames), *frames[0].shape), dtype=np.float32)
    padded = np.zeros(data.shape, bool)
    is_ct = False
    for file, members in of_file.items():
        with file.reading(EXPECTED), np.errstate(all="ignore"):
            dataset = read_dataset(file.path, [*PIXEL_TAGS, *PADDING_TAGS, "PixelData"])
            is_ct = dataset.get("Modality") == "CT"
            indices = [frames[k].index for k in members]
            for k, image in zip(members, iter_pixels(dataset, indices=indices, raw=True), strict=True):
                frame = frames[k]
                if image.shape != frame.shape:
                    raise ValueError(f"pixels of shape {image.shape} decoded for {frame.shape}")
                padded[k] = is_padding(image, dataset)
                # In float64, because a product may leave float32's range before the sum returns to it.
                for start in range(0, len(image), _ROWS_AT_A_TIME):
                    rows = slice(start, start + _ROWS_AT_A_TIME)
                    values = np.multiply(image[rows], frame.slope, dtype=np.float64)
                    values += frame.intercept
                    data[k, rows] = values
                if not np.isfinite(data[k]).all():
                    got = f"slope {frame.slope:g} and intercept {frame.intercept:g}"
                    raise file.refusal("values that float32 can hold", got, "mend the header")
    as_background(data, padded, is_ct=is_ct)
    return data
