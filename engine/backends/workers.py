"""Cuts a stack of slices into small batches for worker threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import final

import kernels


@final
class SliceWorkers:
    """One thread a core, each of which takes a few slices at a time through the whole network.

    Slices are independent, so that splitting them over cores needs no meeting point inside a network, and a few slices'
    activations stay in a core's cache: faster than the whole stack at once with all threads in every layer.

    Parameters
    ----------
    batch_size : int
        Slices that a thread takes at a time, at most.
    n_threads : int or None
        None takes all cores.
    """

    def __init__(self, batch_size: int, n_threads: int | None):
        self.batch_size, self.n_threads = batch_size, n_threads or kernels.available_cores()
        self._pool = ThreadPoolExecutor(self.n_threads, thread_name_prefix="slices")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def for_each_batch(self, n: int, work: Callable[[slice], None]) -> None:
        """Call `work` with parts of n slices, on all threads; return when all is done."""
        # Fewer slices a batch than asked, rather than an idle worker.
        size = max(1, min(self.batch_size, -(-n // self.n_threads)))
        list(self._pool.map(work, [slice(i, min(i + size, n)) for i in range(0, n, size)]))
