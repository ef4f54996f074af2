"""What a benchmark ran on, and how fast that multiplies matrices and copies."""

from __future__ import annotations

import platform
import re
import time
from pathlib import Path
from typing import Any

from benchmarks.lib.measure import alternate, spread
from benchmarks.lib.rows import Setting, load
from kernels import available_cores

#: Far larger than any cache of a GPU.
_COPY_BYTES = 1 << 30


def described(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, memory and, for "cuda", the GPU and its driver."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "memory_gb": _memory_gb(),
        "gpu": None,
    }
    if device == "cuda":
        runtime = load("cupy").cuda.runtime
        found["gpu"] = {
            "name": runtime.getDeviceProperties(0)["name"].decode(),
            "memory_gb": round(runtime.memGetInfo()[1] / 1e9, 1),
            "driver": _driver(),
            "cuda_of_driver": runtime.driverGetVersion(),
        }
    return found


def has_gpu() -> bool:
    """Whether CuPy can use a GPU here."""
    try:
        return bool(load("cupy").cuda.runtime.getDeviceCount())
    # CuPy raises errors of its own where there is no driver or no device.
    except Exception:
        return False


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _driver() -> str | None:
    """Version of the GPU's driver, where the system says it."""
    said = Path("/proc/driver/nvidia/version")
    found = re.search(r"Module\s.*?\s(\d[\d.]+)\s", said.read_text()) if said.is_file() else None
    return found[1] if found else None


def slug(described: dict[str, Any]) -> str:
    """A machine's name in a file name: its GPU, or its number of cores."""
    # A measurement of the CPU alone may not say that there is none.
    gpu = described.get("gpu")
    if gpu is None:
        return f"{described['cores']}cores"
    return re.sub(r"[^a-z0-9]+", "-", gpu["name"].lower()).strip("-")


def title(described: dict[str, Any]) -> str:
    """A machine in a few words."""
    # A measurement of the CPU alone may not say that there is none.
    gpu = described.get("gpu")
    cores = f"{described['cores']} cores ({described['processor']})"
    return cores if gpu is None else f"{gpu['name']}, {cores}"


def matrix_rate(device: str, dtype: str, seconds: float = 1.0) -> float:
    """Operations a second (two a product) of PyTorch's largest square matrix product here, the best of several.

    Parameters
    ----------
    device : "cpu" or "cuda"
    dtype : "float32" or "bfloat16"
    seconds : float
        How long to try.

    Raises
    ------
    Unavailable
        PyTorch is not installed.
    """
    torch = load("torch")
    n = 8192 if device == "cuda" else 2048
    a = torch.randn(n, n, device=device, dtype=getattr(torch, dtype))

    def product() -> float:
        started = time.perf_counter()
        torch.mm(a, a)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    product()
    taken = [product()]
    while sum(taken) < seconds:
        taken.append(product())
    return 2 * n**3 / min(taken)


def copy_rate(setting: Setting) -> float:
    """Bytes a second that the GPU reads and writes when it copies an array far larger than its caches.

    Operators on stacks that fit a cache can exceed it.
    """
    cupy = load("cupy")
    source = cupy.ones(_COPY_BYTES // 4, cupy.float32)
    target = cupy.empty_like(source)

    def copy() -> None:
        for _ in range(10):
            cupy.copyto(target, source)
        setting.synchronize()

    return 10 * 2 * _COPY_BYTES / spread(alternate({"copy": copy}, 10)["copy"])["median"]


def _memory_gb() -> float | None:
    info = Path("/proc/meminfo")
    if not info.is_file():
        return None
    (kilobytes,) = (int(line.split()[1]) for line in info.read_text().splitlines() if line.startswith("MemTotal:"))
    return round(kilobytes * 1024 / 1e9, 1)
