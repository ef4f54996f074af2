"""Rows that do the same work: prepared one after the other, compared with ours, timed by turns."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.lib.measure import alternate, spread

OURS = "ours"

#: Extra of pyproject.toml that installs each peer.
_EXTRAS = {"torch": ".[bench]", "astra": ".[peers]", "sigpy": ".[peers]", "sigpy.mri": ".[peers]", "cupy": ".[gpu]"}
#: On a GPU calls are queued: as many are timed together as fill this time, so that the queue never runs dry.
_LEAST_SECONDS = 5e-3
_MOST_CALLS = 200
#: What is known of a row, None where it is not.
_FIGURES = (
    "seconds",
    "reason",
    "ratio_to_ours",
    "gigabytes_per_second",
    "fraction_of_copy",
    "relative_difference",
    "discretisation_difference",
    "calls_per_timing",
)

log = logging.getLogger(__name__)


class Unavailable(Exception):
    """A row cannot run here; the message is the reason that the table shows."""


def load(name: str) -> Any:
    """Import an optional package; `Unavailable` says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = _EXTRAS.get(name, ".")
        raise Unavailable(f"{error}; pip install -c constraints.txt -e '{extra}'") from error


@dataclass(frozen=True)
class Setting:
    """Sizes, threads and device of all rows.

    Parameters
    ----------
    n_slices, size, n_views : int
        The stack is float32 (n_slices, size, size).
    threads : int
        For everything that runs on processor cores.
    device : "cpu" or "cuda"
        "cuda": ours takes CuPy arrays, and so do the peers, or tensors of the same device.
    """

    n_slices: int
    size: int
    n_views: int
    threads: int
    device: str

    @property
    def is_cuda(self) -> bool:
        return self.device == "cuda"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.n_slices, self.size, self.size

    @cached_property
    def images(self) -> np.ndarray:
        """Smooth slices that fade to zero at their borders, so that all discretisations agree roughly; no symmetry."""
        at = (np.arange(self.size) + 0.5) / self.size
        bump = np.sin(np.pi * at) ** 2
        waves = [1 + 0.5 * np.cos(2 * np.pi * (k % 5 + 1) * at + k + 1) for k in range(self.n_slices)]
        return np.stack([np.outer(bump, bump * wave) for wave in waves]).astype(np.float32)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads)

    def for_each(self, function: Callable[[Any], object], items: Iterable[Any]) -> list[Any]:
        """Call a function that knows single slices: on all threads, or in turn for a GPU, which has one queue."""
        if self.threads == 1 or self.is_cuda:
            return [function(item) for item in items]
        return list(self._pool.map(function, items))

    def array(self, host: np.ndarray) -> Any:
        """Return the array where the project's functions want it: NumPy's, or CuPy's on CUDA."""
        return load("cupy").asarray(host) if self.is_cuda else host

    def torch(self) -> Any:
        """Return PyTorch, if it can compute on the device."""
        torch = load("torch")
        if self.is_cuda and not torch.cuda.is_available():
            raise Unavailable(f"PyTorch {torch.__version__} finds no CUDA device; install a build for CUDA")
        return torch

    def tensor(self, host: np.ndarray) -> Any:
        """Return the array as a tensor on the device."""
        return self.torch().from_numpy(np.ascontiguousarray(host)).to(self.device)

    def synchronize(self) -> None:
        """Wait for all that was queued on the device, by whichever library."""
        if self.is_cuda:
            load("cupy").cuda.Device().synchronize()


def to_host(value: Any) -> np.ndarray:
    """Return a NumPy array, CuPy array or tensor as a NumPy array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return value.get() if hasattr(value, "get") else np.asarray(value)


def close_nothing() -> None:
    """There is nothing to free."""


@dataclass(frozen=True)
class Call:
    """A prepared row.

    Parameters
    ----------
    run : callable
        What is timed.
    comparable : callable or None
        Brings what `run` returns into the shape, order and scale of ours; None where numbers cannot agree.
    is_same : bool
        Same discretisation as ours: results differ by rounding only.
    note : str
        What a reader of the figure has to know.
    close : callable
        Frees what the garbage collector does not.
    """

    run: Callable[[], Any]
    comparable: Callable[[Any], Any] | None = None
    is_same: bool = True
    note: str = ""
    close: Callable[[], None] = close_nothing


@dataclass(frozen=True)
class Row:
    """One way to do it.

    Parameters
    ----------
    name : str
    prepare : callable
        Does everything that a user does once, and raises `Unavailable` with a reason. Of an operator: to a `Call`; of a
        network: (source, workload, batch size) to a `benchmarks.lib.network_rows.Work`.
    side : str
        Of a network: "eager" or "engine".
    is_searched : bool
        Of a network: several batch sizes are worth a trial; otherwise the row takes the baseline's.
    """

    name: str
    prepare: Callable[..., Any]
    side: str = ""
    is_searched: bool = True


@dataclass(frozen=True)
class Operator:
    """One piece of work and all ways to do it.

    Parameters
    ----------
    name : str
    rows : tuple of Row
        Ours first.
    n_bytes : int or None
        What has to move between memory and processor at least; None where it depends on caches.
    formula : str
        How `n_bytes` was counted.
    """

    name: str
    rows: tuple[Row, ...]
    n_bytes: int | None = None
    formula: str = ""


def same(value: Any) -> Any:
    """Return a result that needs nothing done to be comparable with ours."""
    return value


def fastest(setting: Setting, candidates: dict[str, Callable[[], object]]) -> str:
    """Return the name of the candidate that is fastest in a short trial."""
    seconds = {}
    for name, run in candidates.items():
        run()
        seconds[name] = min(_clock(run, setting) for _ in range(3))
    return min(seconds, key=lambda name: seconds[name])


def measure(operator: Operator, setting: Setting, repeats: int, copy_rate: float | None = None) -> dict[str, Any]:
    """Prepare, compare and time all rows of an operator.

    Parameters
    ----------
    repeats : int
        Timed turns of every row, at least 2.
    copy_rate : float, optional
        Bytes a second that the device copies, to compare with.

    Returns
    -------
    dict
        Entries by row: ``seconds`` (as `benchmarks.lib.measure.spread`) or ``reason``, the other one None; figures
        derived from the seconds; ``is_defect`` marks a reason that nobody foresaw.
    """
    calls: dict[str, Call] = {}
    rows: dict[str, dict[str, Any]] = {}
    expected: np.ndarray | None = None
    for row in operator.rows:
        report = rows[row.name] = {**dict.fromkeys(_FIGURES), "note": "", "is_defect": False}
        try:
            call = row.prepare()
            result = call.run()
            setting.synchronize()
            value = None if call.comparable is None else to_host(call.comparable(result))
            if row.name == OURS:
                expected = value
            elif value is not None and expected is not None:
                kind = "relative_difference" if call.is_same else "discretisation_difference"
                report[kind] = _relative_difference(value, expected)
        except Unavailable as error:
            report["reason"] = str(error)
            continue
        # Peers fail in ways of their own, on machines that are rented by the hour: the other rows go on.
        except Exception as error:
            log.exception("%s, %s", operator.name, row.name)
            report.update(reason=f"{type(error).__name__}: {error}", is_defect=True)
            continue
        calls[row.name] = call
        report["note"] = call.note

    n_calls = {name: _calls_to_time(call.run, setting) for name, call in calls.items()}
    timed: dict[str, Callable[[], object]] = {
        name: _repeated(call.run, n_calls[name], setting) for name, call in calls.items()
    }
    seconds = alternate(timed, repeats, warmup=1)
    for name, call in calls.items():
        call.close()
        rows[name]["seconds"] = spread([value / n_calls[name] for value in seconds[name]])
        rows[name]["calls_per_timing"] = n_calls[name]
    for name in calls:
        median = rows[name]["seconds"]["median"]
        if OURS in calls:
            rows[name]["ratio_to_ours"] = median / rows[OURS]["seconds"]["median"]
        if operator.n_bytes:
            rows[name]["gigabytes_per_second"] = operator.n_bytes / median / 1e9
            rows[name]["fraction_of_copy"] = operator.n_bytes / median / copy_rate if copy_rate else None
    return rows


def _relative_difference(value: np.ndarray, expected: np.ndarray) -> float:
    if value.shape != expected.shape:
        raise ValueError(f"peer's result: expected {expected.shape}, got {value.shape}; correct its `comparable`")
    if not np.iscomplexobj(expected):
        value = value.real
    wide = np.result_type(expected.dtype, np.float64)
    return float(np.linalg.norm(value.astype(wide) - expected) / np.linalg.norm(expected.astype(wide)))


def _clock(run: Callable[[], object], setting: Setting) -> float:
    started = time.perf_counter()
    run()
    setting.synchronize()
    return time.perf_counter() - started


def _calls_to_time(run: Callable[[], object], setting: Setting) -> int:
    """Return how often a row runs between two looks at the clock: once on a processor."""
    if not setting.is_cuda:
        return 1
    return max(1, min(_MOST_CALLS, round(_LEAST_SECONDS / _clock(run, setting))))


def _repeated(run: Callable[[], object], n_calls: int, setting: Setting) -> Callable[[], None]:
    def calls() -> None:
        for _ in range(n_calls):
            run()
        setting.synchronize()

    return calls
