"""The slices of a DICOM series: where each lies, what its numbers mean, and in which order they are a volume."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.io.checks import MAX_DEFLATE_RATIO, MAX_VOXELS, check_room
from engine.io.source import Source
from engine.io.volumes.dicom_files import EXPECTED, images, text_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

#: Slices that follow each other further off their normal were made with a tilted gantry: the grid is not rectangular.
MAX_TILT_DEG = 0.5
#: Largest cosine between rows and columns: headers round direction cosines to four digits or more.
MAX_COSINE = 1e-3
#: Coordinates beyond a kilometre, and voxels beyond ten metres, are damage.
MAX_POSITION_MM, MAX_SPACING_MM = 1e6, 1e4

_MAX_UNEVEN = 0.01  # of the usual gap between slices
_MAX_SIDEWAYS_PX = 0.1

PIXEL_TAGS = (
    "Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation PlanarConfiguration "
    "BitsAllocated BitsStored HighBit PixelRepresentation"
).split()
_APART = (
    "EchoTime EchoNumbers TemporalPositionIdentifier TriggerTime AcquisitionNumber DiffusionBValue ImageType".split()
)
_HEADER_TAGS = [
    *PIXEL_TAGS,
    *_APART,
    *"SOPClassUID SeriesInstanceUID SeriesNumber SeriesDescription ModalityLUTSequence".split(),
    *"ImagePositionPatient ImageOrientationPatient PixelSpacing RescaleSlope RescaleIntercept".split(),
    *"SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence".split(),
]
#: The functional groups of an enhanced image that say where a frame lies and what its numbers mean.
_GROUPS = (
    "PlanePositionSequence PlaneOrientationSequence PixelMeasuresSequence PixelValueTransformationSequence".split()
)


@dataclass(frozen=True)
class Frame:
    """One slice of a file, in patient coordinates (left, posterior, superior) in mm."""

    file: Source
    header: Dataset
    index: int
    shape: tuple[int, int]  # rows, columns
    cosines: np.ndarray  # (2, 3): directions along a row, along a column
    position: np.ndarray  # (3,): centre of the first pixel
    spacing: np.ndarray  # (2,): between rows, between columns
    slope: float
    intercept: float

    def __str__(self) -> str:
        return f"'{self.file.path.name}'" + (f" (frame {self.index + 1})" if self.index else "")


def frames_of_series(source: Source) -> tuple[list[Frame], list[str]]:
    """The frames of a folder's only series, in no order, and the names of its files that are no images."""
    headers, left_out = images(source, _HEADER_TAGS)
    series: dict[str, str] = {}
    frames: list[Frame] = []
    for path, header in headers:
        file = Source(path, source.argument)
        with file.reading(EXPECTED):
            name = f"{text_of(header.get('SeriesNumber', '-'))} '{text_of(header.get('SeriesDescription', ''))}'"
            series.setdefault(str(header.get("SeriesInstanceUID")), name)
    if len(series) > 1:
        names = ", ".join(list(series.values())[:4]) + (", ..." if len(series) > 4 else "")
        got = f"{len(series)} (series {names})"
        raise source.refusal("one series", got, "move each series into a folder of its own")
    for path, header in headers:
        file = Source(path, source.argument)
        with file.reading(EXPECTED):
            frames.extend(_frames(file, header))
    return frames, left_out


def _frames(file: Source, header: FileDataset) -> Iterator[Frame]:
    """Check what a file's header claims, and yield its frames."""
    rows, columns, bits = (int(_numbers([header], name, 1, file)[0]) for name in ("Rows", "Columns", "BitsAllocated"))
    n_frames = int(_numbers([header], "NumberOfFrames", 1, file, [1])[0])
    colours = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    if header.get("SamplesPerPixel", 1) != 1 or not colours.startswith("MONOCHROME"):
        raise file.refusal("grey images", text_of(colours), "export the original series")
    if min(rows, columns, n_frames) < 1 or bits not in (8, 16, 32):
        got = f"{n_frames} frames of {rows} × {columns} with {bits} bits"
        raise file.refusal("pixels of 8, 16 or 32 bits", got, "export the file again")
    _check_coding(file, header, (n_frames, rows, columns), np.dtype(f"u{bits // 8}"))
    if "ModalityLUTSequence" in header:
        raise file.refusal("a rescale slope and intercept", "a look-up table", "export the original series")
    for index, places in enumerate(_places(file, header, n_frames)):
        cosines = _numbers(places, "ImageOrientationPatient", 6, file).reshape(2, 3)
        position = _numbers(places, "ImagePositionPatient", 3, file)
        spacing = _numbers(places, "PixelSpacing", 2, file)
        slope = float(_numbers(places, "RescaleSlope", 1, file, [1])[0])
        intercept = float(_numbers(places, "RescaleIntercept", 1, file, [0])[0])
        lengths = np.linalg.norm(cosines, axis=1)
        if abs(lengths - 1).max() > 0.01 or abs(cosines[0] @ cosines[1]) > MAX_COSINE:
            expected = "perpendicular unit vectors as ImageOrientationPatient"
            raise file.refusal(expected, f"{cosines.ravel().tolist()}", "mend the header")
        if abs(position).max() > MAX_POSITION_MM or spacing.min() <= 0 or spacing.max() > MAX_SPACING_MM or slope == 0:
            got = f"{position.tolist()}, {spacing.tolist()} mm and {slope:g}"
            raise file.refusal("a place, positive spacings and a slope", got, "mend the header")
        yield Frame(
            file, header, index, (rows, columns), cosines / lengths[:, None], position, spacing, slope, intercept
        )


def _check_coding(file: Source, header: FileDataset, shape: tuple[int, int, int], dtype: np.dtype) -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    syntax = UID(str(header.file_meta.TransferSyntaxUID))
    try:
        can_decode = get_decoder(syntax).is_available
    except NotImplementedError:
        can_decode = False
    if not can_decode:
        remedy = "decompress the series first, for example with gdcmconv --raw"
        raise file.refusal("pixels that can be decoded here", f"'{text_of(syntax.name, 80)}'", remedy)
    check_room(shape, dtype, file, MAX_DEFLATE_RATIO if syntax.is_encapsulated else 1)


def _places(file: Source, header: FileDataset, n_frames: int) -> Iterator[list[Dataset]]:
    """For each frame, the data sets that may hold its geometry and scaling, the most specific first."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    if not per_frame and n_frames == 1:
        yield [header]
        return
    if len(per_frame) != n_frames:
        expected = f"a functional group for each of {n_frames} frames"
        raise file.refusal(expected, f"{len(per_frame)}", "convert it to one file a slice")
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])[:1]
    for frame in per_frame:
        yield [group[name][0] for group in [frame, *shared] for name in _GROUPS if group.get(name)]


def _numbers(places: list[Any], keyword: str, n: int, file: Source, default: list[float] | None = None) -> np.ndarray:
    """The n finite numbers of an attribute, from the first place that has it."""
    values = [place[keyword].value for place in places if keyword in place and not place[keyword].is_empty]
    if not values and default is None:
        raise file.refusal(f"the attribute {keyword}", "none", "export the original series")
    numbers = np.atleast_1d(np.asarray(values[0] if values else default, dtype=np.float64))
    if numbers.shape != (n,) or not np.isfinite(numbers).all():
        got = f"'{text_of(numbers.tolist())}'"
        raise file.refusal(f"{n} finite numbers as {keyword}", got, "mend the header")
    return numbers


def in_order(frames: list[Frame], source: Source) -> list[Frame]:
    """Return the frames in order along their normal, once it is sure that they are a rectangular grid."""
    first = frames[0]
    for frame in frames:
        for name, expected, other, most in (
            ("size", first.shape, frame.shape, 0.0),
            ("orientation", first.cosines, frame.cosines, MAX_COSINE),
            ("pixel spacing", first.spacing, frame.spacing, 1e-3 * first.spacing.min()),
        ):
            if abs(np.subtract(expected, other)).max() > most:
                got = f"{np.round(expected, 4).tolist()} in {first} and {np.round(other, 4).tolist()} in {frame}"
                raise source.refusal(f"slices of one {name}", got, "move what does not belong elsewhere")
    if len(frames) < 2:
        raise source.refusal("at least 2 slices", f"one, {first}", "give the whole series")
    if math.prod(first.shape) * len(frames) > MAX_VOXELS:
        raise source.refusal(f"at most {MAX_VOXELS} voxels", f"{len(frames)} slices of {first.shape}", "crop them")
    normal = np.cross(*first.cosines)
    frames = sorted(frames, key=lambda frame: float(frame.position @ normal))
    positions = np.array([frame.position for frame in frames])
    gaps = np.diff(positions @ normal)
    twin = int(gaps.argmin())
    if gaps[twin] <= 1e-3 * first.spacing.min():
        a, b = frames[twin], frames[twin + 1]
        with b.file.reading(EXPECTED):
            differing = [name for name in _APART if str(a.header.get(name)) != str(b.header.get(name))]
        got = f"{a} and {b} at one place" + (f", which differ in {', '.join(differing)}," if differing else "")
        raise source.refusal("one slice a position", got, "move each echo or time point into a folder of its own")
    usual = np.sort(gaps)[(len(gaps) - 1) // 2]  # the lower median: missing slices only make gaps larger
    worst = int(abs(gaps - usual).argmax())
    if abs(gaps[worst] - usual) > _MAX_UNEVEN * usual:
        got = f"{gaps[worst]:.6g} mm between {frames[worst]} and {frames[worst + 1]} where {usual:.6g} mm is usual"
        raise source.refusal("evenly spaced slices", got, "add the missing slices")
    step = (positions[-1] - positions[0]) / (len(frames) - 1)
    tilt_deg = math.degrees(math.atan2(float(np.linalg.norm(np.cross(step, normal))), float(step @ normal)))
    if tilt_deg > MAX_TILT_DEG:
        got = f"a gantry tilt of {tilt_deg:.2f}°"
        raise source.refusal("slices that follow their normal", got, "resample the series to a rectangular grid")
    off_line = positions - positions[0] - np.arange(len(frames))[:, None] * step
    off_line -= np.outer(off_line @ normal, normal)
    sideways = np.linalg.norm(off_line, axis=1)
    if sideways.max() > _MAX_SIDEWAYS_PX * first.spacing.min():
        got = f"{frames[int(sideways.argmax())]} {sideways.max():.3g} mm to the side"
        raise source.refusal("slices in one line", got, "resample the series to a rectangular grid")
    return frames


def affine_of(frames: list[Frame]) -> np.ndarray:
    """Indices (column, row, slice) to mm (right, anterior, superior), float64 (4, 4)."""
    first = frames[0]
    affine = np.eye(4)
    affine[:3, 0] = first.cosines[0] * first.spacing[1]
    affine[:3, 1] = first.cosines[1] * first.spacing[0]
    affine[:3, 2] = (frames[-1].position - first.position) / (len(frames) - 1)
    affine[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
