"""Every operator of the project beside what one would use instead: ``python benchmarks/operators.py``.

All rows of an operator work on the same stack, on the same cores or the same GPU, in one process, by turns. A peer that
is not installed, or cannot run here, keeps its row, which then says why.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

import kernels
from benchmarks.lib.command import parser_of, report_of, write
from benchmarks.lib.machine import copy_rate as copy_rate_of
from benchmarks.lib.machine import has_gpu, slug
from benchmarks.lib.rows import Setting, Unavailable, load, measure
from benchmarks.peers import elementwise, fourier, projection
from kernels import available_cores

#: Of the peers.
PACKAGES = ("torch", "scikit-image", "astra-toolbox", "sigpy", "cupy-cuda13x")
#: Parameters of glibc's `mallopt`.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("operators", "Time every operator of the project beside what one would use instead.")
    parser.add_argument("--slices", type=int, default=64, help="slices in the stack")
    parser.add_argument("--size", type=int, default=256, help=f"side of the slices, a multiple of {elementwise.FACTOR}")
    parser.add_argument("--views", type=int, default=36, help="views of the projections")
    parser.add_argument("--repeats", type=int, default=10, help="timed turns of every row, at least 2")
    parser.add_argument("--threads", type=int, default=available_cores(), help="threads for all that run on the CPU")
    parser.add_argument(
        "--device", choices=("cpu", "cuda", "auto"), default="cpu", help="auto: cuda if CuPy finds a device"
    )
    args = parser.parse_args(argv)
    for name, least in (("slices", 1), ("views", 1), ("repeats", 2), ("threads", 1), ("size", elementwise.FACTOR)):
        if getattr(args, name) < least:
            parser.error(f"--{name}: expected at least {least}, got {getattr(args, name)}")
    if args.size % elementwise.FACTOR:
        parser.error(f"--size: expected a multiple of {elementwise.FACTOR}, got {args.size}")
    gpu = args.device != "cpu" and has_gpu()
    if args.device == "cuda" and not gpu:
        parser.error("--device: expected a CUDA device that CuPy can use, got none; give --device cpu")

    setting = Setting(args.slices, args.size, args.views, args.threads, "cuda" if gpu else "cpu")
    # Threads of OpenMP otherwise go on spinning for some milliseconds after a call, at the expense of the next row.
    # Read when PyTorch is loaded, which the next line does.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    set_threads(args.threads)
    is_memory_kept = keep_freed_memory()
    copy_rate = copy_rate_of(setting) if gpu else None
    report = {
        **report_of("operators", argv, *PACKAGES, device=setting.device),
        **{name: getattr(args, name) for name in ("slices", "size", "views", "repeats", "threads")},
        "device": setting.device,
        "freed_memory_is_kept": is_memory_kept,
        "copy_gigabytes_per_second": copy_rate / 1e9 if copy_rate else None,
        "operators": {},
    }
    for family in (projection, fourier, elementwise):
        for operator in family.operators(setting):
            rows = measure(operator, setting, args.repeats, copy_rate)
            report["operators"][operator.name] = {
                "bytes": operator.n_bytes,
                "bytes_formula": operator.formula or None,
                "rows": rows,
            }
            print(table(operator.name, rows, operator.formula), flush=True)
    write(report, args.results, f"operators-{slug(report['machine'])}")
    defects = [r for o in report["operators"].values() for r in o["rows"].values() if r["is_defect"]]
    return 1 if defects else 0


def set_threads(n: int) -> None:
    """Give every library that has threads of its own this many; rows that share out slices look at the setting."""
    kernels.set_threads(n)
    try:
        load("torch").set_num_threads(n)
    except Unavailable:
        return


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, for the next array; return whether it does.

    Otherwise it hands large arrays back to the system, depending on what else is in use, and touching a new one for the
    first time takes longer than any of the simple operators.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, -1)])


def table(name: str, rows: dict[str, dict[str, Any]], formula: str) -> str:
    """One operator's rows as text: milliseconds a call, median and quartiles."""
    title = f"{name} ({formula})" if formula else name
    lines = [f"\n{title}", f"{'':32}{'ms':>10}{'quartiles':>22}{'x ours':>9}{'GB/s':>8}{'differs by':>12}"]
    for row_name, row in rows.items():
        if row["seconds"] is None:
            lines.append(f"{row_name:32}  not run: {row['reason']}")
            continue
        low, median, high = (1e3 * row["seconds"][k] for k in ("quartile_1", "median", "quartile_3"))
        rate, copied = row["gigabytes_per_second"], row["fraction_of_copy"]
        cells = [
            f"{row_name:32}{median:10.3f}{f'{low:.3f} … {high:.3f}':>22}",
            f"{row['ratio_to_ours']:9.2f}" if row["ratio_to_ours"] else f"{'':9}",
            f"{rate:8.1f}" if rate else f"{'':8}",
            f"{_difference(row):>12}",
            f"  {100 * copied:.0f} % of a copy" if copied else "",
            f"  {row['note']}" if row["note"] else "",
        ]
        lines.append("".join(cells).rstrip())
    return "\n".join(lines)


def _difference(row: dict[str, Any]) -> str:
    """The relative difference from ours; in brackets where the discretisation is another one."""
    if row["relative_difference"] is not None:
        return f"{row['relative_difference']:.0e}"
    if row["discretisation_difference"] is not None:
        return f"({row['discretisation_difference']:.0e})"
    return ""


if __name__ == "__main__":
    sys.exit(main())
