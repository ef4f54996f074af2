"""What a sampling step on several ranks costs: a model with a few rates, fitted to measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

#: Axis along which the slices of the demonstration's priors are stacked: axial, coronal.
_SLICE_AXES = (2, 1)
_BYTES = 4


@dataclass(frozen=True)
class Case:
    """One volume on some ranks.

    Parameters
    ----------
    task : str
    shape : (int, int, int)
    n_ranks : int
    n_steps : int
        Odd: after the first one both priors work equally often.
    """

    task: str
    shape: tuple[int, int, int]
    n_ranks: int
    n_steps: int = 13

    @property
    def title(self) -> str:
        return f"{self.task} {'×'.join(map(str, self.shape))}, {self.n_ranks} rank{'s'[: self.n_ranks > 1]}"

    @property
    def slice_axes(self) -> tuple[int, int]:
        """Of the primary and the auxiliary prior."""
        first, second = _SLICE_AXES
        return (second, first) if self.task == "mrzsr" else (first, second)

    def pixels(self, axis: int) -> float:
        """Of the slices of the rank that has most of them."""
        n = self.shape[axis]
        return float(-(-n // self.n_ranks) * np.prod(self.shape) / n)

    @property
    def network_pixels(self) -> float:
        """That a rank's networks see in a step, the mean of both priors' turns."""
        return float(np.mean([self.pixels(axis) for axis in self.slice_axes]))

    @property
    def n_exchanges(self) -> float:
        """Changes of plane in a step, the mean of both priors' turns.

        The state stays in the primary plane; on the auxiliary prior's turn it goes there, and x̂₀ comes back (with a
        measurement, which x̂₀ is then compared with; without one the new state does).
        """
        return 1.0

    @property
    def slab_bytes(self) -> float:
        """That a rank gives away and gets in an exchange, its own included, which is copied."""
        return _BYTES * float(np.prod(self.shape)) / self.n_ranks

    @property
    def n_reductions(self) -> float:
        """Rounds of messages for the norm of the residual."""
        return 0.0 if self.task == "uncond" else float(np.ceil(np.log2(self.n_ranks)))


@dataclass(frozen=True)
class Model:
    """Seconds of a step as a sum of what has to be done, each at its own rate.

    Parameters
    ----------
    network_s : float
        A network's pass, for each pixel.
    crowding : float
        By how much of itself everything on a core slows down for each further core of the same memory that works.
    consistency_s : dict of str to float
        The proximal step of a task, for each pixel.
    rest_s : float
        Updates, noise and copies, for each pixel.
    exchange_s, exchange_byte_s : float
        For each partner, and for each byte of the slab.
    reduction_s : float
        For each round of messages.
    """

    network_s: float
    crowding: float
    consistency_s: dict[str, float]
    rest_s: float
    exchange_s: float
    exchange_byte_s: float
    reduction_s: float

    def predicted(self, case: Case, n_crowded: int | None = None) -> dict[str, float]:
        """Seconds of a step, by parts; `n_crowded` ranks share a memory (all, if left out)."""
        crowd = 1 + self.crowding * ((case.n_ranks if n_crowded is None else n_crowded) - 1)
        primary = case.pixels(case.slice_axes[0])
        parts = {
            "network": crowd * self.network_s * case.network_pixels,
            "consistency": crowd * self.consistency_s.get(case.task, 0.0) * primary,
            "rest": crowd * self.rest_s * primary,
            "exchange": self._exchange(case),
            "reduction": self.reduction_s * case.n_reductions,
        }
        return {**parts, "step": sum(parts.values())}

    def _exchange(self, case: Case) -> float:
        once = self.exchange_s * (case.n_ranks - 1) + self.exchange_byte_s * case.slab_bytes
        return case.n_exchanges * once


def fitted(cases: Sequence[Case], parts: Sequence[dict[str, float]], steps: Sequence[float]) -> Model:
    """Least squares for every part by itself.

    Parameters
    ----------
    cases : sequence of Case
        At least one on a single rank, and one on several.
    parts : sequence of dict
        Seconds of a step by parts, as `benchmarks/scaling_worker.py` tells them.
    steps : sequence of float
        Seconds of the whole step.
    """
    network = np.array([part["network"] for part in parts])
    pixels = np.array([case.network_pixels for case in cases])
    others = np.array([case.n_ranks - 1 for case in cases])
    # Relative errors count: small volumes are not to be forgotten beside large ones.
    rate, slowed = nnls(np.stack([pixels, pixels * others], axis=1) / network[:, None], np.ones(len(cases)))[0]
    crowding = float(slowed / rate)
    crowd = 1 + crowding * others
    primary = np.array([case.pixels(case.slice_axes[0]) for case in cases])
    consistency = {}
    for task in sorted({case.task for case in cases} - {"uncond"}):
        ours = [i for i, case in enumerate(cases) if case.task == task]
        consistency[task] = float(np.mean([parts[i]["consistency"] / (crowd[i] * primary[i]) for i in ours]))
    known = ("network", "consistency", "exchange", "reduction", "waiting")
    rest = [step - sum(part[name] for name in known) for step, part in zip(steps, parts, strict=True)]
    several = [i for i, case in enumerate(cases) if case.n_ranks > 1]
    exchange = np.array([parts[i]["exchange"] / cases[i].n_exchanges for i in several])
    features = np.array([[cases[i].n_ranks - 1, cases[i].slab_bytes] for i in several])
    latency, byte = nnls(features / exchange[:, None], np.ones(len(several)))[0]
    rounds = [(parts[i]["reduction"], cases[i].n_reductions) for i in several if cases[i].n_reductions]
    return Model(
        float(rate),
        crowding,
        consistency,
        max(0.0, float(np.median(np.array(rest) / (crowd * primary)))),
        float(latency),
        float(byte),
        float(np.mean([seconds / n for seconds, n in rounds])),
    )


@dataclass(frozen=True)
class Cluster:
    """GPUs that were not measured: their rates are assumptions, and predictions are no better than those.

    Parameters
    ----------
    flops_per_slice, guided_flops_per_slice : float
        Of the network, forward; and forward and back.
    flops_s : float
        Operations a second that a GPU reaches in it.
    inside_byte_s, between_byte_s : float
        Bytes a second that a GPU sends to those of its node, and to other nodes.
    message_s : float
        Latency of a message.
    node : int
        GPUs of a node.
    """

    flops_per_slice: float
    guided_flops_per_slice: float
    flops_s: float
    inside_byte_s: float = 450e9
    between_byte_s: float = 50e9
    message_s: float = 2e-5
    node: int = 8

    def step(self, side: int, n_ranks: int, guided: bool = False) -> dict[str, float]:
        """Seconds of a step of a cube, by parts; a guided one goes back through the network as well."""
        of_slice = self.guided_flops_per_slice if guided else self.flops_per_slice
        network = -(-side // n_ranks) * of_slice / self.flops_s
        slab = _BYTES * side**3 / n_ranks
        # What goes to another node waits for the slower wire.
        outside = max(0.0, 1 - self.node / n_ranks)
        wire = slab * ((1 - outside) / self.inside_byte_s + outside / self.between_byte_s)
        exchange = 0.0 if n_ranks == 1 else self.message_s * (n_ranks - 1) + wire
        reduction = self.message_s * float(np.ceil(np.log2(n_ranks)))
        return {
            "network": network,
            "exchange": exchange,
            "reduction": reduction,
            "step": network + exchange + reduction,
        }

    def record(self) -> dict[str, Any]:
        return asdict(self)
