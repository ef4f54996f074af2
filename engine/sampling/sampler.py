"""What all samplers are: pure steps from one noise level to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

import kernels
from engine.device import Device
from engine.parallel.decomposition import UNDIVIDED, Decomposition
from engine.parallel.stack import Stack
from engine.sampling.posterior_mean import Pull
from engine.volume import Plane
from kernels.arrays import to_numpy


@dataclass(frozen=True)
class State:
    """What one step hands to the next.

    Parameters
    ----------
    x : Stack
        In any plane.
    step : int
        The next step to do.
    residual : float64 () or None
        ‖A x̂₀ − y‖₂ when x̂₀ was last compared with y, where `x` is: reading it as a number waits for a GPU.
    memory : mapping of str to array
        Other arrays that the steps of a method share; empty for most.
    """

    x: Stack
    step: int = 0
    residual: Any = None
    memory: Mapping[str, Any] = field(default_factory=dict)

    def next(self, x: Stack, residual: Any = None, memory: Mapping[str, Any] | None = None) -> State:
        """The state after this step; what is None stays."""
        return State(
            x,
            self.step + 1,
            self.residual if residual is None else residual,
            self.memory if memory is None else memory,
        )

    def on(self, device: Device) -> State:
        """The same with its arrays on a device."""
        residual = None if self.residual is None else device.put(self.residual)
        memory = {name: device.put(array) for name, array in self.memory.items()}
        return replace(self, x=self.x.of(device.put(self.x.data)), residual=residual, memory=memory)

    def arrays(self) -> dict[str, np.ndarray]:
        """NumPy's arrays for a file: on the root `x`, the whole volume, with `residual` and `memory`; all ranks take
        part."""
        residual = {} if self.residual is None else {"residual": self.residual}
        volume = self.x.gathered()
        arrays = {**residual, **self.memory} if volume is None else {"x": volume, **residual, **self.memory}
        return {name: np.asarray(to_numpy(array)) for name, array in arrays.items()}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], step: int, plane: Plane, decomposition: Decomposition = UNDIVIDED
    ) -> State:
        """The state with these arrays, of `arrays`, and x in slices of a plane."""
        memory = {name: array for name, array in arrays.items() if name not in ("x", "residual")}
        return cls(Stack.scattered(arrays["x"], plane, decomposition), step, arrays.get("residual"), memory)


class Sampler(Protocol):
    """A walk down the noise levels."""

    @property
    def sigmas(self) -> np.ndarray:
        """float64 (n_steps,): the noise level of x at the start of every step."""

    @property
    def n_estimates(self) -> int:
        """Number of posterior means in a whole run."""

    def init(self, x: Stack) -> State:
        """Return the state before the first step."""

    def step(self, state: State) -> State:
        """Return the state after one noise level; `state` stays as it is."""


def update(
    x: Stack, x0: Stack, z: Any, a: Any, b: Any = None, pull: Pull | None = None, out: Stack | None = None
) -> Stack:
    """Return x + a (x̂₀ − x) + b z − pull in one pass (`kernels.sampler_update`).

    Parameters
    ----------
    x, x0 : Stack
        Of one plane.
    z : NoiseKey, float32 (n_own, h, w) or None
        Without it `b` is unused.
    a, b : float, or float32 (n_own,)
    pull : Pull or None
        In the plane of `x`, where it has a direction.
    out : Stack or None
        Memory for the result; may be `x`.
    """
    direction, weights = (None, None) if pull is None else (pull.direction, pull.weights)
    memory = None if out is None else out.data
    return x.of(kernels.sampler_update(x.data, x0.data, z, a, b, direction, weights, memory))
