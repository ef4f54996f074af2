"""The slices of a DICOM series: where each lies, what its numbers mean, and what tells it from others at its place."""

from __future__ import annotations

import filecmp
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.io.checks import MAX_DEFLATE_RATIO, check_room
from engine.io.source import Source
from engine.io.volumes.dicom_files import EXPECTED, images, read_dataset, text_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset
    from pydicom.tag import BaseTag

#: Largest cosine between rows and columns: headers round direction cosines to four digits or more.
MAX_COSINE = 1e-3
#: Coordinates beyond a kilometre, and voxels beyond ten metres, are damage.
MAX_POSITION_MM, MAX_SPACING_MM = 1e6, 1e4

PIXEL_TAGS = (
    "Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation PlanarConfiguration "
    "BitsAllocated BitsStored HighBit PixelRepresentation"
).split()
#: What tells images of one place apart, the slowest first: in words, its unit, and attributes of classic and enhanced
#: images that hold it.
APART: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("image type", "", ("ComplexImageComponent", "FrameType", "ImageType")),
    ("echo time", "ms", ("EffectiveEchoTime", "EchoTime")),
    ("echo number", "", ("EchoNumbers",)),
    ("inversion time", "ms", ("InversionTimes", "InversionTime")),
    ("b-value", "s/mm²", ("DiffusionBValue",)),
    ("time point", "", ("TemporalPositionIndex", "TemporalPositionIdentifier")),
    ("trigger time", "ms", ("NominalCardiacTriggerDelayTime", "TriggerTime")),
    ("acquisition number", "", ("FrameAcquisitionNumber", "AcquisitionNumber")),
    ("gradient direction", "", ("DiffusionGradientOrientation",)),
)
_HEADER_TAGS = [
    *PIXEL_TAGS,
    *(keyword for _, _, keywords in APART for keyword in keywords),
    *"SOPClassUID SOPInstanceUID SeriesInstanceUID SeriesNumber SeriesDescription ModalityLUTSequence".split(),
    *"ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness RescaleSlope RescaleIntercept".split(),
    *"InstanceNumber SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence".split(),
]
#: The functional groups of an enhanced image that say where a frame lies, what its numbers mean, and which it is.
_GROUPS = (
    "PlanePositionSequence PlaneOrientationSequence PixelMeasuresSequence PixelValueTransformationSequence "
    "FrameContentSequence MREchoSequence MRModifierSequence MRDiffusionSequence CardiacSynchronizationSequence "
    "MRImageFrameTypeSequence CTImageFrameTypeSequence"
).split()
#: A number, or a text, or neither: in an order.
Label = tuple[int, float, str]


@dataclass(frozen=True)
class Frame:
    """One slice of a file, in patient coordinates (left, posterior, superior) in mm."""

    file: Source
    index: int
    shape: tuple[int, int]  # rows, columns
    cosines: np.ndarray  # (2, 3): directions along a row, along a column
    position: np.ndarray  # (3,): centre of the first pixel
    spacing: np.ndarray  # (2,): between rows, between columns
    slope: float
    intercept: float
    thickness_mm: float  # NaN where the header does not say it
    labels: tuple[Label, ...]  # of `APART`
    number: float  # of the instance

    def __str__(self) -> str:
        return f"'{self.file.path.name}'" + (f" (frame {self.index + 1})" if self.index else "")


def frames_of_series(source: Source) -> tuple[list[Frame], list[str], list[str]]:
    """Read the headers of the only series of a folder, or of a file.

    Returns
    -------
    frames : list of Frame
        In no order.
    left_out, copies : list of str
        Names of files that are no images, and of those whose image is in another file as well.
    """
    from pydicom.uid import UID

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
    headers, copies = _once(headers)
    is_placed = ["ImagePositionPatient" in header or "NumberOfFrames" in header for _, header in headers]
    for (path, header), placed in zip(headers, is_placed, strict=True):
        file = Source(path, source.argument)
        with file.reading(EXPECTED):
            _check_kind(file, header)
            if not placed and any(is_placed):
                kind = text_of(UID(str(header.get("SOPClassUID", ""))).name, 80)
                got = "none" + (f" ({kind})" if kind else "")
                remedy = "move the file away if it is no slice, or export the series again"
                raise file.refusal("the attribute ImagePositionPatient of every slice", got, remedy)
            frames.extend(_frames(file, header))
    return frames, left_out, copies


def _once(headers: list[tuple[Path, FileDataset]]) -> tuple[list[tuple[Path, FileDataset]], list[str]]:
    """Leave out files whose instance is in another file, too, with the same content; return also their names.

    Instances of one identifier but with other content stay: programs that remove names may give all the same one.
    """
    seen: dict[tuple[str, ...], list[Path]] = {}
    kept, copies = [], []
    for path, header in headers:
        identifier = tuple(str(header.get(k, "")) for k in ("SOPInstanceUID", "ImagePositionPatient", "InstanceNumber"))
        others = seen.setdefault(identifier, []) if identifier[0] else []
        if any(_same(path, other) for other in others):
            copies.append(path.name)
        else:
            others.append(path)
            kept.append((path, header))
    return kept, copies


def _same(path: Path, other: Path) -> bool:
    if filecmp.cmp(path, other, shallow=False):
        return True
    # Exports write headers anew.
    a, b = (read_dataset(p, [*_HEADER_TAGS, "PixelData"]) for p in (path, other))
    return bool(a == b)


def _check_kind(file: Source, header: FileDataset) -> None:
    """Refuse a picture that is made up of slices."""
    if "MOSAIC" in str(header.get("ImageType", "")).upper():
        got = f"a mosaic of many slices, {header.get('Rows')} × {header.get('Columns')} pixels,"
        raise file.refusal("one slice an image", got, "convert the series to NIfTI with dcm2niix")


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
            *(file, index, (rows, columns), cosines / lengths[:, None], position, spacing, slope, intercept),
            _first_number(places, "SliceThickness"),
            tuple(_label([*places, header], keywords) for _, _, keywords in APART),
            _first_number([header], "InstanceNumber", 0.0),
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
        places = [group[name][0] for group in [frame, *shared] for name in _GROUPS if group.get(name)]
        inner = (place.get("DiffusionGradientDirectionSequence") for place in places)
        yield [*places, *(directions[0] for directions in inner if directions)]


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


def _values(places: list[Any], keyword: str) -> Iterator[Any]:
    """What places hold of an attribute."""
    tag = _tag_of(keyword)
    for place in places:
        if tag in place and not place[tag].is_empty:
            yield place[tag].value


@cache
def _tag_of(keyword: str) -> BaseTag:
    """The tag of a keyword, whose look-up would take most of the time for thousands of frames."""
    from pydicom.tag import Tag

    return Tag(keyword)


def _first_number(places: list[Any], keyword: str, default: float = math.nan) -> float:
    """The attribute as a finite number; the default where there is none, as it decides nothing alone."""
    try:
        number = float(next(_values(places, keyword), default))
    except Exception:  # as the parser finds the file damaged
        return default
    return number if math.isfinite(number) else default


def _label(places: list[Any], keywords: tuple[str, ...]) -> Label:
    """The first of the attributes that there is."""
    for keyword in keywords:
        try:
            for value in _values(places, keyword):
                if isinstance(value, (int, float)):
                    return (1, float(value), "") if math.isfinite(value) else (0, 0.0, "")
                parts = [value] if isinstance(value, str) else list(value)
                return (2, 0.0, ", ".join(text_of(part) for part in parts))
        except Exception:  # as the parser finds the file damaged
            continue
    return (0, 0.0, "")
