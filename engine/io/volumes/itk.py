"""Volumes of ITK's formats, NRRD and MetaImage, in."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.io.checks import MAX_DEFLATE_RATIO, check_affine, check_frame, check_numbers, check_room, check_shape
from engine.io.guard import allow, guarded
from engine.io.orientation import Orientation
from engine.io.source import Source

ENDINGS = (".nrrd", ".mha", ".mhd")
#: Bytes in which a header ends.
_MAX_HEADER = 2**16
#: A field that names the file of the voxels.
_DATA_FILE = re.compile(rb"^\s*(?:data ?file|elementdatafile)\s*[:=]\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)


def read(source: Source, frame: int | None = None) -> tuple[np.ndarray, Orientation]:
    """Read voxels with the axes of a volume, by SimpleITK.

    Parameters
    ----------
    source : Source
        .nrrd or .mha with header and voxels, or .mhd with a file of voxels beside it.
    frame : int or None
        Which volume, counted from 0, where there are several: components of voxels run faster than a fourth axis.

    Returns
    -------
    data : float32 (d0, d1, d2)
        x to the right, y to the front, z to the top.
    orientation : Orientation

    Raises
    ------
    InputError
        SimpleITK is not installed; and as `load_volume` says, except what the intensities are.
    """
    if find_spec("SimpleITK") is None:
        raise InputError(
            source.argument,
            f"SimpleITK, which reads {', '.join(ENDINGS)}",
            f"none that can be imported for '{source.path}'",
            "pip install 'tpdm-engine[itk]', or convert the file to NIfTI",
        )
    data, affine = _read(source, frame)
    check_affine(affine, source)
    orientation = Orientation.of(data.shape, affine)
    return orientation.volume_of(data), orientation


@guarded("a NRRD or MetaImage file", "SimpleITK")
def _read(source: Source, frame: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Voxels float32 (columns, rows, slices), and their affine."""
    import SimpleITK as sitk

    _check_data_file(source)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(source.path))
    # By the ending alone: else every reader of the library has a look at the file.
    reader.SetImageIO("NrrdImageIO" if source.path.name.lower().endswith(".nrrd") else "MetaImageIO")
    with _in_words():
        reader.ReadImageInformation()
    every, n_parts = tuple(int(n) for n in reader.GetSize()), int(reader.GetNumberOfComponents())
    shape, further = every[:3], every[3:]
    check_shape(shape, source)
    dtype = _dtype(sitk, reader.GetPixelID(), source)
    check_numbers(dtype, source)
    which = check_frame(frame, math.prod(further) * n_parts, source)
    n_bytes = math.prod(every) * n_parts * dtype.itemsize
    check_room((n_bytes,), np.dtype(np.uint8), _data_file(source) or source, MAX_DEFLATE_RATIO)
    allow(n_bytes + 4 * math.prod(shape), source)
    with _in_words():
        image: Any = reader.Execute()
    # NumPy's axes are ITK's in reverse, components last.
    data = sitk.GetArrayViewFromImage(image).reshape(*reversed(every), n_parts)
    volumes = data.reshape(math.prod(further), *reversed(shape), n_parts)
    at, part = divmod(which, n_parts)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite values are counted later
        # A copy: the image's own memory ends with it.
        taken = np.array(volumes[at, ..., part], np.float32, order="C").transpose(2, 1, 0)
    n = len(every)
    directions = np.reshape(image.GetDirection(), (n, n))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions * np.array(image.GetSpacing()[:3]), image.GetOrigin()[:3]
    # ITK counts to the left and the back, as DICOM does.
    return taken, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


@contextmanager
def _in_words() -> Iterator[None]:
    """Leave of an error of ITK what it says, without its place in the library's sources."""
    try:
        yield
    except RuntimeError as error:
        said = re.sub(r"^.*\.[ch]xx:\d+:\s*(ITK ERROR: )?(\w+\(0x[0-9a-f]+\): )?", "", str(error), flags=re.DOTALL)
        raise ValueError(said.strip() or "no reason given") from error


def _dtype(sitk: Any, kind: int, source: Source) -> np.dtype:
    """NumPy's type of a kind of pixels; complex where it is no number."""
    names = {
        **{f"Int{bits}": f"i{bits // 8}" for bits in (8, 16, 32, 64)},
        **{f"UInt{bits}": f"u{bits // 8}" for bits in (8, 16, 32, 64)},
        **{"Float32": "f4", "Float64": "f8"},
    }
    for name, letters in names.items():
        if kind in (getattr(sitk, f"sitk{name}"), getattr(sitk, f"sitkVector{name}")):
            return np.dtype(letters)
    raise source.refusal("real numbers", str(sitk.GetPixelIDValueAsString(kind)), "save the magnitude")


def _named_data_file(source: Source) -> str:
    with source.path.open("rb") as file:
        start = file.read(_MAX_HEADER)
    if start.startswith(b"NRRD"):
        start = start.partition(b"\n\n")[0].partition(b"\r\n\r\n")[0]
    found = _DATA_FILE.search(start)
    return found[1].decode("utf-8", "replace") if found else ""


def _check_data_file(source: Source) -> None:
    """Refuse a header that leads to files other than one beside it."""
    name = _named_data_file(source)
    if source.path.name.lower().endswith(".mhd"):
        if _data_file(source) is None:
            expected = "one file of voxels beside the header"
            raise source.refusal(expected, f"'{name[:80]}', which is none,", "convert it to .mha or NIfTI")
    elif name not in ("", "LOCAL"):
        raise source.refusal("header and voxels in one file", f"voxels in '{name[:80]}'", "convert it to NIfTI")


def _data_file(source: Source) -> Source | None:
    """The file of the voxels, where that is another one."""
    name = _named_data_file(source)
    if not re.fullmatch(r"[^/\\%\s][^/\\%]*", name) or name.split()[0] in ("LIST", "LOCAL"):
        return None
    path = source.path.parent / name
    return Source(path, source.argument) if path.is_file() else None
