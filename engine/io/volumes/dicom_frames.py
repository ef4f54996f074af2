"""The slices of a DICOM series: where each lies, what its numbers mean, and in which order they are a volume."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels import get_decoder
from pydicom.uid import UID, RLELossless

from engine.io.checks import MAX_VOXELS
from engine.io.volumes.dicom_files import Refusal, images, reading, text_of

#: Slices that follow each other further off their normal were made with a tilted gantry: the grid is not rectangular.
MAX_TILT_DEG = 0.5
#: Largest cosine between rows and columns: headers round direction cosines to four digits or more.
MAX_COSINE = 1e-3
#: Coordinates beyond a kilometre, and voxels beyond ten metres, are damage.
MAX_POSITION_MM, MAX_SPACING_MM = 1e6, 1e4

_MAX_UNEVEN = 0.01  # of the usual gap between slices
_MAX_SIDEWAYS_PX = 0.1
#: How much larger than its file a compressed image may be. Two bytes stand for a run of 128 at most (PS3.5, G.3.1);
#: other coders stay far below theirs, but for empty slices.
_MAX_RLE_RATIO, _MAX_CODED_RATIO = 64, 1032

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


def frames_of_series(folder: Path) -> list[Frame]:
    found = images(folder, _HEADER_TAGS)
    series: dict[str, str] = {}
    for path, header in found:
        with reading(path):
            name = f"{text_of(header.get('SeriesNumber', '-'))} '{text_of(header.get('SeriesDescription', ''))}'"
            series.setdefault(str(header.get("SeriesInstanceUID")), name)
    if len(series) > 1:
        names = ", ".join(list(series.values())[:4]) + (", ..." if len(series) > 4 else "")
        raise Refusal(
            f"one series in '{folder}'", f"{len(series)} (series {names})", "move each series into a folder of its own"
        )
    frames: list[Frame] = []
    for path, header in found:
        with reading(path):
            frames.extend(_frames(path, header))
    return frames


def _frames(path: Path, header: FileDataset) -> Iterator[Frame]:
    """Check what a file's header claims, and yield its frames."""
    rows, columns, bits = (int(_numbers([header], name, 1, path)[0]) for name in ("Rows", "Columns", "BitsAllocated"))
    n_frames = int(_numbers([header], "NumberOfFrames", 1, path, [1])[0])
    colours = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    if header.get("SamplesPerPixel", 1) != 1 or not colours.startswith("MONOCHROME"):
        raise Refusal("grey images", f"{text_of(colours)} in '{path.name}'", "export the original series")
    if min(rows, columns, n_frames) < 1 or bits not in (8, 16, 32):
        raise Refusal(
            "pixels of 8, 16 or 32 bits",
            f"{n_frames} frames of {rows} × {columns} with {bits} bits in '{path.name}'",
            "export the file again",
        )
    syntax = UID(str(header.file_meta.TransferSyntaxUID))
    try:
        can_decode = get_decoder(syntax).is_available
    except NotImplementedError:
        can_decode = False
    if not can_decode:
        raise Refusal(
            "pixels that can be decoded here",
            f"'{text_of(syntax.name, 80)}' in '{path.name}'",
            "decompress the series first, for example with gdcmconv --raw",
        )
    n_bytes = rows * columns * n_frames * bits // 8
    ratio = _MAX_RLE_RATIO if syntax == RLELossless else _MAX_CODED_RATIO if syntax.is_encapsulated else 1
    n_room = path.stat().st_size * ratio
    if n_bytes > n_room:
        raise Refusal(
            f"{n_bytes} bytes of pixels for the header's {n_frames} × {rows} × {columns}",
            f"at most {n_room} in '{path.name}'",
            "export the file again",
        )
    if "ModalityLUTSequence" in header:
        raise Refusal(
            "a rescale slope and intercept", f"a look-up table in '{path.name}'", "export the original series"
        )
    for index, places in enumerate(_places(path, header, n_frames)):
        cosines = _numbers(places, "ImageOrientationPatient", 6, path).reshape(2, 3)
        position = _numbers(places, "ImagePositionPatient", 3, path)
        spacing = _numbers(places, "PixelSpacing", 2, path)
        slope = float(_numbers(places, "RescaleSlope", 1, path, [1])[0])
        intercept = float(_numbers(places, "RescaleIntercept", 1, path, [0])[0])
        lengths = np.linalg.norm(cosines, axis=1)
        if abs(lengths - 1).max() > 0.01 or abs(cosines[0] @ cosines[1]) > MAX_COSINE:
            raise Refusal(
                "perpendicular unit vectors as ImageOrientationPatient",
                f"{cosines.ravel().tolist()} in '{path.name}'",
                "mend the header",
            )
        if abs(position).max() > MAX_POSITION_MM or spacing.min() <= 0 or spacing.max() > MAX_SPACING_MM or slope == 0:
            raise Refusal(
                "a place, positive spacings and a slope",
                f"{position.tolist()}, {spacing.tolist()} mm and {slope:g} in '{path.name}'",
                "mend the header",
            )
        yield Frame(
            path, header, index, (rows, columns), cosines / lengths[:, None], position, spacing, slope, intercept
        )


def _places(path: Path, header: FileDataset, n_frames: int) -> Iterator[list[Dataset]]:
    """For each frame, the data sets that may hold its geometry and scaling, the most specific first."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    if not per_frame and n_frames == 1:
        yield [header]
        return
    if len(per_frame) != n_frames:
        raise Refusal(
            f"a functional group for each of {n_frames} frames",
            f"{len(per_frame)} in '{path.name}'",
            "convert it to one file a slice",
        )
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])[:1]
    for frame in per_frame:
        yield [group[name][0] for group in [frame, *shared] for name in _GROUPS if group.get(name)]


def _numbers(places: list[Any], keyword: str, n: int, path: Path, default: list[float] | None = None) -> np.ndarray:
    """The n finite numbers of an attribute, from the first place that has it."""
    values = [place[keyword].value for place in places if keyword in place and not place[keyword].is_empty]
    if not values and default is None:
        raise Refusal(f"the attribute {keyword}", f"none in '{path.name}'", "export the original series")
    numbers = np.atleast_1d(np.asarray(values[0] if values else default, dtype=np.float64))
    if numbers.shape != (n,) or not np.isfinite(numbers).all():
        raise Refusal(
            f"{n} finite numbers as {keyword}", f"'{text_of(numbers.tolist())}' in '{path.name}'", "mend the header"
        )
    return numbers


def in_order(frames: list[Frame], folder: Path) -> list[Frame]:
    """Return the frames in order along their normal, once it is sure that they are a rectangular grid."""
    first = frames[0]
    for frame in frames:
        for name, expected, found, most in (
            ("size", first.shape, frame.shape, 0.0),
            ("orientation", first.cosines, frame.cosines, MAX_COSINE),
            ("pixel spacing", first.spacing, frame.spacing, 1e-3 * first.spacing.min()),
        ):
            if abs(np.subtract(expected, found)).max() > most:
                raise Refusal(
                    f"slices of one {name} in '{folder}'",
                    f"{np.round(expected, 4).tolist()} in {first} and {np.round(found, 4).tolist()} in {frame}",
                    "move what does not belong elsewhere",
                )
    if len(frames) < 2:
        raise Refusal(f"at least 2 slices in '{folder}'", f"one, {first}", "give the whole series")
    if math.prod(first.shape) * len(frames) > MAX_VOXELS:
        raise Refusal(
            f"at most {MAX_VOXELS} voxels", f"{len(frames)} slices of {first.shape} in '{folder}'", "crop them"
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
        raise Refusal(
            f"one slice a position in '{folder}'",
            f"{a} and {b} at one place" + (f", which differ in {', '.join(differing)}" if differing else ""),
            "move each echo or time point into a folder of its own",
        )
    usual = np.sort(gaps)[(len(gaps) - 1) // 2]  # the lower median: missing slices only make gaps larger
    worst = int(abs(gaps - usual).argmax())
    if abs(gaps[worst] - usual) > _MAX_UNEVEN * usual:
        raise Refusal(
            f"evenly spaced slices in '{folder}'",
            (f"{gaps[worst]:.6g} mm between {frames[worst]} and {frames[worst + 1]} where {usual:.6g} mm is usual"),
            "add the missing slices",
        )
    step = (positions[-1] - positions[0]) / (len(frames) - 1)
    tilt_deg = math.degrees(math.atan2(float(np.linalg.norm(np.cross(step, normal))), float(step @ normal)))
    if tilt_deg > MAX_TILT_DEG:
        raise Refusal(
            f"slices that follow their normal in '{folder}'",
            f"a gantry tilt of {tilt_deg:.2f}°",
            "resample the series to a rectangular grid",
        )
    off_line = positions - positions[0] - np.arange(len(frames))[:, None] * step
    off_line -= np.outer(off_line @ normal, normal)
    sideways = np.linalg.norm(off_line, axis=1)
    if sideways.max() > _MAX_SIDEWAYS_PX * first.spacing.min():
        raise Refusal(
            f"slices in one line in '{folder}'",
            f"{frames[int(sideways.argmax())]} {sideways.max():.3g} mm to the side",
            "resample the series to a rectangular grid",
        )
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
