"""The sampler's update in one pass over memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.arrays import library_of
from kernels.checks import check_array
from kernels.native import native_of

Float32 = npt.NDArray[np.float32]


def fused_update(
    x: Float32, score: Float32, noise: Float32 | None, a: float, b: float, out: Float32 | None = None
) -> Float32:
    """Return x + a * score + b * noise, each product and sum rounded to float32, in this order.

    Parameters
    ----------
    x : float32, any shape, C-contiguous
        State.
    score : float32, shape of `x`, C-contiguous
        Direction.
    noise : float32, shape of `x`, C-contiguous, or None
        None leaves the third term out, and `b` unused.
    a, b : float
        Step sizes, rounded to float32 first.
    out : float32, shape of `x`, C-contiguous, writeable, or None
        Where the result goes; may be `x`, `score` or `noise` itself, but may not overlap one partly. None: a new array.

    Returns
    -------
    float32, shape of `x`
        `out`, if given.

    Raises
    ------
    TypeError
        An array is not a float32 NumPy array.
    ValueError
        Shapes differ, a layout is not C-contiguous, or `out` is read-only or overlaps an input partly.
    """
    library = library_of(x=x, score=score, noise=noise, out=out)
    check_array("x", x, tuple(f"n{axis}" for axis in range(np.ndim(x))), np.float32, "pass a NumPy array")
    _check_like_x("score", score, x)
    if noise is not None:
        _check_like_x("noise", noise, x)
    if out is None:
        out = library.empty_like(x)
    else:
        _check_out(out, x, score, noise)
    native, context = native_of(library)
    native.fused_update(x, score, noise, a, b, out, context)
    return out


def _check_like_x(name: str, value: Any, x: Float32) -> None:
    check_array(name, value, x.shape, np.float32, "pass an array of the shape of x")


def _check_out(out: Any, x: Float32, *others: Float32 | None) -> None:
    _check_like_x("out", out, x)
    if not out.flags.writeable:
        raise ValueError("out: expected a writeable array, got a read-only one; pass a copy")
    for source in (x, *others):
        if source is None or source.ctypes.data == out.ctypes.data:
            continue
        # Equal sizes and contiguous: the address ranges decide.
        if np.may_share_memory(source, out):
            raise ValueError("out: expected an input itself or separate memory, got a shifted view; pass a copy")
