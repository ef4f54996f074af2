"""Compares a stack with what an operator takes, and says along which axis it differs."""

from __future__ import annotations

from typing import Any

import numpy as np

#: What the axes of images are.
IMAGE_AXES = ("slices", "rows", "columns")


def check_stack(name: str, array: Any, axes: tuple[str, ...], shape: tuple[int | None, ...], dtype: Any) -> None:
    """Raise ValueError unless a stack has the axes, sizes and type that are expected.

    Parameters
    ----------
    name : str
        The argument's name, first word of the message.
    array : array
        NumPy's or CuPy's.
    axes : tuple of str
        What each axis counts, in the plural: "slices", "views".
    shape : tuple of int or None
        Sizes; None stands for any.
    dtype : dtype

    Raises
    ------
    ValueError
        Another rank, another size along an axis, which the message names, or another type.
    """
    actual = array.shape
    if len(actual) != len(axes):
        raise ValueError(
            f"{name}: expected {len(axes)} axes ({', '.join(axes)}), got {len(actual)} in the shape {actual}; give one "
            "entry a slice, in the layout of the plane that is measured"
        )
    wrong = [i for i, size in enumerate(shape) if size not in (None, actual[i])]
    if wrong:
        expected = " and ".join(f"{shape[i]} {_count(axes[i], shape[i])} along axis {i}" for i in wrong)
        got = " and ".join(str(actual[i]) for i in wrong)
        remedy = _remedy(axes, shape, actual)
        raise ValueError(f"{name}: expected {expected}, got {got} in the shape {actual}; {remedy}")
    if array.dtype != dtype:
        loses_part = array.dtype.kind == "c" and np.dtype(dtype).kind != "c"
        remedy = (
            "take its real part if it has no other" if loses_part else f"convert it with .astype('{np.dtype(dtype)}')"
        )
        raise ValueError(f"{name}: expected {np.dtype(dtype)}, got {array.dtype}; {remedy}")


def _count(axis: str, n: int | None) -> str:
    """An axis's name in the plural, or in the singular for one."""
    return axis[:-1] if n == 1 else axis


def _remedy(axes: tuple[str, ...], shape: tuple[int | None, ...], actual: tuple[int, ...]) -> str:
    others = [axis for axis, size, n in zip(axes[1:], shape[1:], actual[1:], strict=True) if size not in (None, n)]
    if not others:
        return "give one entry for each slice that is measured"
    if None not in shape[1:] and sorted(actual[1:]) == sorted(n for n in shape[1:] if n is not None):
        return f"put its axes into the order {', '.join(axes)}"
    return f"build the operator for its {' and '.join(others)}, or give what belongs to this one"
