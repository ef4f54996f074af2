"""What all samplers are: pure steps from one noise level to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from engine.device import Device


@dataclass(frozen=True)
class State:
    """What one step hands to the next.

    Parameters
    ----------
    x : float32 (d0, d1, d2)
        NumPy or CuPy; the next state's is of the same library. Of several ranks, the part of each
        (`engine.parallel.decomposition`).
    step : int
        The next step to do.
    residual : float64 () or None
        ‖A x̂₀ − y‖₂ when x̂₀ was last compared with y, where `x` is: reading it as a number waits for a GPU.
    splitting : Splitting or None
        Variables of ADMM that steps share, of methods that have them.
    """

    x: np.ndarray
    step: int
    residual: np.ndarray | None = None
    splitting: Any = None

    def on(self, device: Device) -> State:
        """The same with its arrays on a device."""
        residual = None if self.residual is None else device.put(self.residual)
        splitting = None if self.splitting is None else self.splitting.on(device)
        return replace(self, x=device.put(self.x), residual=residual, splitting=splitting)


class Sampler(Protocol):
    """A walk down the noise levels."""

    @property
    def sigmas(self) -> np.ndarray:
        """float64 (n_steps,): the noise level of x at the start of every step."""

    @property
    def n_estimates(self) -> int:
        """How often a whole run asks its estimator."""

    def step(self, state: State) -> State:
        """Return the state after one noise level; `state` stays as it is."""


def groups_of(n: int, size: int) -> list[slice]:
    """Cut n slices into ⌈n/size⌉ consecutive groups of nearly equal length, longer ones first."""
    parts = np.array_split(np.arange(n), -(-n // size))
    return [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
