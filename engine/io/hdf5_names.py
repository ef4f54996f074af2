"""Check the heaps in which an HDF5 file keeps names of a group's members before its library reads them.

Each has a list of its free blocks, and the library follows that from block to block, taking memory for each: where one
names itself or an earlier one as the next, forever. So lists are followed beforehand, in the file's own bytes, as in
"HDF5 File Format Specification", III.D (local heap).
"""

from __future__ import annotations

import mmap
import struct

from engine.io.source import Origin

#: Signature and version; all else behind them may be anything.
_MARK = b"HEAP\0"
#: Of the heap: size of its data, first free block, address of its data. Of a block: the next one, and its size.
_HEAP, _BLOCK = struct.Struct("<8xQQQ"), struct.Struct("<QQ")
#: Stands for a next block where there is none.
_NONE = 1


def check_lists(origin: Origin) -> None:
    """Follow the free blocks of all heaps of names; whatever else is wrong with these the library sees itself.

    Parameters
    ----------
    origin : Origin
        A file with addresses and lengths of 8 bytes.

    Raises
    ------
    InputError
        A list of blocks without an end.
    """
    n_left = origin.path.stat().st_size // _BLOCK.size
    if not n_left:
        return
    with origin.path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.find(_MARK)
        while 0 <= place <= len(content) - _HEAP.size:
            size, block, address = _HEAP.unpack_from(content, place)
            while block != _NONE and block + _BLOCK.size <= size and address + block + _BLOCK.size <= len(content):
                # Blocks overlap neither in one heap nor in two.
                n_left -= 1
                if n_left < 0:
                    raise origin.refusal("a list of free blocks that ends", "one that does not", "write the file again")
                block, _ = _BLOCK.unpack_from(content, address + block)
            place = content.find(_MARK, place + 1)
