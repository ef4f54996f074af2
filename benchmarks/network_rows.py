"""The rows of the latency benchmark: variants of the eager baseline, and the engine's backends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.backends import BACKENDS
from benchmarks.rows import Unavailable, load
from benchmarks.workload import GROUP, Workload, engine_calls
from engine.bundle import Bundle

EAGER, ENGINE = "eager", "engine"
#: The row that all others are compared with: what the reference implementation runs.
BASELINE = "eager float32"
#: Variants of eager PyTorch, as `benchmarks.eager.prepare` reads them.
_VARIANTS = ("float32", "channels-last", "compile", "bfloat16", "float16")
#: Half precision is fast in this layout on tensor cores; together with compilation this is PyTorch at its best.
_CUDA_VARIANTS = ("bfloat16, channels-last", "float16, channels-last", "bfloat16, channels-last, compile")


@dataclass(frozen=True)
class Source:
    """The network, as each side reads it; None where it cannot be made here, with the reason."""

    ckpt: Path | None
    bundle: Path
    reason: str = ""


@dataclass(frozen=True)
class Work:
    """A prepared row.

    Parameters
    ----------
    calls : dict of str to callable
        By the names in `benchmarks.workload.MEASURES`.
    compile_seconds : float
        What this row compiled for itself, beyond the bundle.
    """

    calls: dict[str, Callable[[], Any]] = field(repr=False)
    compile_seconds: float = 0.0


@dataclass(frozen=True)
class Row:
    """One way to compute the workload.

    Parameters
    ----------
    name : str
    side : "eager" or "engine"
    prepare : callable
        (source, workload, batch size) to `Work`; `Unavailable` says why not.
    is_searched : bool
        Several batch sizes are worth a trial; otherwise the row takes the baseline's.
    """

    name: str
    side: str
    prepare: Callable[[Source, Workload, int], Work]
    is_searched: bool = True


def rows_for(device: str) -> list[Row]:
    """All rows, the baseline first; those of another device say so."""
    variants = _VARIANTS + (_CUDA_VARIANTS if device == "cuda" else ())
    eager = [Row(f"{EAGER} {v}", EAGER, _eager(v), "compile" not in v) for v in variants]
    return eager + [Row(b.name, ENGINE, _engine(b.name)) for b in BACKENDS]


def batch_sizes(row: Row, workload: Workload, is_demo: bool) -> list[int]:
    """Slices in one pass that are worth a trial by default."""
    n = workload.n_slices
    if workload.device == "cuda":
        tried = [1, 4, GROUP, 2 * GROUP, 4 * GROUP, 8 * GROUP]
    else:
        # Large networks take longest on a CPU, and gain nothing from batches there.
        tried = [1, 2, 4, GROUP] if is_demo else [1]
    if row.side == EAGER:
        # Whole groups, one at least: their norm is what is differentiated.
        tried = [GROUP, 2 * GROUP, 4 * GROUP] if is_demo or workload.device == "cuda" else [GROUP]
    return sorted({min(size, n) for size in tried})


def _eager(variant: str) -> Callable[[Source, Workload, int], Work]:
    def prepare(source: Source, workload: Workload, batch_size: int) -> Work:
        load("torch")
        if source.ckpt is None:
            raise Unavailable(source.reason)
        calls, seconds = load("benchmarks.eager").prepare(variant, source.ckpt, workload, batch_size)
        return Work(calls, seconds)

    return prepare


def _engine(name: str) -> Callable[[Source, Workload, int], Work]:
    (backend,) = (b for b in BACKENDS if b.name == name)

    def prepare(source: Source, workload: Workload, batch_size: int) -> Work:
        if backend.device != workload.device:
            raise Unavailable(f"runs on {backend.device}: --device {backend.device} times it")
        started = time.perf_counter()
        denoiser = backend.open(Bundle.open(source.bundle), batch_size, workload.threads)
        return Work(engine_calls(denoiser, workload), time.perf_counter() - started)

    return prepare
