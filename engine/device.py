"""Where a run's arrays live: in the host's memory, or on one NVIDIA GPU."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from engine.errors import InputError, Unavailable
from kernels.arrays import to_numpy
from kernels.native import native_of


@dataclass(frozen=True)
class Device:
    """A place for arrays.

    Parameters
    ----------
    library : module
        numpy, or cupy for a GPU.
    number : int or None
        Which GPU; None for the host.
    """

    library: ModuleType
    number: int | None = None

    @property
    def name(self) -> str:
        return "cpu" if self.number is None else f"cuda:{self.number}"

    @property
    def platform(self) -> str:
        """Compute capability of the GPU, as "sm90"."""
        return f"sm{self.library.cuda.Device(self.number).compute_capability}"

    @contextmanager
    def working(self) -> Iterator[None]:
        """Make this the current device, with a stream of its own, and wait for it at the end.

        The default stream would not do: nothing that it is given can be captured as a CUDA graph.
        """
        if self.number is None:
            yield
            return
        with self.library.cuda.Device(self.number):
            stream = self.library.cuda.Stream(non_blocking=True)
            with stream:
                yield
            stream.synchronize()

    def put(self, array: Any) -> Any:
        """Return the array here: as it is, or a copy. On a GPU, inside `working`."""
        return to_numpy(array) if self.number is None else self.library.asarray(array)

    def is_full(self, error: BaseException) -> bool:
        """Whether an error says that no memory is left here."""
        if self.number is None:
            return isinstance(error, MemoryError)
        return isinstance(error, self.library.cuda.memory.OutOfMemoryError)

    def let_go(self) -> None:
        """Give memory that CuPy keeps for later back to the GPU."""
        if self.number is not None:
            self.library.get_default_memory_pool().free_all_blocks()


#: The host.
CPU = Device(np)


def gpu(number: int = 0) -> Device:
    """Return one of this machine's NVIDIA GPUs, checked to be usable.

    Raises
    ------
    Unavailable
        No CuPy, no driver or one that is too old, no GPU of this number, or kernels built without CUDA.
    """
    try:
        cupy: Any = importlib.import_module("cupy")
    except ImportError as error:
        raise Unavailable(
            "device",
            "CuPy for arrays on a GPU",
            "no CuPy that can be imported",
            "`pip install -c constraints.txt -e '.[gpu]'`, or choose --device cpu",
        ) from error
    runtime = cupy.cuda.runtime
    driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        raise Unavailable("device", "an NVIDIA GPU", "no NVIDIA driver", "install it, or choose --device cpu")
    # Within a major version an older driver serves newer libraries.
    if driver // 1000 < needed // 1000:
        raise Unavailable(
            "device",
            f"a driver for CUDA {needed // 1000}, which CuPy was built for",
            f"a driver for CUDA {_version(driver)}",
            f"update the driver, or install cupy-cuda{driver // 1000}x instead",
        )
    try:
        n_devices = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise Unavailable(
            "device", "an NVIDIA GPU", f"no usable one ({error})", "check `nvidia-smi`, or choose --device cpu"
        ) from error
    if number >= n_devices:
        count = f"{n_devices} of them" if n_devices else "none"
        raise Unavailable(
            "device", f"an NVIDIA GPU of number {number}", count, "choose one that `nvidia-smi` lists, or --device cpu"
        )
    try:
        native_of(cupy)
    except RuntimeError as error:
        raise Unavailable(
            "device",
            "kernels built with CUDA",
            "kernels built without CUDA",
            "install again where nvcc is found, with `pip install .`",
        ) from error
    return Device(cupy, number)


def n_gpus() -> int:
    """How many NVIDIA GPUs CuPy sees; 0 without CuPy or driver."""
    try:
        cupy: Any = importlib.import_module("cupy")
        return int(cupy.cuda.runtime.getDeviceCount())
    except Exception:  # what CuPy raises without a driver is its own
        return 0


def parse(text: str) -> int | None:
    """Return the number of the GPU that "cuda" or "cuda:N" names; None for "cpu".

    Raises
    ------
    InputError
        Another word.
    """
    if text == "cpu":
        return None
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", text)
    if not match:
        raise InputError("device", "auto, cpu, cuda or cuda:N", f"'{text}'", "choose one of these")
    return int(match[1] or 0)


def address_of(array: Any) -> int:
    """Address of an array's first entry, in the memory where it lives."""
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def _version(number: int) -> str:
    """CUDA writes 12.4 as 12040."""
    return f"{number // 1000}.{number % 1000 // 10}"
