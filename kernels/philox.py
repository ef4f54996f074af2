"""Noise as a function of seed, step, phase and voxel index: the generator Philox 4x32-10 and its normal transform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from kernels.arrays import library_of
from kernels.checks import check_array, check_integer
from kernels.native import native_of

_WORD = 1 << 32
_LAST = 1 << 63


@dataclass(frozen=True)
class NoiseKey:
    """The keyed noise of a stack of slices: which draw it is, and which voxel each entry shows.

    Entry (i, r, c) has the normal of voxel ``start + i * strides[0] + r * strides[1] + c * strides[2]``, the one that
    `philox_normal` draws for it. So a stack cut from a volume in any plane, or every f-th column of it, has the
    volume's noise, which is never stored.

    Parameters
    ----------
    seed : int
        0 ... 2^64 - 1.
    step, phase : int
        0 ... 2^32 - 1 each.
    strides : tuple of 3 int
        Voxels from one slice, row and column to the next, 0 ... 2^63 - 1 each.
    start : int
        Voxel of entry (0, 0, 0), 0 ... 2^63 - 1.

    Raises
    ------
    TypeError
        An entry is not an integer.
    ValueError
        An entry is out of range, or there are not 3 strides.
    """

    seed: int
    step: int
    phase: int
    strides: tuple[int, int, int]
    start: int = 0

    def __post_init__(self) -> None:
        check_integer("seed", self.seed, 0, 1 << 64)
        check_integer("step", self.step, 0, _WORD)
        check_integer("phase", self.phase, 0, _WORD)
        check_integer("start", self.start, 0, _LAST)
        if np.ndim(self.strides) != 1 or len(self.strides) != 3:
            raise ValueError(f"strides: expected 3 integers, got {self.strides}; give one for slices, rows and columns")
        # Hashable, whatever sequence was given.
        object.__setattr__(self, "strides", tuple(self.strides))
        for stride in self.strides:
            check_integer("strides", stride, 0, _LAST)

    def native(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return what native code takes for a stack of this shape.

        Raises
        ------
        ValueError
            The stack's last voxel would lie at or beyond 2^63.
        """
        if 0 not in shape:
            last = self.start + sum((n - 1) * stride for n, stride in zip(shape, self.strides, strict=True))
            if last >= _LAST:
                raise ValueError(
                    f"noise: expected voxels below 2^63, got {last} as the last of {shape}; choose smaller strides"
                )
        return (self.seed, self.step, self.phase, self.start, *self.strides)


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
    if math.prod(sizes) >= 1 << 63:
        raise ValueError(f"shape: expected less than 2^63 entries, got {sizes}; draw a part of them")
    start = check_integer("start", start, 0, (1 << 63) - math.prod(sizes) + 1)
    out: npt.NDArray[np.float32] = library.empty(sizes, np.float32)
    native, context = native_of(library)
    native.philox_normal(seed, step, phase, start, out, context)
    return out


def philox_slices(key: NoiseKey, shape: Sequence[int], library: ModuleType = np) -> npt.NDArray[np.float32]:
    """Draw the keyed noise of a stack of slices, in its own layout; no volume is drawn first.

    Parameters
    ----------
    key : NoiseKey
        Which draw, and which voxels.
    shape : sequence of 3 int
        (n_slices, n_rows, n_columns).
    library : module
        numpy, or cupy for an array on its current device.

    Returns
    -------
    float32, `shape`
        Standard normals, the same bits for any number of threads, and for any strides that lead to the same voxel.

    Raises
    ------
    TypeError
        `key` is not a `NoiseKey`, or a size not an integer.
    ValueError
        There are not 3 sizes, one is negative, or a voxel lies at or beyond 2^63.
    """
    if not isinstance(key, NoiseKey):
        raise TypeError(f"key: expected a NoiseKey, got {type(key).__name__}; pass kernels.NoiseKey(...)")
    sizes = tuple(check_integer("shape", size, 0, _LAST) for size in shape)
    if len(sizes) != 3:
        raise ValueError(f"shape: expected 3 sizes, got {len(sizes)}; pass (n_slices, n_rows, n_columns)")
    native_key = key.native(sizes)
    out: npt.NDArray[np.float32] = library.empty(sizes, np.float32)
    native, context = native_of(library)
    native.philox_slices(native_key, out, context)
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
