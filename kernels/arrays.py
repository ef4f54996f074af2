"""Which array library a call works in: NumPy, or CuPy for a GPU."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np


def library_of(**arrays: Any) -> ModuleType:
    """Return the module, numpy or cupy, that all given arrays belong to; None arguments are skipped.

    Raises
    ------
    TypeError
        Something that is no array; arrays of both libraries; CuPy arrays of another than the current device.
    """
    if all(type(value) is np.ndarray for value in arrays.values()):
        return np
    found: dict[str, ModuleType] = {}
    for name, value in arrays.items():
        if value is None:
            continue
        library = _library_of_one(value)
        if library is None:
            raise TypeError(
                f"{name}: expected numpy.ndarray or cupy.ndarray, got {type(value).__name__}; pass a NumPy array"
            )
        found[name] = library
    if not found:
        raise TypeError(f"{', '.join(arrays)}: expected an array, got None; pass a NumPy array")
    first, library = next(iter(found.items()))
    if library is not np and arrays[first].device != library.cuda.Device():
        raise TypeError(
            f"{first}: expected an array of the current device ({library.cuda.Device()}), got {arrays[first].device}; "
            "work inside that device's context"
        )
    for name, other in found.items():
        if other is not library:
            raise TypeError(
                f"{name}: expected {library.__name__}.ndarray like {first}, got {other.__name__}.ndarray; "
                f"move one of them with cupy.asarray or cupy.asnumpy"
            )
        if library is not np and arrays[name].device != arrays[first].device:
            raise TypeError(
                f"{name}: expected the device of {first} ({arrays[first].device}), got {arrays[name].device}; "
                "move it with cupy.asarray inside that device's context"
            )
    return library


def _library_of_one(value: Any) -> ModuleType | None:
    # Whoever has a CuPy array has imported CuPy: looking it up, instead of importing it, costs nothing elsewhere.
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(value, cupy.ndarray):
        return cupy
    return np if isinstance(value, np.ndarray) else None


def is_array(value: Any) -> bool:
    """Return whether `value` is an array of one of the libraries."""
    return _library_of_one(value) is not None


def to_numpy(array: Any) -> np.ndarray:
    """Return the array in the host's memory; a NumPy array as it is."""
    library = library_of(array=array)
    return np.asarray(array if library is np else library.asnumpy(array))


class DeviceCopies:
    """Constant arrays, copied once to every device on which they are used.

    Parameters
    ----------
    arrays : NumPy arrays
    """

    def __init__(self, *arrays: np.ndarray):
        self._arrays = arrays
        self._copies: dict[tuple[str, str], tuple[Any, ...]] = {}

    def beside(self, x: Any, library: ModuleType) -> tuple[Any, ...]:
        """The arrays in the library and on the device of `x`."""
        if library is np:
            return self._arrays
        place = library.__name__, str(x.device)
        if place not in self._copies:
            copies = tuple(library.asarray(array) for array in self._arrays)
            # Other streams will use them too.
            library.cuda.get_current_stream().synchronize()
            self._copies[place] = copies
        return self._copies[place]
