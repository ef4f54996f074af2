"""The CUDA sources compile and link for every generation of cards that the package serves."""

from __future__ import annotations

import importlib.util
import shutil
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Compute capability times ten: Turing to Blackwell.
CAPABILITIES = {75, 80, 86, 89, 90, 100, 120}
MAGIC = b"\x50\xed\x55\xba"

#: An array on a device that is not there: shape (4,) float32 at address 0.
CALL = """
import sys, importlib.util
spec = importlib.util.spec_from_file_location("_cuda", sys.argv[1])
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
class Array:
    __cuda_array_interface__ = {"shape": (4,), "typestr": "<f4", "data": (0, False), "strides": None, "version": 3}
native.philox_normal(0, 0, 0, 0, Array(), 0)
"""


@pytest.fixture(scope="session")
def cuda_module() -> Path:
    """The installed CUDA module, or one built here."""
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc: the CUDA sources are not compiled on this machine")
    found = importlib.util.find_spec("kernels._cuda")
    if found is not None and found.origin is not None:
        return Path(found.origin)
    import pybind11

    build = ROOT / "build" / "cuda"
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-DTPDM_CUDA=ON", f"-DPython_EXECUTABLE={sys.executable}"]
    for command in (
        [*configure, f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"],
        ["cmake", "--build", str(build), "--target", "_cuda", "-j2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"


def generations_of(module: bytes) -> set[tuple[int, int]]:
    """(kind, compute capability) of all device code in a binary; kind 2 is machine code, 1 the intermediate form.

    Device code lies in containers: a magic number, version and header size in 16 bits each, size in 64. In them are
    entries: kind and version in 16 bits each, header size in 32, size in 64, and the capability at byte 28.
    """
    found, at = set(), module.find(MAGIC)
    while at >= 0:
        header, size = struct.unpack_from("<HQ", module, at + 6)
        entry, end = at + header, at + header + size
        while entry < end:
            (kind,) = struct.unpack_from("<H", module, entry)
            (capability,) = struct.unpack_from("<I", module, entry + 28)
            found.add((kind, capability))
            entry_header, entry_size = struct.unpack_from("<IQ", module, entry + 4)
            entry += entry_header + entry_size
        at = module.find(MAGIC, end)
    return found


def test_machine_code_for_every_generation(cuda_module: Path):
    found = generations_of(cuda_module.read_bytes())
    assert found >= {(2, capability) for capability in CAPABILITIES}
    # For cards to come.
    assert (1, max(CAPABILITIES)) in found


def test_module_has_the_functions_of_its_cpu_twin(cuda_module: Path):
    from kernels import _cpu

    spec = importlib.util.spec_from_file_location("_cuda", cuda_module)
    assert spec is not None and spec.loader is not None
    native = importlib.util.module_from_spec(spec)
    # The runtime library is linked statically, and the driver looked for at the first call: importing needs neither.
    spec.loader.exec_module(native)
    public = {name for name in dir(_cpu) if not name.startswith("_")}
    assert public == {name for name in dir(native) if not name.startswith("_")}


def test_a_launch_that_fails_names_the_kernel(cuda_module: Path):
    if shutil.which("nvidia-smi") is not None:
        pytest.skip("there may be a GPU, on which this launch would write to address 0")
    done = subprocess.run([sys.executable, "-c", CALL, str(cuda_module)], capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith("RuntimeError: philox_normal: ")
