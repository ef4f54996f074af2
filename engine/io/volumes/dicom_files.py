"""Find and read the DICOM files of a folder, in memory bounded by their sizes."""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from engine.errors import InputError

_SUFFIXES = (".dcm", ".ima")

_log = logging.getLogger(__name__)
_parser_log = logging.getLogger("pydicom")


class Refusal(Exception):
    """What is wrong, as the parts of an `InputError` without the argument's name."""

    def __init__(self, expected: str, got: str, remedy: str):
        super().__init__(expected, got, remedy)
        self.parts = expected, got, remedy


class _Bounded(io.BufferedReader):
    """A file whose reads allocate no more than what is left of it, whatever length a header claims."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            # The parser reads to the end for one purpose: to inflate it, to any size.
            raise Refusal("files that are not deflated as a whole", "one", "convert it with dcmconv +te")
        return super().read(min(size, max(self._size - self.tell(), 0)))


def is_series(folder: str | Path) -> bool:
    """Whether a folder holds DICOM files, by their content; looks no further than the first one."""
    folder = Path(folder)
    return folder.is_dir() and any(_has_magic(path) or _is_bare_image(path) for path in _files(folder))


def first_header(folder: str | Path, keywords: Sequence[str], argument: str) -> FileDataset:
    """Return the named attributes of a folder's first image by file name.

    Raises
    ------
    InputError
        No images, or a damaged one.
    """
    try:
        path, _ = images(Path(folder), ["Rows"])[0]
        with reading(path):
            return read_dataset(path, list(keywords))
    except Refusal as refusal:
        raise InputError(argument, *refusal.parts) from refusal


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever the parser raises on a damaged file into a refusal, and leave out its warnings and log."""
    level = _parser_log.level
    _parser_log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Refusal:
        raise
    except Exception as error:  # the parser lets struct, zlib, decoders and conversions raise what they like
        reason = f"{type(error).__name__}: {text_of(error, 120)}".rstrip(" :")
        raise Refusal("a DICOM image", f"'{path.name}', which cannot be read ({reason})", "export it again") from error
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


def text_of(value: object, n_most: int = 40) -> str:
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
    except Refusal:
        return False


def _files(folder: Path) -> Iterator[Path]:
    """Files that are DICOM by content, or claim to be by name; hidden ones (resource forks of macOS) are neither."""
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and path.is_file():
            if path.suffix.lower() in _SUFFIXES or _has_magic(path):
                yield path


def images(folder: Path, keywords: list[str]) -> list[tuple[Path, FileDataset]]:
    """The images of a folder by file name, each with the named attributes of its header."""
    if not folder.is_dir():
        raise Refusal("a folder of DICOM files", f"none at '{folder}'", "check the path")
    found, left_out = [], []
    for path in _files(folder):
        with reading(path):
            header = read_dataset(path, keywords)
            is_image = "Rows" in header or not _is_other_kind(header)
        if is_image:
            found.append((path, header))
        else:
            left_out.append(path.name)
    if left_out:
        _log.info("%s: %d DICOM files that are no images are left out (%s)", folder, len(left_out), left_out[0])
    if not found:
        raise Refusal(f"DICOM images in '{folder}'", "none", "give the folder that holds the slices")
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
