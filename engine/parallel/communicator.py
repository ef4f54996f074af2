"""The processes of one run, started by ``mpirun`` or ``srun``: who there is, and how they wait for each other."""

from __future__ import annotations

import os
import socket
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np

import kernels
from engine.errors import InputError

Value = TypeVar("Value")

#: What launchers tell a process of how many it is one.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
#: Waiting for a partner takes all of a core at first, for a transfer must be helped along; later it yields it.
_SPIN_S, _NAP_S = 0.05, 0.0005
#: How often a waiting process looks whether the others still live.
_LOOK_S = 0.2


class PartnerLost(Exception):
    """Another rank ended before its work was done; the message names it."""


def launched_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes a launcher started this one with; 1 without a launcher."""
    for name in _SIZES:
        if environment.get(name, "").isdigit():
            return int(environment[name])
    # `srun` tells its steps apart from a script that merely runs inside an allocation.
    if "SLURM_PROCID" in environment and environment.get("SLURM_STEP_NUM_TASKS", "").isdigit():
        return int(environment["SLURM_STEP_NUM_TASKS"])
    return 1


class Communicator(ABC):
    """The processes of one run.

    Attributes
    ----------
    rank, size : int
    local_rank : int
        Its number among those of the same host.
    n_threads : int
        Cores that this one may use without taking them from its neighbours.
    """

    rank = 0
    size = 1
    local_rank = 0
    n_threads = 1

    @property
    def is_root(self) -> bool:
        return self.rank == 0

    @final
    def agreed(self, do: Callable[[], Value]) -> Value:
        """What a function returns here, once it has returned everywhere.

        Raises
        ------
        InputError
            On all ranks, where it was raised on one; what only some ranks complain about names the first of them.
        """
        value: Value | None = None
        complaint: InputError | None = None
        try:
            value = do()
        except InputError as error:
            if self.size == 1:
                raise
            complaint = error
        except OSError as error:
            if self.size == 1:
                raise
            # The others wait, and have to be told that too.
            complaint = InputError(
                "file", "one that this rank can use", f"'{error}'", "let all ranks see the same files"
            )
        complaints = self.everyones(complaint)
        if any(complaints):
            rank, first = next((i, complaint) for i, complaint in enumerate(complaints) if complaint)
            where = "" if all(complaints) else f" (rank {rank} of {self.size})"
            raise InputError(first.argument, first.expected, first.got, first.remedy + where)
        return value  # type: ignore[return-value]

    @abstractmethod
    def everyones(self, value: Any) -> list[Any]:
        """The values that all ranks give, in their order; small ones."""

    @abstractmethod
    def of_root(self, value: Any) -> Any:
        """What the root gives."""

    @abstractmethod
    def largest(self, number: float) -> float:
        """The largest of all ranks' numbers."""

    @abstractmethod
    def abort(self, code: int) -> None:
        """End all ranks at once."""


@final
class SerialCommunicator(Communicator):
    """One process, which nobody waits for."""

    def __init__(self) -> None:
        self.n_threads = kernels.available_cores()

    def everyones(self, value: Any) -> list[Any]:
        return [value]

    def of_root(self, value: Any) -> Any:
        return value

    def largest(self, number: float) -> float:
        return number

    def abort(self, code: int) -> None:
        raise SystemExit(code)


@final
class MpiCommunicator(Communicator):
    """Processes that MPI connects.

    Every wait is interruptible: signals are handled while it lasts, and partners on the same host that have died are
    noticed.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    """

    def __init__(self, comm: Any):
        from mpi4py import MPI

        self._mpi, self._comm = MPI, comm
        self.rank, self.size = int(comm.Get_rank()), int(comm.Get_size())
        places: list[tuple[str, int]] = comm.allgather((socket.gethostname(), os.getpid()))
        self._places = places
        cores = list(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
        everyones = comm.allgather(cores)
        here = [rank for rank, (host, _) in enumerate(places) if host == places[self.rank][0]]
        self.local_rank = here.index(self.rank)
        self._neighbours = [rank for rank in here if rank != self.rank]
        # Launchers may give each rank cores of its own, or all of them the same.
        users = Counter(core for rank in here for core in everyones[rank])
        self.n_threads = max(1, round(sum(1 / users[core] for core in cores)))

    def everyones(self, value: Any) -> list[Any]:
        values: list[Any] = self._comm.allgather(value)
        return values

    def of_root(self, value: Any) -> Any:
        return self._comm.bcast(value, root=0)

    def largest(self, number: float) -> float:
        maximum = np.empty(1)
        self._wait(self._comm.Iallreduce(np.array([number], np.float64), maximum, op=self._mpi.MAX))
        return float(maximum[0])

    def concatenated(self, own: Any, counts: list[int]) -> Any:
        """All ranks' entries behind each other; `counts` of them each, NumPy's, C-contiguous."""
        whole = np.empty(sum(counts), own.dtype)
        self._wait(self._comm.Iallgatherv(own, [whole, counts]))
        return whole

    def to_root(self, own: Any, counts: list[int]) -> Any:
        """The same on the root only; None elsewhere."""
        whole = np.empty(sum(counts), own.dtype) if self.is_root else None
        self._wait(self._comm.Igatherv(own, [whole, counts] if self.is_root else None, root=0))
        return whole

    def exchanged(self, send: Any, send_counts: list[int], receive: Any, receive_counts: list[int]) -> None:
        """Give every rank its part of `send`, and fill `receive` with what the others give."""
        self._wait(self._comm.Ialltoallv([send, send_counts], [receive, receive_counts]))

    def abort(self, code: int) -> None:
        self._comm.Abort(code)

    def _wait(self, request: Any) -> None:
        started = looked = time.monotonic()
        while not request.Test():
            now = time.monotonic()
            if now - started > _SPIN_S:
                time.sleep(_NAP_S)
            if now - looked > _LOOK_S:
                looked = now
                self._look()

    def _look(self) -> None:
        for rank in self._neighbours:
            host, process = self._places[rank]
            if not _lives(process):
                raise PartnerLost(f"rank {rank} (process {process} on {host})")


def connect() -> Communicator:
    """The processes that this one was started with.

    Raises
    ------
    InputError
        A launcher started several, and there is no MPI to connect them with.
    """
    size = launched_size()
    if size == 1:
        return SerialCommunicator()
    remedy = "`pip install -c constraints.txt -e '.[mpi]'`, or start it without the launcher"
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise InputError("ranks", f"mpi4py to connect {size} processes", "none", remedy) from error
    except RuntimeError as error:  # it finds no library of MPI to load
        reason = str(error).splitlines()[0]
        raise InputError(
            "ranks", f"a library of MPI to connect {size} processes", f"'{reason}'", "install the launcher's own"
        ) from error
    if MPI.COMM_WORLD.Get_size() != size:
        raise InputError(
            "ranks",
            f"{size} processes, as the launcher says",
            f"{MPI.COMM_WORLD.Get_size()} from {MPI.Get_library_version().split(',')[0]}",
            "use the launcher that belongs to mpi4py's library",
        )
    return MpiCommunicator(MPI.COMM_WORLD)


def _lives(process: int) -> bool:
    """Whether a process of this host still runs; one that waits to be collected does not."""
    status = Path(f"/proc/{process}/stat")
    if status.parent.parent.joinpath("self").exists():
        try:
            # "pid (name) state …", and names may hold anything.
            return status.read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
        except OSError:
            return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
