"""Read arrays of the BART toolbox: a .cfl with numbers beside a .hdr with their dimensions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from engine.io.guard import allow
from engine.io.source import Source

SUFFIXES = (".cfl", ".hdr")
#: Rows, columns, partitions, coils and slices among BART's axes: all that one image has.
_PARTITIONS, _SLICES = 2, 13
_AXES = (0, 1, _PARTITIONS, 3, _SLICES)
#: BART has 16 axes, and writes the commands that made a file into its header.
_MOST_AXES, _MAX_HEADER = 32, 2**16


def read_cfl(source: Source) -> np.ndarray:
    """Map an array into memory: complex64, its first axis running fastest.

    This needs no child process: a header is a few lines of bounded length, and what does not fit the file's size is
    refused before anything is read.

    Parameters
    ----------
    source : Source
        Either of the two files.

    Raises
    ------
    InputError
        One of them is missing, a header without dimensions, or numbers of another size.
    """
    numbers, header = (source.path.with_suffix(suffix) for suffix in SUFFIXES)
    for path in (numbers, header):
        if not path.is_file():
            remedy = "put both files of the array beside each other"
            raise replace(source, path=path).refusal("a .cfl and a .hdr of BART", "nothing", remedy)
    shape = _dimensions(replace(source, path=header))
    n_bytes, n_stored = 8 * math.prod(shape), numbers.stat().st_size
    if n_bytes != n_stored:
        expected = f"{n_bytes} bytes for the header's {shape}"
        raise replace(source, path=numbers).refusal(expected, f"{n_stored}", "write both files again")
    allow(n_bytes, source)
    with source.reading("a .cfl of BART"):
        return np.memmap(numbers, np.complex64, "r", shape=shape, order="F")


def _dimensions(source: Source) -> tuple[int, ...]:
    with source.reading("a .hdr of BART"), source.path.open("rb") as stream:
        lines = stream.read(_MAX_HEADER).decode("utf-8", "replace").splitlines()
    words: list[str] = []
    if "# Dimensions" in lines[:-1]:
        words = lines[lines.index("# Dimensions") + 1].split()[: _MOST_AXES + 1]
    is_shape = all(word.isascii() and word.isdigit() and len(word) < 10 and int(word) > 0 for word in words)
    if not words or not is_shape or len(words) > _MOST_AXES:
        got = " ".join(words)[:60] or "none"
        raise source.refusal("a .hdr of BART with positive dimensions", got, "write the array again with BART")
    return tuple(map(int, words))


def stack_of(values: np.ndarray, source: Source) -> tuple[np.ndarray, bool]:
    """Return an array in BART's own order of axes as (slices or partitions, coils, rows, columns), a view.

    Parameters
    ----------
    values : array (rows, columns, partitions, coils, ..., slices, ...)
    source : Source

    Returns
    -------
    array
    bool
        Whether its first axis counts partitions.

    Raises
    ------
    InputError
        Several of something else, such as echoes or frames, or partitions beside slices.
    """
    shape = values.shape + (1,) * (_SLICES + 1 - values.ndim)
    others = [axis for axis, n in enumerate(shape) if n > 1 and axis not in _AXES]
    if others:
        axis = others[0]
        remedy = f"take one with `bart slice {axis} 0`, or name all axes with --axes if they are in another order"
        raise source.refusal("one image in BART's order of axes", f"{shape[axis]} along axis {axis}", remedy)
    is_slab = shape[_PARTITIONS] > 1
    if is_slab and shape[_SLICES] > 1:
        got = f"{shape[_PARTITIONS]} partitions of {shape[_SLICES]} slabs"
        raise source.refusal("partitions or slices", got, f"take one slab with `bart slice {_SLICES} 0`")
    kept = [shape[axis] for axis in _AXES]
    rows, columns, partitions, coils, slices = range(len(_AXES))
    stack = values.reshape(kept).transpose(
        partitions if is_slab else slices, coils, rows, columns, *([slices] if is_slab else [partitions])
    )
    return stack[..., 0], is_slab
