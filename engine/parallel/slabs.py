"""A volume over several ranks: each has a slab of every plane's slices, and changing plane is one exchange."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, final

import numpy as np

from engine.device import CPU, Device
from engine.errors import InputError
from engine.parallel.communicator import MpiCommunicator
from engine.parallel.decomposition import Decomposition, Shape, turned
from engine.volume import Plane
from kernels.arrays import library_of, to_numpy


@final
class SlabDecomposition(Decomposition):
    """Every rank has consecutive slices of each plane, as many as the others or one more.

    Parameters
    ----------
    ranks : MpiCommunicator
    shape : (int, int, int)
        Of the whole volume.
    planes : sequence of Plane
        Those of the priors.
    device : Device
        Where stacks are. They go through the host unless MPI takes the GPU's memory.

    Raises
    ------
    InputError
        More ranks than slices.
    """

    def __init__(self, ranks: MpiCommunicator, shape: Shape, planes: list[Plane], device: Device = CPU):
        least = min(plane.shape_of(shape)[0] for plane in planes)
        if ranks.size > least:
            raise InputError("ranks", f"at most {least}, the slices of the smallest plane", ranks.size, "start fewer")
        self.ranks, self.shape, self.device = ranks, shape, device
        self.is_root = ranks.is_root
        self._through_host = device.number is not None and not takes_gpu_memory()

    def ranges(self, plane: Plane) -> list[slice]:
        """The slices of every rank."""
        n, size = plane.shape_of(self.shape)[0], self.ranks.size
        starts = [n * rank // size for rank in range(size + 1)]
        return [slice(start, stop) for start, stop in pairwise(starts)]

    def own(self, plane: Plane) -> slice:
        return self.ranges(plane)[self.ranks.rank]

    def between(self, slices: Any, one: Plane, other: Plane) -> Any:
        if one == other:
            return slices
        if one.slice_axis == other.slice_axis:
            return turned(slices, one, other)
        library = library_of(slices=slices)
        # Of the other plane's stack, this rank now has what runs along its own slices; seen in the other's axes.
        here = slices.transpose([one.axes.index(axis) for axis in other.axes])
        along = other.axes.index(one.slice_axis)
        theirs, ours = self.ranges(other), self.ranges(one)
        n_own, n_each = len_of(ours[self.ranks.rank]), [len_of(part) for part in theirs]
        n_row = here.size // (here.shape[0] * n_own)
        send = library.empty(here.size, here.dtype)
        # Slices are already in the order of the ranks that they go to.
        library.copyto(send.reshape(here.shape), here)
        shape = list(other.shape_of(self.shape))
        shape[0] = n_each[self.ranks.rank]
        receive = library.empty(int(np.prod(shape)), here.dtype)
        counts = [shape[0] * n_row * len_of(part) for part in ours]
        self._exchange(send, [n * n_own * n_row for n in n_each], receive, counts)
        result, start = library.empty(shape, here.dtype), 0
        for part, count in zip(ours, counts, strict=True):
            block = [shape[0], shape[1], shape[2]]
            block[along] = len_of(part)
            where: list[slice] = [slice(None)] * 3
            where[along] = part
            result[tuple(where)] = receive[start : start + count].reshape(block)
            start += count
        return result

    def all_gather(self, numbers: Any, plane: Plane) -> Any:
        library = library_of(numbers=numbers)
        own = np.ascontiguousarray(to_numpy(numbers))
        n_each = int(np.prod(own.shape[1:]))
        counts = [len_of(part) * n_each for part in self.ranges(plane)]
        whole = self.ranks.concatenated(own.reshape(-1), counts)
        return library.asarray(whole.reshape(-1, *own.shape[1:]))

    def largest(self, number: float) -> float:
        return self.ranks.largest(number)

    def gather(self, slices: Any, plane: Plane) -> Any:
        own = np.ascontiguousarray(to_numpy(slices))
        counts = [len_of(part) * own[0].size for part in self.ranges(plane)]
        whole = self.ranks.to_root(own.reshape(-1), counts)
        return None if whole is None else plane.volume_of(whole.reshape(plane.shape_of(self.shape)))

    def scatter(self, volume: Any, plane: Plane) -> Any:
        own = volume.transpose(plane.axes)[self.own(plane)]
        return library_of(volume=volume).ascontiguousarray(own)

    def _exchange(self, send: Any, send_counts: list[int], receive: Any, receive_counts: list[int]) -> None:
        if self.device.number is None:
            self.ranks.exchanged(send, send_counts, receive, receive_counts)
        elif self._through_host:
            there = np.empty(receive.shape, receive.dtype)
            self.ranks.exchanged(to_numpy(send), send_counts, there, receive_counts)
            receive.set(there)
        else:
            # MPI knows nothing of streams: what it reads has to be there.
            self.device.library.cuda.get_current_stream().synchronize()
            self.ranks.exchanged(send, send_counts, receive, receive_counts)


def len_of(part: slice) -> int:
    """Number of entries of a slice with both ends."""
    return int(part.stop - part.start)


def takes_gpu_memory() -> bool:
    """Whether the library of MPI that is loaded reads and writes a GPU's memory.

    Open MPI, and those that took over its extension, say so themselves; of any other nothing is assumed.
    """
    import ctypes

    from mpi4py import MPI

    try:
        return bool(ctypes.CDLL(MPI.__file__).MPIX_Query_cuda_support())
    except (OSError, AttributeError):
        return False
