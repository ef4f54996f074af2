"""Guarded readers that behave as libraries do on damaged files, for a child process to import."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

import numpy as np

from engine.io.guard import allow, guarded
from engine.io.source import Source

_n_calls = 0


@guarded("a file")
def numbers(source: Source, shape: tuple[int, ...], order: str = "C") -> dict[str, object]:
    """Arrays among other things."""
    count = np.arange(np.prod(shape), dtype=np.float32).reshape(shape, order=order)
    return {"count": count, "empty": np.zeros(0), "name": source.path.name, "process": os.getpid()}


@guarded("a file")
def folder_and_path(source: Source) -> tuple[str, list[str]]:
    return os.getcwd(), sys.path


@guarded("a file")
def hang(source: Source) -> None:
    while True:
        pass


@guarded("a file")
def sleep(source: Source) -> None:
    """A library that waits, and would not be interrupted."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    time.sleep(1000)


@guarded("a file")
def crash(source: Source) -> None:
    ctypes.string_at(0)


@guarded("a file")
def end_with(source: Source, number: int) -> None:
    os.kill(os.getpid(), number)


@guarded("a file")
def leave(source: Source) -> None:
    os._exit(3)


@guarded("a file")
def take(source: Source, n_bytes: int, n_allowed: int = 0) -> int:
    """Take memory, once so much of it is allowed."""
    allow(n_allowed, source)
    return len(bytearray(n_bytes))


@guarded("a file")
def work(source: Source, seconds: float, n_allowed: int) -> str:
    """Take time, once so many bytes are allowed."""
    allow(n_allowed, source)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "done"


@guarded("a file")
def once(source: Source) -> str:
    """A library that suffers from an earlier file."""
    global _n_calls
    _n_calls += 1
    if _n_calls > 1:
        ctypes.string_at(0)
    return "read"


@guarded("a file")
def raise_error(source: Source, text: str) -> None:
    raise KeyError(text)


@guarded("a file")
def talk(source: Source) -> str:
    print("on standard output")
    os.write(2, b"on standard error")
    return "read"
