"""Peak memory of one row of the latency benchmark, in a process of its own.

Started by `benchmarks/latency.py`. Prints one line of JSON. A process has nothing of the other side: the engine's has
no PyTorch, the baseline's has no ONNX Runtime; the line says whether that was so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.lib.rows import load
from benchmarks.lib.workload import AUXILIARY, PRIMARY, Workload

#: Of the other side, by side.
_FOREIGN = {"eager": ("onnxruntime", "tensorrt", "tensorrt_rtx"), "engine": ("torch",)}
#: What each side is made of, by side; imported before memory is measured, where installed.
_OWN = {"eager": ("benchmarks.lib.eager",), "engine": ("onnxruntime",)}
_REPEATS = 2


def measured(row: str, source: dict[str, str | None], workload: Workload, batch_size: int) -> dict[str, Any]:
    """Start a process for a row and return what it found.

    Parameters
    ----------
    row : str
        Name of one of `benchmarks.lib.network_rows.rows_for`.
    source : dict
        Fields of `benchmarks.lib.network_rows.Source`, paths as strings.
    workload : Workload
    batch_size : int

    Returns
    -------
    dict
        Megabytes of 2^20 bytes: ``imported_mb``, what the interpreter holds with everything imported; ``peak_mb``, the
        largest resident memory; ``above_imports_mb``, the difference; on a GPU also ``gpu``. Or ``reason`` alone.
    """
    spec = {"row": row, "source": source, "workload": asdict(workload), "batch_size": batch_size, "gpu_used_mb": 0.0}
    if workload.device == "cuda":
        # Seen from here, the card's memory before the process had any of it: its own look would take some.
        free, total = load("cupy").cuda.runtime.memGetInfo()
        spec["gpu_used_mb"] = (total - free) / 2**20
    command = [sys.executable, "-m", "benchmarks.lib.peak_memory", json.dumps(spec)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        return {"reason": f"process ended with status {done.returncode}: {said[-1] if said else 'no message'}"}
    return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


def main(argv: list[str]) -> int:
    from benchmarks.lib.network_rows import Source, rows_for
    from engine.cli import peak_memory_mb

    spec = json.loads(argv[0])
    workload = Workload(**spec["workload"])
    source = Source(
        Path(spec["source"]["ckpt"]) if spec["source"]["ckpt"] else None,
        Path(spec["source"]["bundle"]),
        spec["source"]["reason"],
    )
    (row,) = (r for r in rows_for(workload.device) if r.name == spec["row"])
    for name in _OWN[row.side]:
        __import__(name)
    # The slices are input, not memory of either side; asked for here, they count as imported.
    _ = workload.x, workload.measurement, workload.mask
    imported = _resident_mb()
    _forget_peak()
    work = row.prepare(source, workload, spec["batch_size"])
    for _ in range(_REPEATS):
        work.calls[PRIMARY]()
    work.calls[AUXILIARY]()
    peak = peak_memory_mb()
    found: dict[str, Any] = {
        "imported_mb": imported,
        "peak_mb": peak,
        "above_imports_mb": peak - imported,
        "foreign": [name for name in _FOREIGN[row.side] if name in sys.modules],
    }
    if workload.device == "cuda":
        found["gpu"] = _gpu(spec["gpu_used_mb"])
    print(json.dumps(found))
    return 0


def _resident_mb() -> float:
    """Resident memory now; where the system does not tell, the largest so far, which is what imports left."""
    from engine.cli import peak_memory_mb

    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    now = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")]
    return now[0] if now else peak_memory_mb()


def _forget_peak() -> None:
    """Let the peak start again from here, where the system can: imports may have held more for a moment."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _gpu(used_before_mb: float) -> dict[str, float]:
    """What the allocators held at most, and what the card lost to this process: contexts and engines included."""
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    found: dict[str, float] = {}
    if torch is not None and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        found["torch_peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
        found["torch_reserved_mb"] = torch.cuda.max_memory_reserved() / 2**20
    else:
        assert cupy is not None, "either of the two has computed"
        free, total = cupy.cuda.runtime.memGetInfo()
        # The pool gives nothing back by itself: what it holds in the end is its peak.
        found["cupy_pool_mb"] = cupy.get_default_memory_pool().total_bytes() / 2**20
    return {"used_mb": (total - free) / 2**20 - used_before_mb, **found}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
