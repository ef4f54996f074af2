"""Open HDF5 files that may be damaged or made to do harm: nothing outside the file is read, nothing outgrows its claim.

HDF5 can point to other files (external and soft links, external storage, virtual datasets), load code for unknown
compressions, and expand a few bytes to gigabytes. Each of these is refused before any of it happens.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.io.hdf5_heap import lengths_of
from engine.io.hdf5_names import check_lists
from engine.io.source import Origin

#: More than any scan: 8 GiB.
MAX_BYTES = 2**33
#: Samples over what is stored of them: measured numbers hardly shrink, and nobody skips more than 99 lines of 100.
MAX_RATIO = 100
#: Chunks; more would take minutes to look through.
_MAX_CHUNKS = 2**20
#: A header of ISMRMRD has some ten thousand characters.
_MAX_TEXT = 2**20
#: HDF5's numbers of the filters that every build has: deflate, shuffle, checksum, and h5py's own, LZF.
_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000
#: A file begins with it.
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: Bytes that are inflated at once to be counted.
_PIECE = 2**20


@contextmanager
def opened(origin: Origin) -> Iterator[Any]:
    """Yield the `h5py.File` at `origin`, for reading.

    Raises
    ------
    InputError
        No file there, or none of HDF5.
    """
    import h5py

    if not origin.path.is_file():
        raise InputError(origin.argument, "an HDF5 file", f"nothing at '{origin.path}'", "check the path")
    with origin.reading("an HDF5 file"):
        _check_start(origin)
        check_lists(origin)
        file = h5py.File(origin.path, "r")
    try:
        yield file
    finally:
        file.close()


def _check_start(origin: Origin) -> None:
    """Refuse files whose addresses are not those of their own bytes, or not of 8 bytes: checks of these look there."""
    with origin.path.open("rb") as stream:
        head = stream.read(_MAX_TEXT)
    if not head.startswith(_SIGNATURE):
        place = head.find(_SIGNATURE)
        got = "other first bytes" if place < 0 else f"one behind {place} bytes"
        raise origin.refusal("an HDF5 file", got, "save it again" if place < 0 else "take those bytes out")
    # "HDF5 File Format Specification", II.A: behind the signature the version, then, sooner or later, both sizes.
    start = 13 if head[8:9] in (b"\0", b"\1") else 9
    sizes = list(head[start : start + 2])
    if sizes != [8, 8]:
        raise origin.refusal("an HDF5 file with addresses of 8 bytes", f"others, {sizes}", "repack the file")


def has(group: Any, name: str, origin: Origin) -> bool:
    """Whether a group has a member of that name; where it points is not looked at."""
    with origin.reading("an HDF5 file"):
        return bool(group.id.links.exists(name.encode()))


def member_of(group: Any, name: str, origin: Origin) -> Any:
    """Return a group or dataset that lies in the group itself, a dataset after all checks of its storage.

    Raises
    ------
    InputError
        Not there, a link that could lead elsewhere, or a dataset whose samples are stored in other files, compressed by
        an unknown method, or claimed to be more than the file can hold.
    """
    import h5py

    with origin.reading(f"'{name}' in an HDF5 file"):
        if not has(group, name, origin):
            raise origin.refusal(f"'{name}'", "none", "check how the file was written")
        if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise origin.refusal(f"'{name}' itself", "a link", "write a file that holds its data")
        found = group[name]
        if isinstance(found, h5py.Dataset):
            _check_storage(found, name, origin)
        elif not isinstance(found, h5py.Group):
            raise origin.refusal(f"'{name}' as group or dataset", type(found).__name__, "write the file again")
        return found


def text_of(dataset: Any, name: str, origin: Origin) -> bytes:
    """Return the only string of a dataset, of at most 1 MiB."""
    import h5py

    with origin.reading(f"one text in '{name}'"):
        info = h5py.check_string_dtype(dataset.dtype)
        n = -1
        if info is not None and math.prod(dataset.shape) == 1:
            n = int(lengths_of(dataset, {0: 1}, origin)[0][0]) if info.length is None else info.length
        if not 0 <= n <= _MAX_TEXT:
            raise origin.refusal(
                f"one text of at most {_MAX_TEXT} bytes in '{name}'",
                f"{dataset.shape} of {dataset.dtype.kind}, {n}",
                "write its header again",
            )
        value = dataset[()]
        value = value.reshape(-1)[0] if isinstance(value, np.ndarray) else value
        return value.encode() if isinstance(value, str) else bytes(value)


def attribute_of(file: Any, name: str, shape: tuple[int, ...], origin: Origin) -> np.ndarray | None:
    """Return an attribute of numbers with that shape as float64; None where there is none."""
    with origin.reading(f"the attribute '{name}'"):
        if name not in file.attrs:
            return None
        kept = file.attrs.get_id(name)
        if kept.shape != shape or kept.dtype.kind not in "iuf":
            raise origin.refusal(f"an attribute '{name}' {shape} of numbers", f"{kept.shape}", "save the file again")
        value = np.asarray(file.attrs[name], np.float64)
    if not np.isfinite(value).all():
        raise origin.refusal(f"a finite attribute '{name}'", "NaN or infinite values", "save the file again")
    return value


def word_of(file: Any, name: str, origin: Origin) -> str | None:
    """Return an attribute that is one text of fixed length; None where there is none."""
    with origin.reading(f"the attribute '{name}'"):
        if name not in file.attrs:
            return None
        kept = file.attrs.get_id(name)
        # Nothing vouches for the length of another one.
        if kept.shape != () or kept.dtype.kind != "S":
            raise origin.refusal(
                f"a text of fixed length as attribute '{name}'", f"{kept.dtype}", "save the file again"
            )
        return bytes(file.attrs[name]).decode("ascii", "replace")


def _check_storage(dataset: Any, name: str, origin: Origin) -> None:
    import h5py

    created = dataset.id.get_create_plist()
    # Before the shape is asked for: that of a virtual dataset is looked up in the files that it points to.
    if created.get_layout() == h5py.h5d.VIRTUAL or created.get_external_count():
        raise origin.refusal(f"'{name}' stored in the file", "parts of other files", "write a file that holds its data")
    filters = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
    if len(set(filters)) < len(filters) or not set(filters) <= {_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF}:
        raise origin.refusal(
            f"'{name}' compressed by gzip or lzf, or not at all", f"HDF5's filters {filters[:8]}", "repack the file"
        )
    if dataset.shape is None:
        raise origin.refusal(f"samples in '{name}'", "a dataset without space", "write the file again")
    if not _is_plain(dataset.id.get_type()):
        raise origin.refusal(f"numbers or texts in '{name}'", "others, or a damaged type", "write the file again")
    n_bytes = math.prod(dataset.shape) * dataset.id.get_type().get_size()
    if n_bytes > MAX_BYTES:
        raise origin.refusal(
            f"at most {MAX_BYTES} bytes in '{name}'", f"{n_bytes} for the shape {dataset.shape}", "split the scan"
        )
    size = origin.path.stat().st_size
    if dataset.chunks is not None:
        _check_chunks(dataset, name, filters, size, n_bytes, origin)
    n_stored = min(dataset.id.get_storage_size(), size)
    if n_bytes > n_stored * (MAX_RATIO if dataset.chunks is not None else 1):
        raise origin.refusal(
            f"{n_bytes} bytes for the shape {dataset.shape} of '{name}'", f"{n_stored} stored", "write the file again"
        )


def _is_plain(kind: Any) -> bool:
    """Whether a type is made of what NumPy has, no part of it over another: HDF5 crashes as it converts some others."""
    import h5py

    if isinstance(kind, h5py.h5t.TypeStringID):
        return True
    if isinstance(kind, h5py.h5t.TypeCompoundID):
        end = 0
        for i in range(kind.get_nmembers()):
            part, offset = kind.get_member_type(i), kind.get_member_offset(i)
            if offset < end or not _is_plain(part):
                return False
            end = offset + part.get_size()
        return bool(end <= kind.get_size())
    if isinstance(kind, h5py.h5t.TypeVlenID):
        # Behind two bytes of its own, as in "HDF5 File Format Specification", IV.A.2.d: class, then 0 for a sequence.
        return kind.encode()[3] & 0x0F == 0 and _is_plain(kind.get_super())
    # Complex numbers that are no compounds came with HDF5 2.0.
    if isinstance(kind, (h5py.h5t.TypeArrayID, getattr(h5py.h5t, "TypeComplexID", h5py.h5t.TypeArrayID))):
        return _is_plain(kind.get_super())
    # Its exponent may lie outside of a number, say.
    return bool(kind.equal(h5py.h5t.py_create(kind.dtype)))


def _check_chunks(dataset: Any, name: str, filters: list[int], size: int, n_bytes: int, origin: Origin) -> None:
    n_chunks = math.prod(-(-side // chunk) for side, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    of_chunk = math.prod(dataset.chunks) * dataset.id.get_type().get_size()
    # h5py's chunks of growing datasets may exceed a small dataset, by little.
    if n_chunks > _MAX_CHUNKS or of_chunk > max(n_bytes, _MAX_TEXT):
        raise origin.refusal(
            f"'{name}' in at most {_MAX_CHUNKS} chunks, none larger than all samples",
            f"{n_chunks} of {of_chunk} bytes",
            "repack the file",
        )
    if {_DEFLATE, _LZF} <= set(filters):
        raise origin.refusal(f"'{name}' compressed once", "gzip and lzf", "repack the file")
    found: list[Any] = []
    # Its answer None means: go on.
    dataset.id.chunk_iter(found.append)
    for chunk in found:
        if chunk.byte_offset is None or chunk.byte_offset + chunk.size > size:
            raise origin.refusal(f"the chunks of '{name}'", "some cut off", "copy or write the file again")
        n = _unpacked(dataset, chunk, filters, of_chunk)
        # HDF5 takes what a chunk unpacks to, however much, and reads on behind it where that is too little.
        if n != of_chunk:
            more = "fewer" if n < of_chunk else "more"
            raise origin.refusal(f"chunks of {of_chunk} bytes in '{name}'", f"one of {more}", "write the file again")


def _unpacked(dataset: Any, chunk: Any, filters: list[int], at_most: int) -> int:
    """Bytes that a chunk unpacks to, counted up to somewhat more than `at_most`."""
    # A chunk can be stored without one of its filters; checksums take four bytes.
    used = [number for i, number in enumerate(filters) if not chunk.filter_mask >> i & 1]
    n = int(chunk.size)
    for number in reversed(used):
        if number == _FLETCHER32:
            n -= 4
        elif number in (_DEFLATE, _LZF):
            _, packed = dataset.id.read_direct_chunk(chunk.chunk_offset)
            packed = packed[: max(n, 0)]
            n = _inflated(packed, at_most + 8) if number == _DEFLATE else _lzf_size(packed)
    return n


def _inflated(packed: bytes, at_most: int) -> int:
    """Bytes that zlib's stream holds, counted up to `at_most`, in pieces that take no memory."""
    stream, n = zlib.decompressobj(), 0
    while packed and n < at_most:
        n += len(stream.decompress(packed, min(_PIECE, at_most - n)))
        packed = stream.unconsumed_tail
    return n


def _lzf_size(packed: bytes) -> int:
    """Bytes that LZF unpacks to: runs of literals, and copies of earlier bytes, each told by its first byte."""
    n = place = 0
    while place < len(packed):
        control = packed[place]
        if control < 32:
            n += control + 1
            place += control + 2
        elif control < 224:
            n += (control >> 5) + 2
            place += 2
        else:
            # The longest copies have another byte with the rest of their length.
            n += 9 + (packed[place + 1] if place + 1 < len(packed) else 0)
            place += 3
    return n
