"""Read a DICOM series as a volume with its place in the patient."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset
from pydicom.encaps import get_frame
from pydicom.pixels import iter_pixels
from pydicom.uid import UID, RLELossless

from engine.errors import InputError
from engine.io.volumes.dicom_files import Refusal, read_dataset, reading
from engine.io.volumes.dicom_frames import PIXEL_TAGS, Frame, affine_of, frames_of_series, in_order

_ROWS_AT_A_TIME = 64


def read_series(folder: str | Path, argument: str = "volume") -> tuple[np.ndarray, np.ndarray]:
    """Read the one series of a folder: classic single-frame files, or enhanced ones with functional groups.

    Slices are put in order along their normal by their positions, never by name or number, and their distance is that
    of the positions. Files that are no DICOM images (text, a DICOMDIR, reports) are left out. Takes up to twice the
    memory of the voxels.

    Parameters
    ----------
    folder : path
    argument : str
        What to call the folder in a refusal.

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
    folder = Path(folder)
    try:
        frames = in_order(frames_of_series(folder), folder)
        return _voxels(frames).transpose(2, 1, 0), affine_of(frames)
    except Refusal as refusal:
        raise InputError(argument, *refusal.parts) from refusal


def _voxels(frames: list[Frame]) -> np.ndarray:
    """The scaled pixels of the frames, float32 (slices, rows, columns)."""
    of_file: dict[Path, list[int]] = {}
    for k, frame in enumerate(frames):
        of_file.setdefault(frame.path, []).append(k)
    data = np.empty((len(frames), *frames[0].shape), dtype=np.float32)
    for path, members in of_file.items():
        with reading(path), np.errstate(all="ignore"):
            dataset = read_dataset(path, [*PIXEL_TAGS, "PixelData"])
            indices = [frames[k].index for k in members]
            _check_coded(dataset, indices)
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
                    raise Refusal(
                        "values that float32 can hold",
                        f"slope {frame.slope:g} and intercept {frame.intercept:g} in {frame}",
                        "mend the header",
                    )
    return data


def _check_coded(dataset: FileDataset, indices: list[int]) -> None:
    """Raise ValueError where a compressed frame would be decoded to another size than the header's."""
    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    if not syntax.is_encapsulated:
        return
    expected = (int(dataset.Rows), int(dataset.Columns), 1)
    for index in indices:
        coded = get_frame(dataset.PixelData, index, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
        if syntax == RLELossless:
            # Runs grow 64-fold at most; in the worst case coded bytes are little more than those they stand for.
            if len(coded) > 2 * math.prod(expected) * int(dataset.BitsAllocated) // 8 + 1024:
                raise ValueError(f"{len(coded)} coded bytes for {expected[0]} × {expected[1]} pixels")
        elif (found := _coded_size(coded)) != expected:
            raise ValueError(f"compressed image of rows, columns, colours {found} for {expected}")


def _coded_size(coded: bytes) -> tuple[int, int, int]:
    """Rows, columns and components of a JPEG, JPEG-LS or JPEG 2000 code stream (ITU-T T.81 B.2.2, T.800 A.5.1)."""

    def number(start: int, n_bytes: int) -> int:
        return int.from_bytes(coded[start : start + n_bytes], "big")

    if coded[:4] == b"\xff\x4f\xff\x51":
        return number(12, 4) - number(20, 4), number(8, 4) - number(16, 4), number(40, 2)
    start = 2
    while coded[:2] == b"\xff\xd8" and start + 10 <= len(coded) and coded[start] == 0xFF:
        marker = coded[start + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return number(start + 5, 2), number(start + 7, 2), coded[start + 9]
        start += 2 + max(number(start + 2, 2), 2)
    raise ValueError("no code stream of JPEG, JPEG-LS or JPEG 2000")
