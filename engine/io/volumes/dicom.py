"""Read a DICOM series as a volume with its place in the patient."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np

from engine.io.guard import allow, guarded
from engine.io.source import Source
from engine.io.volumes.dicom_files import EXPECTED, read_dataset
from engine.io.volumes.dicom_frames import PIXEL_TAGS, Frame, affine_of, frames_of_series, in_order

_ROWS_AT_A_TIME = 64
_log = logging.getLogger(__name__)


def read_series(folder: str | Path, argument: str = "volume") -> tuple[np.ndarray, np.ndarray]:
    """Read the one series of a folder: classic single-frame files, or enhanced ones with functional groups.

    Slices are put in order along their normal by their positions, never by name or number, and their distance is that
    of the positions. Files that are no DICOM images (text, a DICOMDIR, reports) are left out. Takes up to twice the
    memory of the voxels.

    Parameters
    ----------
    folder : path
    argument : str
        What errors call the folder.

    Returns
    -------
    data : float32 (columns, rows, slices), a view with columns contiguous
        Rescale slope and intercept applied, slice by slice; finite.
    affine : float64 (4, 4)
        Indices of `data` to mm (right, anterior, superior).

    Raises
    ------
    InputError
        No images, or unreadable, truncated or compressed ones that cannot be decoded here; several series; colour;
        slices without geometry, or that differ in size, orientation or pixel spacing; fewer than two slices, two at one
        position, gaps that differ by more than 1 %, or a gantry tilted by more than 0.5°; a header that claims more
        than the file can hold.

    References
    ----------
    DICOM PS3.3, C.7.6.2 (Image Plane) and C.7.6.16 (Multi-frame Functional Groups).
    """
    data, affine, left_out = _read(Source(Path(folder), argument))
    if left_out:
        _log.info("%s: %d DICOM files that are no images are left out (%s)", folder, len(left_out), left_out[0])
    return data, affine


@guarded(EXPECTED, "pydicom.pixels")
def _read(source: Source) -> tuple[np.ndarray, np.ndarray, list[str]]:
    frames, left_out = frames_of_series(source)
    frames = in_order(frames, source)
    allow(4 * len(frames) * math.prod(frames[0].shape), source)
    return _voxels(frames).transpose(2, 1, 0), affine_of(frames), left_out


def _voxels(frames: list[Frame]) -> np.ndarray:
    """The scaled pixels of the frames, float32 (slices, rows, columns)."""
    from pydicom.pixels import iter_pixels

    of_file: dict[Source, list[int]] = {}
    for k, frame in enumerate(frames):
        of_file.setdefault(frame.file, []).append(k)
    data = np.empty((len(frames), *frames[0].shape), dtype=np.float32)
    for file, members in of_file.items():
        with file.reading(EXPECTED), np.errstate(all="ignore"):
            dataset = read_dataset(file.path, [*PIXEL_TAGS, "PixelData"])
            indices = [frames[k].index for k in members]
            for k, image in zip(members, iter_pixels(dataset, indices=indices, raw=True), strict=True):
                frame = frames[k]
                if image.shape != frame.shape:
                    raise ValueError(f"pixels of shape {image.shape} decoded for {frame.shape}")
                # In float64, because a product may leave float32's range before the sum returns to it.
                for start in range(0, len(image), _ROWS_AT_A_TIME):
                    rows = slice(start, start + _ROWS_AT_A_TIME)
                    values = np.multiply(image[rows], frame.slope, dtype=np.float64)
                    values += frame.intercept
                    data[k, rows] = values
                if not np.isfinite(data[k]).all():
                    got = f"slope {frame.slope:g} and intercept {frame.intercept:g}"
                    raise file.refusal("values that float32 can hold", got, "mend the header")
    return data
