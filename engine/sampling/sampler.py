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
    image_phase : Stack or None
        φ of the image whose magnitude `x` is, float32 in radians, in the measured plane; None for real images.
    """

    x: Stack
    step: int = 0
    residual: Any = None
    memory: Mapping[str, Any] = field(default_factory=dict)
    image_phase: Stack | None = None

    def next(
        self,
        x: Stack,
        residual: Any = None,
        memory: Mapping[str, Any] | None = None,
        image_phase: Stack | None = None,
    ) -> State:
        """The state after this step; what is None stays."""
        return State(
            x,
            self.step + 1,
            self.residual if residual is None else residual,
            self.memory if memory is None else memory,
            self.image_phase if image_phase is None else image_phase,
        )

    def on(self, device: Device) -> State:
        """The same with its arrays on a device."""
        residual = None if self.residual is None else device.put(self.residual)
        memory = {name: device.put(array) for name, array in self.memory.items()}
        phase = self.image_phase and self.image_phase.of(device.put(self.image_phase.data))
        x = self.x.of(device.put(self.x.data))
        return replace(self, x=x, residual=residual, memory=memory, image_phase=phase)

    def arrays(self) -> dict[str, np.ndarray]:
        """NumPy's arrays for a file: on the root `x`, the whole volume, and `image_phase`, with `residual` and
        `memory`; all ranks take part."""
        arrays = {**({} if self.residual is None else {"residual": self.residual}), **self.memory}
        for name, stack in (("x", self.x), ("image_phase", self.image_phase)):
            volume = None if stack is None else stack.gathered()
            if volume is not None:
                arrays[name] = volume
        return {name: np.asarray(to_numpy(array)) for name, array in arrays.items()}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], step: int, plane: Plane, decomposition: Decomposition = UNDIVIDED
    ) -> State:
        """The state with these arrays, of `arrays`, and x in slices of a plane, the measured one."""
        stacks = {
            name: Stack.scattered(arrays[name], plane, decomposition) for name in ("x", "image_phase") if name in arrays
        }
        memory = {name: array for name, array in arrays.items() if name not in (*stacks, "residual")}
        return cls(stacks["x"], step, arrays.get("residual"), memory, stacks.get("image_phase"))


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
