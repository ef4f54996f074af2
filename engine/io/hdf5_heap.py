"""Check entries of variable length in an HDF5 file before its library reads them.

The library gives memory to whatever length an entry claims, and trusts the heap where entries lie: with some damaged
ones it never returns, or overwrites its own memory. So both are looked at in the file's own bytes, as in "HDF5 File
Format Specification", III.E (global heap) and IV.A.2.d (a reference: length, address of a collection, index in it).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from engine.io.source import Origin

#: Of a collection: its signature, version and size; of an object in it: index, references, a gap, and size.
_COLLECTION, _OBJECT = struct.Struct("<4sB3xQ"), struct.Struct("<HHIQ")
#: Bytes of a reference with addresses of 8 bytes, which all but the oldest files have.
_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])


def lengths_of(dataset: Any, item_sizes: Mapping[int, int], origin: Origin) -> list[np.ndarray]:
    """Return how many items each entry has, having checked that the file holds them.

    Parameters
    ----------
    dataset : h5py.Dataset
        Checked, of rank 0 or 1, not compressed.
    item_sizes : mapping of int to int
        For each field of variable length, by its offset in an entry, the bytes of an item.
    origin : Origin

    Returns
    -------
    list of int64 (n,)
        For each field.

    Raises
    ------
    InputError
        Stored in another way, or entries that are not in the file.
    """
    with origin.reading("entries of variable length"), origin.path.open("rb") as stream:
        references = _references(dataset, list(item_sizes), stream, origin)
        known: dict[int, dict[int, int]] = {}
        # Collections do not overlap: together they are no longer than the file.
        n_left = origin.path.stat().st_size
        for field, size in zip(references, item_sizes.values(), strict=True):
            for length, address, index in field.tolist():
                if length == 0:
                    continue
                if address not in known:
                    known[address], n_bytes = _objects(stream, address, n_left, origin)
                    n_left -= n_bytes
                # Not more than was stored, and not less: the library compares, but only after giving memory to it.
                if known[address].get(index) != length * size:
                    raise origin.refusal(
                        f"an entry of {length * size} bytes",
                        f"{known[address].get(index, 0)}",
                        "copy or write it again",
                    )
    return [field["length"].astype(np.int64) for field in references]


def _references(dataset: Any, offsets: list[int], stream: BinaryIO, origin: Origin) -> list[np.ndarray]:
    n = math.prod(dataset.shape)
    found: list[Any] = []
    if dataset.chunks is not None:
        dataset.id.chunk_iter(found.append)
        # The last chunk reaches beyond the entries.
        blocks = [(c.chunk_offset[0], c.byte_offset, c.size // dataset.chunks[0]) for c in found]
        n_each = dataset.chunks[0]
    else:
        where = dataset.id.get_offset()
        blocks = [] if where is None else [(0, where, dataset.id.get_storage_size() // n)]
        n_each = n
    counts = [min(n_each, n - first) for first, _, _ in blocks]
    if dataset.id.get_create_plist().get_nfilters() or sum(max(0, count) for count in counts) != n:
        raise origin.refusal("entries of variable length whole and not compressed", "others", "repack the file")
    if any(offset + _REFERENCE.itemsize > stride for offset in offsets for _, _, stride in blocks):
        raise origin.refusal("addresses of 8 bytes", "shorter ones", "repack the file")
    references = [np.zeros(n, _REFERENCE) for _ in offsets]
    for (first, where, stride), count in zip(blocks, counts, strict=True):
        stream.seek(where)
        entries = np.frombuffer(stream.read(count * stride), np.uint8).reshape(count, stride)
        for field, offset in zip(references, offsets, strict=True):
            part = np.ascontiguousarray(entries[:, offset : offset + _REFERENCE.itemsize])
            field[first : first + count] = part.view(_REFERENCE)[:, 0]
    return references


def _objects(stream: BinaryIO, address: int, at_most: int, origin: Origin) -> tuple[dict[int, int], int]:
    """Sizes of the objects of a collection by their index, each of them once, together no larger than it; its size."""
    size_of_file = origin.path.stat().st_size
    damaged = origin.refusal("a whole heap of entries", "a damaged one", "copy or write the file again")
    if address + _COLLECTION.size > size_of_file:
        raise damaged
    stream.seek(address)
    signature, version, size = _COLLECTION.unpack(stream.read(_COLLECTION.size))
    if (signature, version) != (b"GCOL", 1) or size % 8 or size > at_most or address + size > size_of_file:
        raise damaged
    content = stream.read(size - _COLLECTION.size)
    sizes: dict[int, int] = {}
    place = 0
    # Less than an object's header at the end is left unused.
    while place + _OBJECT.size <= len(content):
        index, _, _, n = _OBJECT.unpack_from(content, place)
        if index == 0:
            # Free space, whose size counts its own header: all of the rest.
            if place + n != len(content):
                raise damaged
            break
        place += _OBJECT.size + (n + 7) // 8 * 8
        if index in sizes or place > len(content):
            raise damaged
        sizes[index] = n
    return sizes, size
