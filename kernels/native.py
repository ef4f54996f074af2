"""Which native module serves an array library: CPU threads for NumPy, CUDA for CuPy."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np

from kernels.threads import get_threads


def native_of(library: ModuleType) -> tuple[Any, int]:
    """Return the native module for a library's arrays, and what its functions take as ``context``.

    Returns
    -------
    module
        `kernels._cpu` or `kernels._cuda`, which have the same functions.
    context : int
        Number of threads, or the address of CuPy's current stream.

    Raises
    ------
    RuntimeError
        CuPy arrays, and an installation without CUDA kernels.
    """
    if library is np:
        from kernels import _cpu

        return _cpu, get_threads()
    try:
        native = importlib.import_module("kernels._cuda")
    except ImportError as error:
        raise RuntimeError(
            "kernels: expected CUDA kernels for CuPy arrays, got an installation without them; "
            "install again where nvcc is found, with `pip install .`"
        ) from error
    return native, int(library.cuda.get_current_stream().ptr)
