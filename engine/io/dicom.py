"""Read a DICOM series as a volume with its place in the patient."""

from __future__ import annotations

import io
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder, iter_pixels
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from engine.errors import InputError

#: Slices that follow each other further off their normal were made with a tilted gantry: the grid is not rectangular.
MAX_TILT_DEG = 0.5
#: Largest cosine between rows and columns: headers round direction cosines to four digits or more.
MAX_COSINE = 1e-3
#: Coordinates beyond a kilometre, and voxels beyond ten metres, are damage.
MAX_POSITION_MM, MAX_SPACING_MM = 1e6, 1e4

_MAX_UNEVEN = 0.01  # of the usual gap between slices
_MAX_SIDEWAYS_PX = 0.1
_MAX_VOXELS = 2**30  # as for other volumes
#: How much larger than its file a compressed image may be. Two bytes stand for a run of 128 at most (PS3.5, G.3.1);
#: other coders stay far below theirs, but for empty slices.
_MAX_RLE_RATIO, _MAX_CODED_RATIO = 64, 1032
_ROWS_AT_A_TIME = 64
_SUFFIXES = (".dcm", ".ima")

_PIXEL_TAGS = (
    "Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation PlanarConfiguration "
    "BitsAllocated BitsStored HighBit PixelRepresentation"
).split()
_APART = (
    "EchoTime EchoNumbers TemporalPositionIdentifier TriggerTime AcquisitionNumber DiffusionBValue ImageType".split()
)
_HEADER_TAGS = [
    *_PIXEL_TAGS,
    *_APART,
    *"SOPClassUID SeriesInstanceUID SeriesNumber SeriesDescription ModalityLUTSequence".split(),
    *"ImagePositionPatient ImageOrientationPatient PixelSpacing RescaleSlope RescaleIntercept".split(),
    *"SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence".split(),
]
#: The functional groups of an enhanced image that say where a frame lies and what its numbers mean.
_GROUPS = (
    "PlanePositionSequence PlaneOrientationSequence PixelMeasuresSequence PixelValueTransformationSequence".split()
)

_log = logging.getLogger(__name__)
_parser_log = logging.getLogger("pydicom")


class _Refusal(Exception):
    """What is wrong, as the sentence of an `InputError` without the argument's name."""


@dataclass(frozen=True)
class _Frame:
    """One slice of a file, in patient coordinates (left, posterior, superior) in mm."""

    path: Path
    header: Dataset
    index: int
    shape: tuple[int, int]  # rows, columns
    cosines: np.ndarray  # (2, 3): directions along a row, along a column
    position: np.ndarray  # (3,): centre of the first pixel
    spacing: np.ndarray  # (2,): between rows, between columns
    slope: float
    intercept: float

    def __str__(self) -> str:
        return f"'{self.path.name}'" + (f" (frame {self.index + 1})" if self.index else "")


class _Bounded(io.BufferedReader):
    """A file whose reads allocate no more than what is left of it, whatever length a header claims."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            # The parser reads to the end for one purpose: to inflate it, to any size.
            raise _Refusal("expected files that are not deflated as a whole, got one; convert it with dcmconv +te")
        return super().read(min(size, max(self._size - self.tell(), 0)))


def is_series(folder: str | Path) -> bool:
    """Whether a folder holds DICOM files, by their content; looks no further than the first one."""
    folder = Path(folder)
    return folder.is_dir() and any(_has_magic(path) or _is_bare_image(path) for path in _files(folder))


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
        frames = _in_order(_frames_of_series(folder), folder)
        return _voxels(frames).transpose(2, 1, 0), _affine(frames)
    except _Refusal as refusal:
        raise InputError(f"{argument}: {refusal}") from refusal


def first_header(folder: str | Path, keywords: Sequence[str], argument: str) -> FileDataset:
    """Return the named attributes of a folder's first image by file name; errors as in `read_series`."""
    try:
        path, _ = _images(Path(folder))[0]
        with reading(path):
            return read_dataset(path, list(keywords))
    except _Refusal as refusal:
        raise InputError(f"{argument}: {refusal}") from refusal


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever the parser raises on a damaged file into a refusal, and leave out its warnings and log."""
    level = _parser_log.level
    _parser_log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _Refusal:
        raise
    except Exception as error:  # the parser lets struct, zlib, decoders and conversions raise what they like
        reason = f"{type(error).__name__}: {_text(error, 120)}".rstrip(" :")
        raise _Refusal(f"expected a DICOM image, '{path.name}' cannot be read ({reason}); export it again") from error
    finally:
        _parser_log.setLevel(level)


def read_dataset(path: Path, keywords: list[str]) -> FileDataset:
    """Read some attributes of a file, in memory bounded by its size; reads pixels where they are asked for."""
    with _Bounded(path) as file:
        dataset = dcmread(file, force=True, specific_tags=keywords, stop_before_pixels="PixelData" not in keywords)  # type: ignore[arg-type]
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _text(value: object, n_most: int = 40) -> str:
    """What a file says, fit for one sentence."""
    words = "".join(c if c.isprintable() else " " for c in str(value).strip().split("\n")[0]).split()
    return re.split(r"\.\s", " ".join(words))[0][:n_most].rstrip(" .")


def _has_magic(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _is_bare_image(path: Path) -> bool:
    try:
        with reading(path):
            header = read_dataset(path, ["Rows", "Columns"])
            return int(header.Rows) > 0 and int(header.Columns) > 0
    except _Refusal:
        return False


def _files(folder: Path) -> Iterator[Path]:
    """Files that are DICOM by content, or claim to be by name; hidden ones (resource forks of macOS) are neither."""
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and path.is_file():
            if path.suffix.lower() in _SUFFIXES or _has_magic(path):
                yield path


def _images(folder: Path) -> list[tuple[Path, FileDataset]]:
    if not folder.is_dir():
        raise _Refusal(f"expected a folder of DICOM files, found none at '{folder}'; check the path")
    found, left_out = [], []
    for path in _files(folder):
        with reading(path):
            header = read_dataset(path, _HEADER_TAGS)
            is_image = "Rows" in header or not _is_other_kind(header)
        if is_image:
            found.append((path, header))
        else:
            left_out.append(path.name)
    if left_out:
        _log.info("%s: %d DICOM files that are no images are left out (%s)", folder, len(left_out), left_out[0])
    if not found:
        raise _Refusal(f"expected DICOM images in '{folder}', found none; give the folder that holds the slices")
    return found


def _is_other_kind(header: FileDataset) -> bool:
    """Whether a file says that it is no image; one that says nothing may be an image cut short."""
    inner, outer = (
        str(d.get(k, "")) for d, k in ((header, "SOPClassUID"), (header.file_meta, "MediaStorageSOPClassUID"))
    )
    kind = UID(inner or outer)
    if kind.name != kind:
        return "Image Storage" not in kind.name
    return inner == outer != "" and not kind.startswith("1.2.840.10008.")  # a vendor's own


def _frames_of_series(folder: Path) -> list[_Frame]:
    images = _images(folder)
    series: dict[str, str] = {}
    for path, header in images:
        with reading(path):
            name = f"{_text(header.get('SeriesNumber', '-'))} '{_text(header.get('SeriesDescription', ''))}'"
            series.setdefault(str(header.get("SeriesInstanceUID")), name)
    if len(series) > 1:
        names = ", ".join(list(series.values())[:4]) + (", ..." if len(series) > 4 else "")
        raise _Refusal(
            f"expected one series in '{folder}', got {len(series)} (series {names}); "
            "move each series into a folder of its own"
        )
    frames: list[_Frame] = []
    for path, header in images:
        with reading(path):
            frames.extend(_frames(path, header))
    return frames


def _frames(path: Path, header: FileDataset) -> Iterator[_Frame]:
    """Check what a file's header claims, and yield its frames."""
    rows, columns, bits = (int(_numbers([header], name, 1, path)[0]) for name in ("Rows", "Columns", "BitsAllocated"))
    n_frames = int(_numbers([header], "NumberOfFrames", 1, path, [1])[0])
    colours = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    if header.get("SamplesPerPixel", 1) != 1 or not colours.startswith("MONOCHROME"):
        raise _Refusal(f"expected grey images, got {_text(colours)} in '{path.name}'; export the original series")
    if min(rows, columns, n_frames) < 1 or bits not in (8, 16, 32):
        raise _Refusal(
            f"expected pixels of 8, 16 or 32 bits, got {n_frames} frames of {rows} × {columns} with {bits} bits in "
            f"'{path.name}'; export the file again"
        )
    syntax = UID(str(header.file_meta.TransferSyntaxUID))
    try:
        can_decode = get_decoder(syntax).is_available
    except NotImplementedError:
        can_decode = False
    if not can_decode:
        raise _Refusal(
            f"expected pixels that can be decoded here, got '{_text(syntax.name, 80)}' in '{path.name}'; "
            "decompress the series first, for example with gdcmconv --raw"
        )
    n_bytes = rows * columns * n_frames * bits // 8
    ratio = _MAX_RLE_RATIO if syntax == RLELossless else _MAX_CODED_RATIO if syntax.is_encapsulated else 1
    n_room = path.stat().st_size * ratio
    if n_bytes > n_room:
        raise _Refusal(
            f"expected {n_bytes} bytes of pixels for the header's {n_frames} × {rows} × {columns}, got at most "
            f"{n_room} in '{path.name}'; export the file again"
        )
    if "ModalityLUTSequence" in header:
        raise _Refusal(
            f"expected a rescale slope and intercept, got a look-up table in '{path.name}'; export the original series"
        )
    for index, places in enumerate(_places(path, header, n_frames)):
        cosines = _numbers(places, "ImageOrientationPatient", 6, path).reshape(2, 3)
        position = _numbers(places, "ImagePositionPatient", 3, path)
        spacing = _numbers(places, "PixelSpacing", 2, path)
        slope = float(_numbers(places, "RescaleSlope", 1, path, [1])[0])
        intercept = float(_numbers(places, "RescaleIntercept", 1, path, [0])[0])
        lengths = np.linalg.norm(cosines, axis=1)
        if abs(lengths - 1).max() > 0.01 or abs(cosines[0] @ cosines[1]) > MAX_COSINE:
            raise _Refusal(
                f"expected perpendicular unit vectors as ImageOrientationPatient, got {cosines.ravel().tolist()} in "
                f"'{path.name}'; mend the header"
            )
        if abs(position).max() > MAX_POSITION_MM or spacing.min() <= 0 or spacing.max() > MAX_SPACING_MM or slope == 0:
            raise _Refusal(
                f"expected a place, positive spacings and a slope, got {position.tolist()}, {spacing.tolist()} mm and "
                f"{slope:g} in '{path.name}'; mend the header"
            )
        yield _Frame(
            path, header, index, (rows, columns), cosines / lengths[:, None], position, spacing, slope, intercept
        )


def _places(path: Path, header: FileDataset, n_frames: int) -> Iterator[list[Dataset]]:
    """For each frame, the data sets that may hold its geometry and scaling, the most specific first."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    if not per_frame and n_frames == 1:
        yield [header]
        return
    if len(per_frame) != n_frames:
        raise _Refusal(
            f"expected a functional group for each of {n_frames} frames, got {len(per_frame)} in '{path.name}'; "
            "convert it to one file a slice"
        )
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])[:1]
    for frame in per_frame:
        yield [group[name][0] for group in [frame, *shared] for name in _GROUPS if group.get(name)]


def _numbers(places: list[Any], keyword: str, n: int, path: Path, default: list[float] | None = None) -> np.ndarray:
    """The n finite numbers of an attribute, from the first place that has it."""
    values = [place[keyword].value for place in places if keyword in place and not place[keyword].is_empty]
    if not values and default is None:
        raise _Refusal(f"expected the attribute {keyword}, '{path.name}' lacks it; export the original series")
    numbers = np.atleast_1d(np.asarray(values[0] if values else default, dtype=np.float64))
    if numbers.shape != (n,) or not np.isfinite(numbers).all():
        raise _Refusal(
            f"expected {n} finite numbers as {keyword}, got '{_text(numbers.tolist())}' in '{path.name}'; "
            "mend the header"
        )
    return numbers


def _in_order(frames: list[_Frame], folder: Path) -> list[_Frame]:
    """Return the frames in order along their normal, once it is sure that they are a rectangular grid."""
    first = frames[0]
    for frame in frames:
        for name, expected, found, most in (
            ("size", first.shape, frame.shape, 0.0),
            ("orientation", first.cosines, frame.cosines, MAX_COSINE),
            ("pixel spacing", first.spacing, frame.spacing, 1e-3 * first.spacing.min()),
        ):
            if abs(np.subtract(expected, found)).max() > most:
                raise _Refusal(
                    f"expected slices of one {name} in '{folder}', got {np.round(expected, 4).tolist()} in {first} "
                    f"and {np.round(found, 4).tolist()} in {frame}; move what does not belong elsewhere"
                )
    if len(frames) < 2:
        raise _Refusal(f"expected at least 2 slices in '{folder}', got one, {first}; give the whole series")
    if math.prod(first.shape) * len(frames) > _MAX_VOXELS:
        raise _Refusal(
            f"expected at most {_MAX_VOXELS} voxels, got {len(frames)} slices of {first.shape} in '{folder}'; crop them"
        )
    normal = np.cross(*first.cosines)
    frames = sorted(frames, key=lambda frame: float(frame.position @ normal))
    positions = np.array([frame.position for frame in frames])
    gaps = np.diff(positions @ normal)
    twin = int(gaps.argmin())
    if gaps[twin] <= 1e-3 * first.spacing.min():
        a, b = frames[twin], frames[twin + 1]
        with reading(b.path):
            differing = [name for name in _APART if str(a.header.get(name)) != str(b.header.get(name))]
        raise _Refusal(
            f"expected one slice a position in '{folder}', got {a} and {b} at one place"
            + (f", which differ in {', '.join(differing)}" if differing else "")
            + "; move each echo or time point into a folder of its own"
        )
    usual = np.sort(gaps)[(len(gaps) - 1) // 2]  # the lower median: missing slices only make gaps larger
    worst = int(abs(gaps - usual).argmax())
    if abs(gaps[worst] - usual) > _MAX_UNEVEN * usual:
        raise _Refusal(
            f"expected evenly spaced slices in '{folder}', got {gaps[worst]:.6g} mm between {frames[worst]} and "
            f"{frames[worst + 1]} where {usual:.6g} mm is usual; add the missing slices"
        )
    step = (positions[-1] - positions[0]) / (len(frames) - 1)
    tilt_deg = math.degrees(math.atan2(float(np.linalg.norm(np.cross(step, normal))), float(step @ normal)))
    if tilt_deg > MAX_TILT_DEG:
        raise _Refusal(
            f"expected slices that follow their normal in '{folder}', got a gantry tilt of {tilt_deg:.2f}°; "
            "resample the series to a rectangular grid"
        )
    off_line = positions - positions[0] - np.arange(len(frames))[:, None] * step
    off_line -= np.outer(off_line @ normal, normal)
    sideways = np.linalg.norm(off_line, axis=1)
    if sideways.max() > _MAX_SIDEWAYS_PX * first.spacing.min():
        raise _Refusal(
            f"expected slices in one line in '{folder}', got {frames[int(sideways.argmax())]} {sideways.max():.3g} mm "
            "to the side; resample the series to a rectangular grid"
        )
    return frames


def _affine(frames: list[_Frame]) -> np.ndarray:
    """Indices (column, row, slice) to mm (right, anterior, superior), float64 (4, 4)."""
    first = frames[0]
    affine = np.eye(4)
    affine[:3, 0] = first.cosines[0] * first.spacing[1]
    affine[:3, 1] = first.cosines[1] * first.spacing[0]
    affine[:3, 2] = (frames[-1].position - first.position) / (len(frames) - 1)
    affine[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _voxels(frames: list[_Frame]) -> np.ndarray:
    """The scaled pixels of the frames, float32 (slices, rows, columns)."""
    of_file: dict[Path, list[int]] = {}
    for k, frame in enumerate(frames):
        of_file.setdefault(frame.path, []).append(k)
    data = np.empty((len(frames), *frames[0].shape), dtype=np.float32)
    for path, members in of_file.items():
        with reading(path), np.errstate(all="ignore"):
            dataset = read_dataset(path, [*_PIXEL_TAGS, "PixelData"])
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
                    raise _Refusal(
                        f"expected values that float32 can hold, got slope {frame.slope:g} and intercept "
                        f"{frame.intercept:g} in {frame}; mend the header"
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
