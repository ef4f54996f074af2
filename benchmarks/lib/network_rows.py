"""The rows of the latency benchmark: variants of the eager baseline, and the engine's backends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.lib.backends import BACKENDS, Problem
from benchmarks.lib.rows import Row, Unavailable, load
from benchmarks.lib.workload import GROUP, Workload, batches_of, engine_calls
from engine.backends.bundle import Bundle
from engine.operators import MaskedFourier

EAGER, ENGINE = "eager", "engine"
#: The row that all others are compared with: what the reference implementation runs.
BASELINE = "eager float32"
#: Variants of eager PyTorch, as `benchmarks.lib.eager.prepare` reads them.
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
        By the names in `benchmarks.lib.workload.MEASURES`.
    compile_seconds, compiled_bytes : float, int
        What this row compiled for itself, beyond the bundle.
    batch_size : callable or None
        The one in use now, where a backend may have lowered it for lack of memory.
    """

    calls: dict[str, Callable[[], Any]] = field(repr=False)
    compile_seconds: float = 0.0
    compiled_bytes: int = 0
    batch_size: Callable[[], int] | None = None


def rows_for(device: str) -> list[Row]:
    """All rows, the baseline first; those of another device say so."""
    variants = _VARIANTS + (_CUDA_VARIANTS if device == "cuda" else ())
    eager = [Row(f"{EAGER} {v}", _eager(v), EAGER, "compile" not in v) for v in variants]
    return eager + [Row(b.name, _engine(b.name), ENGINE) for b in BACKENDS]


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
        calls, seconds = load("benchmarks.lib.eager").prepare(variant, source.ckpt, workload, batch_size)
        passes = batches_of(workload.groups, batch_size)
        longest = max(groups[-1].stop - groups[0].start for groups in passes)
        return Work(calls, seconds, batch_size=lambda: longest)

    return prepare


def _engine(name: str) -> Callable[[Source, Workload, int], Work]:
    (backend,) = (b for b in BACKENDS if b.name == name)

    def prepare(source: Source, workload: Workload, batch_size: int) -> Work:
        backend.check(workload.device)
        # One stream for all calls: a backend may record what it did on it. The default one cannot be recorded.
        stream = load("cupy").cuda.Stream(non_blocking=True) if workload.device == "cuda" else None

        def on_stream(call: Callable[[], Any]) -> Callable[[], Any]:
            def run() -> Any:
                with stream or contextlib.nullcontext():
                    return call()

            return run

        def prepared() -> Work:
            operator = MaskedFourier(workload.array(workload.mask))
            shape = (workload.size, workload.size)
            sizes = batch_size, workload.n_slices, workload.threads
            problem = Problem(Bundle.open(source.bundle), shape, operator, *sizes)
            opened = backend.open(problem)
            calls = engine_calls(opened.denoiser, operator, workload)
            on_it = {name: on_stream(call) for name, call in calls.items()}
            return Work(
                on_it,
                opened.compile_seconds,
                opened.compiled_bytes,
                lambda: int(getattr(opened.denoiser, "batch_size", batch_size)),
            )

        return on_stream(prepared)()  # type: ignore[no-any-return]

    return prepare
