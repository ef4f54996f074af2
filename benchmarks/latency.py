"""Latency and memory of the engine's backends beside eager PyTorch: ``python benchmarks/latency.py``.

All rows compute the same slices with the same network and number of threads, in one process, by turns, after a short
search for the batch size that suits each. Peak memory is measured in a process a row. Whatever cannot run here has a
row that says why.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import kernels
from benchmarks.lib import machine, peak_memory, rows
from benchmarks.lib.command import parser_of, report_of, write
from benchmarks.lib.network_rows import BASELINE, EAGER, Source, Work, batch_sizes, rows_for
from benchmarks.lib.rows import Call, Operator, Row, Setting, Unavailable, load
from benchmarks.lib.workload import AUXILIARY, EVALUATIONS, GROUP, GUIDED, MEASURES, PRIMARY, Workload
from benchmarks.reports.latency import PLANS, plot, table
from engine import demo
from engine.backends.bundle import Bundle
from engine.cli import exit_code
from engine.device import gpu
from engine.errors import InputError
from engine.errors import Unavailable as Unsuitable
from engine.sampling.schedule import turns

log = logging.getLogger(__name__)

#: Slices whose results are compared with float64.
_N_EXACT = 2
_LEAST_REPEATS = 3
#: A turn of all four measures takes this many times as long as its guided step, which is what the search has timed.
_TURN_IN_GUIDED_STEPS = 4.5
_REASON_LENGTH = 300


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)

    def body() -> int:
        report = run(args, argv)
        print(table(report))
        path = write(report, args.results, f"latency-{args.arch}-{machine.slug(report['machine'])}")
        plot(report, path.with_suffix(".png"))
        return 0

    return exit_code("latency", body)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("latency", "Latency and memory of the engine's backends beside eager PyTorch.")
    parser.add_argument(
        "--arch", choices=("demo", "published"), default="demo", help="network: the shipped priors', or the paper's"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where the engine can use a GPU")
    parser.add_argument("--size", type=int, help="side of the slices (default: 64 for demo, 256 for published)")
    parser.add_argument(
        "--slices", type=int, help="slices in a step (default: 24 for demo; for published 2, on a GPU 24)"
    )
    parser.add_argument(
        "--batch-size", type=int, nargs="+", help="slices in one pass that are tried (default: a few that suit)"
    )
    parser.add_argument("--rows", nargs="+", help="names of rows to run besides the baseline (default: all)")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of every row, at most")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help=f"turns end after about so long, with {_LEAST_REPEATS} done"
    )
    parser.add_argument("--threads", type=int, default=kernels.available_cores(), help="threads for either side")
    return parser


def run(args: argparse.Namespace, argv: list[str] | None) -> dict[str, Any]:
    """Everything but output: the report that goes into the JSON file.

    Raises
    ------
    InputError
        An argument that cannot be met here.
    """
    is_demo, device = args.arch == "demo", args.device or _device()
    if device == "cuda":
        gpu()
    n_slices = args.slices or (24 if is_demo or device == "cuda" else 2)
    size = args.size or (64 if is_demo else 256)
    for name, least, value in (("repeats", 2, args.repeats), ("slices", 1, n_slices), ("threads", 1, args.threads)):
        if value < least:
            raise InputError(name, f"at least {least}", value, "ask for more")
    chosen = rows_for(device)
    known = [row.name for row in chosen]
    wrong = [name for name in args.rows or () if name not in known]
    if wrong:
        raise InputError("rows", f"some of {', '.join(known)}", f"'{wrong[0]}'", "choose from these")
    chosen = [row for row in chosen if not args.rows or row.name in (BASELINE, *args.rows)]
    kernels.set_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        source, built = _network(args.arch, Path(folder))
        bundle = Bundle.open(source.bundle)
        bundle.check_slice((size, size))
        workload = Workload(n_slices, size, bundle.sigma_min, bundle.sigma_max, device, args.threads)
        report = {
            **report_of("latency", argv, "torch", "triton", "onnx", device=device),
            "arch": args.arch,
            "architecture": bundle.manifest["architecture"],
            "n_parameters": bundle.manifest["n_parameters"],
            "workload": {**asdict(workload), "sigma": workload.sigma, "group": GROUP},
            "build": built,
            **measure(chosen, source, workload, args),
        }
    return report


def _device() -> str:
    try:
        gpu()
    except Unsuitable:
        return "cpu"
    return "cuda"


def _network(arch: str, folder: Path) -> tuple[Source, dict[str, Any]]:
    """A network of the architecture for both sides, and what building the engine's bundle took.

    Weights do not change the time: random ones serve, so that nothing has to be at hand. Where nothing can be built,
    the demonstration's bundle is timed as it is shipped.
    """
    shipped = demo.bundle_folder("axial")
    try:
        load("torch")
        load("onnx")
    except Unavailable as error:
        if arch != "demo":
            raise InputError(
                "arch",
                "PyTorch and onnx, which build the published network",
                error,
                "install them, or leave --arch out",
            ) from error
        seconds = Bundle.open(shipped).manifest["build_seconds"]
        return Source(None, shipped, str(error)), {"seconds": seconds, "is_shipped": True, "bytes": _bytes(shipped)}
    from export.build_engine import build_engine
    from networks import Architecture
    from networks.architecture import PUBLISHED
    from networks.checkpoint import random_checkpoint

    architecture = PUBLISHED
    if arch == "demo":
        architecture = Architecture.from_dict(Bundle.open(shipped).manifest["architecture"])
    ckpt, bundle = folder / "network.pt", folder / "network"
    random_checkpoint(ckpt, architecture)
    _say("building the engine's bundle …")
    with contextlib.redirect_stdout(io.StringIO()):
        manifest = build_engine(ckpt, bundle)
    return Source(ckpt, bundle), {"seconds": manifest["build_seconds"], "is_shipped": False, "bytes": _bytes(bundle)}


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measure(chosen: list[Row], source: Source, workload: Workload, args: argparse.Namespace) -> dict[str, Any]:
    """The measured part of the report: how it was measured, and ``rows``."""
    setting = Setting(workload.n_slices, workload.size, 0, workload.threads, workload.device)
    entries: dict[str, dict[str, Any]] = {}
    works: dict[str, Work] = {}
    sizes_of: dict[str, list[int]] = {}
    for row in chosen:
        sizes = args.batch_size or batch_sizes(row, workload, args.arch == "demo")
        baseline = entries.get(BASELINE, {}).get("batch_size")
        if not row.is_searched and baseline:
            sizes = [baseline]
        sizes_of[row.name] = sizes
        _say(f"{row.name}: batch size, of {', '.join(str(size) for size in sizes)} …")
        entries[row.name], work = prepared(row, source, workload, sizes, setting)
        if work is not None:
            works[row.name] = work
    exact = _exact(source, workload)
    for name, work in works.items():
        entries[name]["relative_error"] = _errors(work, exact)
    guided = [min(entries[name]["tried_batch_sizes"].values()) for name in works]
    affordable = int(60 * args.minutes / max(_TURN_IN_GUIDED_STEPS * sum(guided), 1e-9))
    repeats = min(args.repeats, max(_LEAST_REPEATS, affordable))
    for name in MEASURES:
        _say(f"{name}: {repeats} turns of {len(works)} rows …")
        operator = Operator(name, tuple(Row(n, _call(w.calls[name])) for n, w in works.items()))
        for row_name, found in rows.measure(operator, setting, repeats).items():
            entry = entries[row_name]
            entry["seconds"][name] = found["seconds"]
            if found["reason"] is not None:
                entry.update(reason=_short(found["reason"]), is_defect=found["is_defect"])
    works.clear()
    if workload.device == "cuda":
        gpu().let_go()
    for name, entry in entries.items():
        if entry["reason"] is None:
            _say(f"{name}: peak memory …")
            texts = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(source).items()}
            entry["memory"] = peak_memory.measured(name, texts, workload, entry["batch_size"])
            smallest = min(sizes_of[name])
            # Eager PyTorch can trade time for memory: what it needs at least belongs to the comparison.
            if name == BASELINE and smallest < entry["batch_size"]:
                least = peak_memory.measured(name, texts, workload, smallest)
                entry["memory_smallest_batch"] = {"batch_size": smallest, **least}
    rates = _rates(workload)
    derive(entries, workload, _flops(source, workload), rates)
    return {
        "repeats": repeats,
        "flops_per_slice": _flops(source, workload),
        "matrix_rate": rates,
        "eager_settings": None if source.ckpt is None else load("benchmarks.lib.eager").settings(),
        "rows": entries,
    }


def prepared(
    row: Row, source: Source, workload: Workload, sizes: list[int], setting: Setting
) -> tuple[dict[str, Any], Work | None]:
    """Open a row with the batch size that makes its guided step fastest; its entry in the report says why it cannot."""
    entry: dict[str, Any] = {
        "side": row.side,
        "reason": None,
        "is_defect": False,
        "batch_size": None,
        "tried_batch_sizes": {},
        "compile_seconds": None,
        "compiled_bytes": None,
        "seconds": dict.fromkeys(MEASURES),
        "relative_error": None,
        "memory": None,
    }
    best: Work | None = None
    for size in sizes:
        try:
            work = row.prepare(source, workload, size)
            work.calls[GUIDED]()
            seconds = min(_clock(work.calls[GUIDED], setting) for _ in range(2))
        except (Unavailable, InputError) as error:
            failure, is_defect = str(error), False
        # A backend fails in ways of its own, out of memory among them: the other rows go on.
        except Exception as error:
            log.debug("%s", row.name, exc_info=True)
            failure, is_defect = f"{type(error).__name__}: {error}", True
        else:
            size = size if work.batch_size is None else work.batch_size()
            if best is None or seconds < min(entry["tried_batch_sizes"].values()):
                best = work
                entry.update(batch_size=size, compile_seconds=work.compile_seconds)
                entry.update(compiled_bytes=work.compiled_bytes)
            entry["tried_batch_sizes"][str(size)] = seconds
            continue
        if best is not None:
            # Larger ones need more of what lacks here.
            entry["larger_batch_sizes"] = f"{size}: {_short(failure)}"
            break
        # One may be too small for what was compiled; the same answer twice does not depend on it.
        if _short(failure) == entry["reason"]:
            break
        entry.update(reason=_short(failure), is_defect=is_defect)
    if best is not None:
        entry.update(reason=None, is_defect=False)
    return entry, best


def _clock(call: Callable[[], Any], setting: Setting) -> float:
    started = time.perf_counter()
    call()
    setting.synchronize()
    return time.perf_counter() - started


def _call(run: Callable[[], Any]) -> Callable[[], Call]:
    return lambda: Call(run)


def _short(text: str) -> str:
    """The first line of a reason, and no more than fits a table's foot."""
    line = (text.strip().splitlines() or ["no message"])[0]
    return line if len(line) <= _REASON_LENGTH else line[: _REASON_LENGTH - 2] + " …"


def _exact(source: Source, workload: Workload) -> tuple[np.ndarray, np.ndarray] | None:
    if source.ckpt is None:
        return None
    _say("float64 autograd, to compare with …")
    found = load("benchmarks.lib.eager").exact(source.ckpt, workload, min(_N_EXACT, workload.groups[0].stop))
    x0, gradient = (rows.to_host(t) for t in found)
    return x0, gradient


def _errors(work: Work, exact: tuple[np.ndarray, np.ndarray] | None) -> dict[str, float] | None:
    """Relative errors of x̂₀ and of the gradient, over the slices that float64 has computed."""
    if exact is None:
        return None
    ours = (rows.to_host(t) for t in work.calls[GUIDED]())
    return {
        name: float(np.linalg.norm(value[: len(right)] - right) / np.linalg.norm(right))
        for name, value, right in zip(("x0", "gradient"), ours, exact, strict=True)
    }


def _flops(source: Source, workload: Workload) -> dict[str, int] | None:
    """Operations for one slice by measure; None without PyTorch, which counts them."""
    if source.ckpt is None:
        return None
    from benchmarks.lib.flops import per_slice
    from networks import Architecture

    architecture = Architecture.from_dict(Bundle.open(source.bundle).manifest["architecture"])
    one = per_slice(architecture, workload.size)
    both = one["forward"] + one["backward"]
    return {name: n_plain * one["forward"] + n_guided * both for name, (n_plain, n_guided) in EVALUATIONS.items()}


def _rates(workload: Workload) -> dict[str, float]:
    """Measured rate of the device's matrix products, by precision; empty without PyTorch."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        # An AssertionError: PyTorch was built without CUDA.
        with contextlib.suppress(Unavailable, RuntimeError, AssertionError):
            found[dtype] = machine.matrix_rate(workload.device, dtype)
    return found


def derive(
    entries: dict[str, dict[str, Any]],
    workload: Workload,
    flops: dict[str, int] | None,
    rates: dict[str, float],
) -> None:
    """Add to every row what follows from its figures: ratios to the baseline and to the fastest variant of eager
    PyTorch (above 1: faster, or less memory), the share of the device's matrix rate, and volumes."""
    fastest = {
        name: min((m for e in entries.values() if e["side"] == EAGER and (m := _median(e, name))), default=None)
        for name in MEASURES
    }
    baseline = entries.get(BASELINE)
    # A processor's cores are compared in float32, in which the engine computes there; a GPU by its tensor cores.
    rate = rates.get("bfloat16" if workload.device == "cuda" else "float32")
    for entry in entries.values():
        medians = {name: _median(entry, name) for name in MEASURES}
        entry["ratio_to_eager"] = {
            name: _ratio(None if baseline is None else _median(baseline, name), m) for name, m in medians.items()
        }
        entry["ratio_to_fastest_eager"] = {name: _ratio(fastest[name], m) for name, m in medians.items()}
        entry["fraction_of_matrix_rate"] = {
            name: flops[name] * workload.n_slices / m / rate if m and flops and rate else None
            for name, m in medians.items()
        }
        entry["volume_seconds"] = {
            plan: volume_seconds(medians[PRIMARY], medians[AUXILIARY], workload, n_steps)
            for plan, n_steps in PLANS.items()
        }
        memory = (e["memory"] or {} if e is not None else {} for e in (baseline, entry))
        pair = list(memory)
        entry["memory_ratio_to_eager"] = {
            kind: _ratio(pair[0].get(kind), pair[1].get(kind)) for kind in ("peak_mb", "above_imports_mb")
        }


def volume_seconds(primary: float | None, auxiliary: float | None, workload: Workload, n_steps: int) -> float | None:
    """Seconds for a cube of the slices' side, extrapolated from one turn of each kind.

    Parameters
    ----------
    primary, auxiliary : float or None
        Seconds of a turn on the workload's slices; None where not measured.
    n_steps : int
        Of the plan; every second step is the auxiliary's.
    """
    if primary is None or auxiliary is None:
        return None
    n_primary = int(turns(2, n_steps, 0).sum())
    return workload.size / workload.n_slices * (n_primary * primary + (n_steps - n_primary) * auxiliary)


def _median(entry: dict[str, Any], name: str) -> float | None:
    seconds = entry["seconds"][name]
    return None if seconds is None else float(seconds["median"])


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a and b else None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
