"""NumPy's files, .npy and .npz, in and out."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np

from engine.errors import InputError
from engine.io.checks import MAX_DEFLATE_RATIO, check_room
from engine.io.files import replacing
from engine.io.guard import allow, guarded
from engine.io.source import Source, listed

#: Bytes of a header, at most; those of plain arrays have 128.
_MAX_HEADER = 2**16


def read_npy(source: Source, kinds: str = "iuf", expected: str = "a .npy array of real numbers") -> np.ndarray:
    """Map an array into memory.

    This needs no child process: the header is a literal of bounded length, no pickle is opened, and a file too short
    for its header is refused before anything is allocated.

    Parameters
    ----------
    source : Source
    kinds : str
        NumPy's letters of the types that are read.
    expected : str
        What they are, for the error.

    Raises
    ------
    InputError
        Nothing there, unreadable, of another type, or shorter than its header claims.
    """
    if not source.path.is_file():
        raise InputError(source.argument, "a .npy file", f"nothing at '{source.path}'", "check the path")
    with source.reading(expected), warnings.catch_warnings(), source.path.open("rb") as stream:
        start = stream.read(12)
        # From version 2 on a header may claim 4 GB, which would be given to it.
        if start[6:7] > b"\1" and int.from_bytes(start[8:], "little") > _MAX_HEADER:
            raise ValueError(f"a header of more than {_MAX_HEADER} bytes")
        warnings.simplefilter("ignore")  # headers of Python 2, and shapes that overflow
        array = np.lib.format.open_memmap(source.path, mode="r")
        if array.dtype.kind not in kinds:
            raise source.refusal(expected, str(array.dtype), "save it as one of these")
        return array


@guarded("a .npz archive of numbers")
def read_npz(source: Source, name: str | None, default: str) -> np.ndarray:
    """Read an array of an archive of `numpy.savez`; names in it never touch the disk.

    Parameters
    ----------
    source : Source
    name : str or None
        Of the array. None: the only one, or that called `default`.
    default : str

    Raises
    ------
    InputError
        Unreadable, or no such array.
    """
    with zipfile.ZipFile(source.path) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        names = [member.filename.removesuffix(".npy") for member in members]
        member = members[names.index(chosen_name(names, name, default, source))]
        ratio = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: MAX_DEFLATE_RATIO}.get(member.compress_type)
        if ratio is None:
            raise source.refusal("numpy.savez or savez_compressed", "another compression", "save it with one of them")
        check_room((member.file_size,), np.dtype(np.uint8), source, ratio)
        allow(member.file_size, source)
        with archive.open(member) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
            # At its end the checksum is compared.
            if stream.read(1):
                raise ValueError("more numbers than its header claims")
    return array


def chosen_name(names: list[str], name: str | None, default: str, source: Source) -> str:
    """Choose an array by its name, or because it is the only one or has the default name."""
    wanted = name if name is not None else names[0] if len(names) == 1 else default
    if names.count(wanted) != 1:
        got = f"{len(names)} ({listed(names)})"
        raise source.refusal(f"one array, or one called '{wanted}'", got, "save one array alone")
    return wanted


def write_npy(path: Path, data: np.ndarray) -> None:
    """Write an array, atomically."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, data, allow_pickle=False)
