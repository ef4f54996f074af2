"""How many threads the native kernels may use."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kernels.checks import check_integer


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    # The process may be confined to some of the machine's cores; more threads than those would only queue.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_n_threads = available_cores()
_here = threading.local()


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
    """Return the number of threads kernel calls of this Python thread may use now."""
    return getattr(_here, "n_threads", _n_threads)


@contextmanager
def threads_here(n: int) -> Iterator[None]:
    """Let kernel calls of this Python thread alone use at most `n` threads, while the context lasts.

    For callers that share out work over threads of their own: those should not share it out again.

    Parameters
    ----------
    n : int
        1 ... 1024.

    Raises
    ------
    TypeError
        `n` is not an integer.
    ValueError
        `n` is outside the range.
    """
    before = getattr(_here, "n_threads", None)
    _here.n_threads = check_integer("n", n, 1, 1025)
    try:
        yield
    finally:
        if before is None:
            del _here.n_threads
        else:
            _here.n_threads = before
