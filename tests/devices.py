"""Array libraries to run the same tests in: NumPy, CuPy on a GPU, and CuPy's stand-in for the CUDA sources."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
_SINGLE = {np.dtype(np.float64): np.float32, np.dtype(np.complex128): np.complex64}
_TRANSFORMS = ("fft", "ifft", "rfft", "irfft", "fft2", "ifft2", "rfft2", "irfft2", "fftshift", "ifftshift")
# A sanitized build, of which the kernels under test are then a part too, lies in a folder of its own.
BUILD = ROOT / os.environ.get("TPDM_EMULATED_BUILD", "build/emulated")


@pytest.fixture(scope="session")
def emulated_module():
    """The CUDA sources compiled for the CPU, one thread of a launch after the other."""
    configure = ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-DTPDM_EMULATED=ON", *_sanitizer()]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={_pybind11_folder()}"]
    # A configured folder is only built again where a source has changed.
    for command in (configure, ["cmake", "--build", str(BUILD), "--target", "_emulated", "-j2"]):
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr
    # By its full name: another Python may have left a module of its own there.
    path = BUILD / f"_emulated{sysconfig.get_config_var('EXT_SUFFIX')}"
    spec = importlib.util.spec_from_file_location("_emulated", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _sanitizer() -> list[str]:
    return ["-DTPDM_SANITIZE=ON"] if "TPDM_EMULATED_BUILD" in os.environ else []


def _pybind11_folder() -> str:
    import pybind11

    return pybind11.get_cmake_dir()


class EmulatedDevice:
    """The only one there is."""

    compute_capability = "90"

    def __init__(self, number=0):
        assert number == 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def synchronize(self):
        pass

    def __eq__(self, other):
        return isinstance(other, EmulatedDevice)

    def __hash__(self):
        return 0

    def __str__(self):
        return "<emulated device 0>"


class EmulatedStream:
    """A stream whose work is done at once, or recorded: libraries that launch kernels look at `captured`."""

    opened: ClassVar[list[EmulatedStream]] = []

    def __init__(self, non_blocking=False):
        # Zero is the default stream.
        EmulatedStream.opened.append(self)
        self.ptr, self.captured, self._before = len(EmulatedStream.opened) + 100, None, []

    def __enter__(self):
        self._before.append(EmulatedStream.current)
        EmulatedStream.current = self
        return self

    def __exit__(self, *error):
        EmulatedStream.current = self._before.pop()

    def synchronize(self):
        assert self.captured is None, "waiting for a stream while it is captured"

    def begin_capture(self):
        assert self.captured is None
        self.captured = []

    def end_capture(self):
        steps, self.captured = self.captured, None
        return types.SimpleNamespace(launch=lambda stream: [step() for step in steps])


EmulatedStream.current = types.SimpleNamespace(ptr=0, synchronize=lambda: None)


class EmulatedOutOfMemoryError(MemoryError):
    """As CuPy's own."""


class EmulatedCudaError(RuntimeError):
    """As CuPy's own."""


class EmulatedArray(np.ndarray):
    """What CuPy's array is to the package: another type with the same methods, which does not mix with NumPy's."""

    # NumPy fills in a constant; CuPy's arrays have one too.
    device = EmulatedDevice()

    def get(self):
        return np.array(self)


def emulated_cupy() -> types.ModuleType:
    """A module that answers the package's use of CuPy with NumPy's functions on `EmulatedArray`."""

    class Module(types.ModuleType):
        def __getattr__(self, name):
            found = getattr(np, name)
            if not callable(found) or isinstance(found, type):
                return found

            def call(*args, **kwargs):
                return _emulated(found(*args, **kwargs))

            return call

    def fft(name):
        # In double precision: like cuFFT it rounds otherwise than SciPy, so that no test can rely on equal bits.
        def call(x, *args, **kwargs):
            found = getattr(scipy_fft, name)(x.astype(np.result_type(x, np.float64)), *args, **kwargs)
            is_single = x.dtype in (np.float32, np.complex64)
            return _emulated(found.astype(_SINGLE[found.dtype]) if is_single else found)

        return call

    import scipy.fft as scipy_fft

    cupy = Module("cupy")
    cupy.ndarray = EmulatedArray
    cupy.asnumpy = lambda array: np.array(array)
    cupy.fft = types.SimpleNamespace(**{name: fft(name) for name in _TRANSFORMS})
    cupy.cuda = types.SimpleNamespace(
        Device=EmulatedDevice,
        Stream=EmulatedStream,
        get_current_stream=lambda: EmulatedStream.current,
        memory=types.SimpleNamespace(OutOfMemoryError=EmulatedOutOfMemoryError),
        runtime=types.SimpleNamespace(
            getDevice=lambda: 0,
            getDeviceCount=lambda: 1,
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 13020,
            CUDARuntimeError=EmulatedCudaError,
        ),
    )
    cupy.get_default_memory_pool = lambda: types.SimpleNamespace(free_all_blocks=lambda: None)
    return cupy


def _emulated(value):
    if isinstance(value, tuple):
        return tuple(_emulated(part) for part in value)
    return value.view(EmulatedArray) if isinstance(value, np.ndarray) else value


@pytest.fixture(
    params=["numpy", "emulated", pytest.param("cupy", marks=pytest.mark.cuda)],
)
def xp(request, monkeypatch):
    """An array library: NumPy, the emulated CuPy over the CUDA sources, CuPy on a GPU (marker `cuda`)."""
    if request.param == "numpy":
        return np
    if request.param == "emulated":
        module = request.getfixturevalue("emulated_module")
        cupy = emulated_cupy()
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setitem(sys.modules, "kernels._cuda", module)
        return cupy
    return _real_cupy()


def _real_cupy():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        n_devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        n_devices = 0
    if n_devices == 0:
        pytest.skip("no NVIDIA GPU")
    return cupy


@pytest.fixture
def to_numpy():
    """Bring an array of any of the libraries to NumPy."""
    return lambda array: array.get() if hasattr(array, "get") else np.asarray(array)
