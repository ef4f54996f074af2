"""NumPy's files, .npy and .npz, read without trust in what they claim."""

from __future__ import annotations

import math
import warnings
import zipfile
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np

from engine.errors import InputError
from engine.io.checks import MAX_DEFLATE_RATIO, check_numbers, check_shape
from engine.io.files import replacing
from engine.io.source import Origin

#: Bytes of a header, at most; those of plain arrays have 128.
_MAX_HEADER = 2**16
_PIECE = 2**22
#: Member of an archive that is taken where there are several.
_NAME = "volume.npy"


def read_npy(path: Path, argument: str) -> np.ndarray:
    """Map an array of real numbers, of any rank, into memory; nothing is allocated, no pickle opened.

    Raises
    ------
    InputError
        Unreadable, no real numbers, or shorter than its header claims.
    """
    try:
        with path.open("rb") as stream:
            shape, fortran, dtype, offset = _header(stream)
        check_numbers(dtype, str(path), argument)
        _check_room(shape, dtype, path.stat().st_size - offset, str(path), argument)
        if 0 in shape:
            return np.empty(shape, dtype=dtype)
        return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
    except InputError:
        raise
    except Exception as error:  # NumPy raises ValueError, OSError or EOFError, as the damage goes
        raise Origin(path, argument).unreadable("a .npy array of numbers", error) from error


def read_npz(path: Path, argument: str) -> np.ndarray:
    """Read the only array of an archive, or the one named "volume"; names in it never touch the disk.

    Returns
    -------
    float32, rank 3

    Raises
    ------
    InputError
        Unreadable; no array or several and none named "volume"; no real numbers; not of rank 3; a size that the
        archive, the array's header and the compressed bytes do not agree on.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = _member(archive, path, argument)
            n_room = min(member.compress_size, path.stat().st_size)
            if member.compress_type == zipfile.ZIP_DEFLATED:
                n_room *= MAX_DEFLATE_RATIO
            elif member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"compressed by method {member.compress_type}")
            with archive.open(member) as stream:
                shape, fortran, dtype, offset = _header(stream)
                check_shape(shape, str(path), argument)
                check_numbers(dtype, str(path), argument)
                _check_room(shape, dtype, min(n_room, member.file_size) - offset, str(path), argument)
            # Opened again: where a member is sought in, its checksum is not compared.
            with archive.open(member) as stream:
                _exactly(stream, offset)
                return _read_voxels(stream, shape, fortran, dtype)
    except InputError:
        raise
    except Exception as error:  # zipfile's own, zlib's, NumPy's, and RuntimeError for a password
        raise Origin(path, argument).unreadable("a .npz archive of numbers", error) from error


def write_npy(path: Path, data: np.ndarray) -> None:
    """Write an array, atomically."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, data, allow_pickle=False)


def _member(archive: zipfile.ZipFile, path: Path, argument: str) -> zipfile.ZipInfo:
    members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
    named = [member for member in members if member.filename == _NAME]
    chosen = named if named else members
    if len(chosen) != 1:
        raise InputError(
            argument,
            f"one array, or one named 'volume', in '{path}'",
            f"{len(chosen)}",
            "save the volume alone with numpy.savez",
        )
    return chosen[0]


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether the first axis runs fastest, type, and where the numbers begin."""
    # A version 2 header may claim 4 GB: it gets what is read here and no more.
    start = BytesIO(stream.read(_MAX_HEADER))
    version = np.lib.format.read_magic(start)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the format")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a file of Python 2's, which is as good
        shape, fortran, dtype = readers[version](start)
    if any(side < 0 for side in shape):
        raise ValueError(f"shape {shape}")
    return shape, fortran, dtype, start.tell()


def _check_room(shape: tuple[int, ...], dtype: np.dtype, n_room: int, source: str, argument: str) -> None:
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes > n_room:
        raise InputError(
            argument,
            f"{n_bytes} bytes of numbers for the header's shape {shape}",
            f"at most {n_room} in '{source}'",
            "save it again",
        )


def _read_voxels(stream: IO[bytes], shape: tuple[int, ...], fortran: bool, dtype: np.dtype) -> np.ndarray:
    """Numbers of a member of an archive, which is read to its end, where its checksum is compared."""
    n, done = math.prod(shape), 0
    flat = np.empty(n, dtype=np.float32)
    while done < n:
        n_bytes = min(_PIECE, n - done) * dtype.itemsize
        numbers = np.frombuffer(_exactly(stream, n_bytes), dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # infinite values are counted later
            flat[done : done + numbers.size] = numbers
        done += numbers.size
    if stream.read(1):
        raise ValueError("more numbers than its header claims")
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _exactly(stream: IO[bytes], n_bytes: int) -> bytes:
    content = stream.read(n_bytes)
    while len(content) < n_bytes:
        piece = stream.read(n_bytes - len(content))
        if not piece:
            raise EOFError(f"{n_bytes - len(content)} bytes are missing")
        content += piece
    return content
