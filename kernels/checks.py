"""The checks at the boundary to native code: nothing of another type, rank, size or layout gets past them."""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex

import numpy as np

from kernels.arrays import is_array, library_of

Shape = tuple[int | str, ...]
"""What a shape must be: numbers are exact, names stand for any size."""


def describe_shape(shape: Shape) -> str:
    """Write a shape as Python does, names unquoted: ``(n, 36, 363)``."""
    return "(" + ", ".join(str(size) for size in shape) + (",)" if len(shape) == 1 else ")")


def check_array(name: str, value: Any, shape: Shape, dtype: type[np.generic], remedy: str) -> None:
    """Return only if `value` is a C-contiguous, aligned NumPy or CuPy array of this dtype and shape.

    Parameters
    ----------
    name : str
        The argument's name, first word of the message.
    value : object
        What the caller passed.
    shape : tuple of int or str
        Sizes; a name stands for any size.
    dtype : NumPy scalar type
        Exact type; the byte order must be the machine's.
    remedy : str
        What to do when the shape differs.

    Raises
    ------
    TypeError
        Not an array, or of another dtype.
    ValueError
        Another rank, another size, or not C-contiguous.
    """
    if type(value) is np.ndarray and value.dtype == dtype and _fits(value.shape, shape):
        flags = value.flags
        if flags.c_contiguous and flags.aligned:
            # The usual case, before a message is put together that nobody will read: kernels may be called often.
            return
    expected = f"{name}: expected {describe_shape(shape)} {np.dtype(dtype)}"
    if not is_array(value):
        raise TypeError(f"{expected} as numpy.ndarray, got {type(value).__name__}; pass a NumPy array")
    library = library_of(**{name: value})
    if value.dtype != dtype:
        raise TypeError(
            f"{expected}, got {describe_shape(value.shape)} {value.dtype}; convert it with .astype('{np.dtype(dtype)}')"
        )
    if not _fits(value.shape, shape):
        raise ValueError(f"{expected}, got {describe_shape(value.shape)} {value.dtype}; {remedy}")
    if not (value.flags.c_contiguous and (library is not np or value.flags.aligned)):
        raise ValueError(
            f"{expected}, C-contiguous, got {describe_shape(value.shape)} with strides {value.strides} in bytes; "
            f"pass {library.__name__}.ascontiguousarray({name})"
        )


def _fits(got: tuple[int, ...], want: Shape) -> bool:
    if len(got) != len(want):
        return False
    for size, wanted in zip(got, want, strict=True):
        if size != wanted and not isinstance(wanted, str):
            return False
    return True


def check_integer(name: str, value: SupportsIndex, low: int, high: int) -> int:
    """Return `value` as int if it is an integer with ``low <= value < high``.

    Raises
    ------
    TypeError
        Not an integer; a float is none, whatever its value.
    ValueError
        Outside the range.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name}: expected an integer in {low} ... {high - 1}, got {type(value).__name__}; pass int({name})"
        ) from None
    if not low <= number < high:
        raise ValueError(
            f"{name}: expected an integer in {low} ... {high - 1}, got {number}; choose one inside the range"
        )
    return number
