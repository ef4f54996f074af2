"""What all runners on a GPU share: a stack goes through it in batches that its memory has room for."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from engine.device import Device
from engine.errors import InputError
from engine.sampling.denoiser import Denoiser
from kernels.arrays import library_of

log = logging.getLogger("engine")

#: Work on the slices of a stack, as one batch of so many: there may be fewer of them, never more.
Work = Callable[[slice, int], None]


class GpuDenoiser(Denoiser):
    """A denoiser of CuPy arrays, one batch after the other on the current stream.

    Where memory runs out the batch is halved, and the run goes on: its size does not change the result.

    Parameters
    ----------
    device : Device
    batch_size : int
        The most slices in one run of a graph.
    smallest : int
        The fewest that the graphs take.
    """

    def __init__(self, device: Device, batch_size: int, smallest: int = 1):
        self.device, self.batch_size, self.smallest = device, batch_size, smallest

    def _by_batches(self, x: Any, work: Work) -> None:
        """Do the work for the whole stack, in nearly equal batches that are all given as of one size.

        So a graph is set up for one shape, and at most a slice a batch is computed for nothing.
        """
        if library_of(x=x) is not self.device.library:
            raise TypeError(
                f"x: expected {self.device.library.__name__}.ndarray, got {type(x).__module__}.{type(x).__name__}; "
                f"this denoiser works on {self.device.name}: move x there"
            )
        asked = self.batch_size
        while not self._fits(x, work):
            if self.batch_size == self.smallest:
                raise InputError(
                    "batch-size",
                    (f"room on {self.device.name} for {self.smallest} at once of slices of {x.shape[1]}×{x.shape[2]}"),
                    "out of memory",
                    "end other programs that use the GPU, or take a lower --precision",
                )
            self.batch_size = max(self.smallest, self.batch_size // 2)
        if self.batch_size < asked:
            log.warning(
                "%s has no room for batches of %d slices of %d×%d: going on with %d",
                self.device.name,
                asked,
                x.shape[1],
                x.shape[2],
                self.batch_size,
            )

    def _fits(self, x: Any, work: Work) -> bool:
        try:
            for part, size in batches(len(x), self.batch_size, self.smallest):
                work(part, size)
            return True
        except Exception as error:
            if not self._is_out_of_memory(error):
                raise
        # Only here, where the error no longer keeps the failed call's arrays alive.
        self._let_go()
        self.device.let_go()
        return False

    def close(self) -> None:
        self._let_go()

    def _is_out_of_memory(self, error: Exception) -> bool:
        return self.device.is_full(error)

    @abstractmethod
    def _let_go(self) -> None:
        """Free all memory that depends on the batch."""


def batches(n: int, largest: int, smallest: int = 1) -> list[tuple[slice, int]]:
    """Cut n slices into ⌈n / largest⌉ batches: which slices, and the size that they are given as, the same for all."""
    if n == 0:
        return []
    size = -(-n // -(-n // largest))
    return [(slice(i, min(i + size, n)), max(size, smallest)) for i in range(0, n, size)]


def filled(buffer: Any, rows: Any) -> None:
    """Put rows at the start of a larger buffer; what is behind them stays: slices do not depend on each other."""
    buffer[: len(rows)] = rows


def check_batch(batch_size: int, low: int, high: int, where: str) -> None:
    """Refuse a batch that graphs were not compiled for.

    Raises
    ------
    InputError
    """
    if not low <= batch_size <= high:
        allowed = str(low) if low == high else f"{low} to {high}"
        raise InputError(
            "batch-size",
            f"{allowed}, which {where} was compiled for",
            batch_size,
            "choose one of these, or compile for others with --batch",
        )
