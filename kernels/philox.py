"""Noise as a function of seed, step, phase and voxel index: the generator Philox 4x32-10 and its normal transform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from kernels.arrays import library_of
from kernels.checks import check_array, check_integer
from kernels.native import native_of

_WORD = 1 << 32


def philox_normal(
    seed: int, step: int, phase: int, shape: int | Sequence[int], start: int = 0, library: ModuleType = np
) -> npt.NDArray[np.float32]:
    """Draw one standard normal for each voxel of a range; a voxel's value depends on nothing but its key and index.

    However a volume is cut into ranges, voxel v gets the same value. Seed is the generator's key; its counter is
    (v // 4 in 64 bits, step, phase), and the four words of a counter serve voxels 4 (v // 4) ... 4 (v // 4) + 3.

    Parameters
    ----------
    seed : int
        0 ... 2^64 - 1.
    step, phase : int
        0 ... 2^32 - 1 each.
    shape : int or sequence of int
        Shape of the result; it is filled in C order with voxels start, start + 1, ….
    start : int
        Flat index of the first voxel in the volume, in C order; start + size may not exceed 2^63.
    library : module
        numpy, or cupy for an array on its current device.

    Returns
    -------
    float32, `shape`
        Standard normals, at most 6.77 in magnitude.

    Raises
    ------
    TypeError
        An argument is not an integer.
    ValueError
        An argument is out of range.

    Notes
    -----
    Generator: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011. Transform: Box and Muller, 1958.
    """
    seed = check_integer("seed", seed, 0, 1 << 64)
    step = check_integer("step", step, 0, _WORD)
    phase = check_integer("phase", phase, 0, _WORD)
    sizes = (shape,) if isinstance(shape, SupportsIndex) else tuple(shape)
    sizes = tuple(check_integer("shape", size, 0, 1 << 63) for size in sizes)
    start = check_integer("start", start, 0, (1 << 63) - math.prod(sizes) + 1)
    out: npt.NDArray[np.float32] = library.empty(sizes, np.float32)
    native, context = native_of(library)
    native.philox_normal(seed, step, phase, start, out, context)
    return out


def philox_bits(counters: npt.NDArray[np.uint32], key: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """Encrypt every counter with Philox 4x32-10; a bijection of counters for each key.

    Parameters
    ----------
    counters : uint32 (n, 4), C-contiguous
        Counter words, the least significant first.
    key : (int, int)
        Key words, the least significant first, 0 ... 2^32 - 1 each.

    Returns
    -------
    uint32 (n, 4)
        Random words.

    Raises
    ------
    TypeError
        `counters` is not a uint32 NumPy array, or `key` not of integers.
    ValueError
        `counters` has another rank, size or layout; `key` is not of two words.
    """
    check_array("counters", counters, ("n", 4), np.uint32, "pass four words a counter")
    if len(key) != 2:
        raise ValueError(f"key: expected 2 words, got {len(key)}; split a 64-bit seed into its low and high word")
    key0, key1 = (check_integer("key", word, 0, _WORD) for word in key)
    library = library_of(counters=counters)
    out: npt.NDArray[np.uint32] = library.empty_like(counters)
    native, context = native_of(library)
    native.philox_bits(counters, key0, key1, out, context)
    return out
