"""Find and read the DICOM files of a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.io.guard import guarded
from engine.io.source import Source

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

SUFFIXES = (".dcm", ".ima")
EXPECTED = "a DICOM image"


def is_series(path: str | Path, argument: str = "volume") -> bool:
    """Whether a folder holds DICOM files, or a file is one, by their content."""
    path = Path(path)
    if not path.exists():
        return False
    files = list(_files(path))
    return any(map(_has_magic, files)) or (bool(files) and _is_bare(Source(path, argument)))


@guarded(EXPECTED, "pydicom")
def _is_bare(source: Source) -> bool:
    """Whether any file holds an image, though none begins as DICOM files do."""
    for path in _files(source.path):
        try:
            header = read_dataset(path, ["Rows", "Columns"])
            if int(header.Rows) > 0 and int(header.Columns) > 0:
                return True
        except Exception:  # as the parser finds the file damaged
            continue
    return False


@guarded(EXPECTED, "pydicom")
def first_header(source: Source, keywords: Sequence[str]) -> Dataset:
    """Return the named attributes of a folder's first image by file name, or of a file.

    Raises
    ------
    InputError
        No images, or a damaged one.
    """
    from pydicom.dataset import Dataset

    path = images(source, ["Rows"])[0][0][0]
    header = read_dataset(path, list(keywords))
    header.decode()
    return Dataset(header)


def read_dataset(path: Path, keywords: list[str]) -> FileDataset:
    """Read some attributes of a file; pixels where they are asked for."""
    from pydicom import dcmread
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    dataset = dcmread(path, force=True, specific_tags=keywords, stop_before_pixels="PixelData" not in keywords)  # type: ignore[arg-type]
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def text_of(value: object, n_most: int = 40) -> str:
    """The text of a file's attribute, fit for one sentence."""
    words = "".join(c if c.isprintable() else " " for c in str(value).strip().split("\n")[0]).split()
    return re.split(r"\.\s", " ".join(words))[0][:n_most].rstrip(" .")


def _has_magic(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _files(of: Path) -> Iterator[Path]:
    """Files of a folder, or one file, that are DICOM by content, or claim to be by name.

    Hidden ones (resource forks of macOS) are neither.
    """
    for path in sorted(of.iterdir()) if of.is_dir() else [of]:
        if not path.name.startswith(".") and path.is_file():
            if path.suffix.lower() in SUFFIXES or _has_magic(path):
                yield path


def images(source: Source, keywords: list[str]) -> tuple[list[tuple[Path, FileDataset]], list[str]]:
    """The images of a folder, or a file, each with the named attributes of its header; names of the other files."""
    if not source.path.exists():
        raise source.refusal("a folder of DICOM files", "none", "check the path")
    headers, left_out = [], []
    for path in _files(source.path):
        file = Source(path, source.argument)
        with file.reading(EXPECTED):
            if path.stat().st_size == 0:
                raise file.refusal(EXPECTED, "0 bytes", "remove the empty file, or export the series again")
            header = read_dataset(path, keywords)
            if "Rows" in header:
                headers.append((path, header))
            elif _is_other_kind(header):
                left_out.append(path.name)
            else:
                remedy = "remove the file, or export the series again"
                raise file.refusal("the attribute Rows", "none", remedy)
    if not headers:
        raise source.refusal("DICOM images", "none", "give the folder that holds the slices")
    return headers, left_out


def _is_other_kind(header: FileDataset) -> bool:
    """Whether a file says that it is no image; one that says nothing may be an image cut short."""
    from pydicom.uid import UID

    inner, outer = (
        str(d.get(k, "")) for d, k in ((header, "SOPClassUID"), (header.file_meta, "MediaStorageSOPClassUID"))
    )
    kind = UID(inner or outer)
    if kind.name != kind:
        return "Image Storage" not in kind.name
    return inner == outer != "" and not kind.startswith("1.2.840.10008.")  # a vendor's own
