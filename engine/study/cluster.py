"""The Ray cluster that a study runs on: what a volume needs of its nodes, and how it is reached."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import kernels
from engine.errors import InputError
from engine.options import Options, option

#: Volumes do not go through Ray's store of objects: as little of it as Ray takes.
_STORE_BYTES = 100 << 20
_GB = 1 << 30
#: How long a cluster may take to answer at all.
_ANSWERS_S = 10.0


@dataclass(frozen=True)
class Needs(Options):
    """What a volume needs of a node."""

    cpus: int = option(1, name="cpus-per-volume", low=1, metavar="N", help="cores of a worker, and threads")
    gpus: float = option(
        0.0,
        name="gpus-per-volume",
        low=0,
        high=1,
        metavar="X",
        help="1, or a part of one that several workers share; 0: workers see no GPU",
        remedy="choose 1, for a volume uses one GPU",
    )
    memory_gb: float | None = option(
        None,
        name="memory-per-volume",
        above=0,
        metavar="GB",
        default_words="not counted",
        help="set aside for a worker, in units of 2^30 bytes",
        remedy="leave it out to count none",
    )

    def named(self) -> dict[str, tuple[str, float]]:
        """Ray's names of what is counted, with the option that asks for it and how much it asks for."""
        asked = {
            "CPU": ("cpus-per-volume", float(self.cpus)),
            "GPU": ("gpus-per-volume", self.gpus),
            "memory": ("memory-per-volume", (self.memory_gb or 0.0) * _GB),
        }
        return {name: value for name, value in asked.items() if value[1] > 0}

    def reserved(self) -> dict[str, Any]:
        """The same as arguments of `ray.remote`."""
        memory = {} if self.memory_gb is None else {"memory": int(self.memory_gb * _GB)}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, **memory}

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many volumes a node has room for at a time."""
        numbers = []
        for name, (_, amount) in self.named().items():
            has = resources.get(name, 0.0)
            # A part of a GPU is a part of one, not of what is left of two.
            numbers.append(int(has) * int(1 / amount + 1e-9) if name == "GPU" else int(has / amount + 1e-9))
        return min(numbers)


@contextmanager
def connected(address: str, needs: Needs, n_workers: int | None) -> Iterator[int]:
    """Connect to a cluster, or start one on this machine; yield how many workers it has room for.

    Parameters
    ----------
    address : str
        "local" starts one, which ends with the block; "auto" finds one, by RAY_ADDRESS or on this machine; anything
        else is where it is.
    needs : Needs
    n_workers : int or None
        Of "local".

    Raises
    ------
    InputError
        There is no such cluster, or no node with room for a volume.
    """
    if address != "local":
        # Where it finds the address of a cluster that has ended.
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    ray = library()
    # Ray takes SIGTERM for itself.
    before = signal.getsignal(signal.SIGTERM)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == "local":
            n = n_workers or max(1, kernels.available_cores() // needs.cpus)
            size = {"num_cpus": n * needs.cpus, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
            ray.init(address="local", **size, **quiet)
        else:
            _check_answers(os.environ.get("RAY_ADDRESS") or address if address == "auto" else address)
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        if address == "local":
            raise InputError("ray", "Ray to start on this machine", f"'{reason}'", "see its logs") from error
        raise InputError(
            "ray",
            "a running cluster that this machine is part of",
            f"none at '{address}' ({reason})",
            "start one with `ray start --head`, or pass --ray local",
        ) from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = sum(map(needs.fits, nodes))
        if not room:
            raise _no_node(needs, nodes)
        yield room
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def _no_node(needs: Needs, nodes: Sequence[Mapping[str, float]]) -> InputError:
    """Why no node has room: by the first resource of which none has enough, else by all together."""
    for name, (asked_by, amount) in needs.named().items():
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if most < amount:
            unit, word = (_GB, " GB") if name == "memory" else (1, "")
            return InputError(
                asked_by,
                f"at most {most / unit:.3g}{word}, which the largest node has",
                f"{amount / unit:.3g}",
                "ask for less, or add a node",
            )
    return InputError("cpus-per-volume", "a node with all that a volume needs at once", "none", "ask for less")


def _check_answers(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would try for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_S).close()


def library() -> Any:
    """Ray, loaded only where a study is run; it reports to nobody how it is used."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return importlib.import_module("ray")
