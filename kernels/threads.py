"""How many threads the native kernels may use."""

from __future__ import annotations

import os

from kernels.checks import check_integer


def _available_cores() -> int:
    # The process may be confined to some of the machine's cores; more threads than those would only queue.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_n_threads = _available_cores()


def set_threads(n: int) -> None:
    """Let every later kernel call use at most `n` threads; results stay the same, bit for bit.

    Parameters
    ----------
    n : int
        1 ... 1024. At import: the cores this process may run on.

    Raises
    ------
    TypeError
        `n` is not an integer.
    ValueError
        `n` is outside the range.
    """
    global _n_threads
    _n_threads = check_integer("n", n, 1, 1025)


def get_threads() -> int:
    """Return the number of threads kernel calls may use now."""
    return _n_threads
