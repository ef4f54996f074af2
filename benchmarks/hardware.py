"""What a benchmark ran on, and how fast that multiplies matrices."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import machine
from benchmarks.rows import load


def described(device: str) -> dict[str, Any]:
    """Processor, cores, memory and, for "cuda", the GPU and its driver."""
    found: dict[str, Any] = {**machine(), "memory_gb": _memory_gb(), "gpu": None}
    if device == "cuda":
        runtime = load("cupy").cuda.runtime
        found["gpu"] = {
            "name": runtime.getDeviceProperties(0)["name"].decode(),
            "memory_gb": round(runtime.memGetInfo()[1] / 1e9, 1),
            "driver": _driver(),
            "cuda_of_driver": runtime.driverGetVersion(),
        }
    return found


def _driver() -> str | None:
    """Version of the GPU's driver, where the system says it."""
    said = Path("/proc/driver/nvidia/version")
    found = re.search(r"Module\s.*?\s(\d[\d.]+)\s", said.read_text()) if said.is_file() else None
    return found[1] if found else None


def slug(described: dict[str, Any]) -> str:
    """A machine's name in a file name: its GPU, or its number of cores."""
    gpu = described["gpu"]
    if gpu is None:
        return f"{described['cores']}cores"
    return re.sub(r"[^a-z0-9]+", "-", gpu["name"].lower()).strip("-")


def title(described: dict[str, Any]) -> str:
    """A machine in a few words."""
    gpu = described["gpu"]
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


def _memory_gb() -> float | None:
    info = Path("/proc/meminfo")
    if not info.is_file():
        return None
    (kilobytes,) = (int(line.split()[1]) for line in info.read_text().splitlines() if line.startswith("MemTotal:"))
    return round(kilobytes * 1024 / 1e9, 1)
