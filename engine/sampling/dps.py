"""Diffusion posterior sampling: the gradient of the data residual through the denoiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.operators import LinearOperator, ThickSlices
from engine.operators.data_fidelity import squared_norms
from engine.parallel.decomposition import UNDIVIDED, Decomposition
from engine.parallel.stack import Stack
from engine.sampling.denoiser import Denoiser
from engine.sampling.noise import Noise, Phase
from engine.sampling.problem import InverseProblem
from kernels.arrays import library_of

_PUBLISHED_STEPS, _PUBLISHED_PIXELS = 2000, 6 * 256**2
#: Of a stack, σ, step and phase: e.
Renoise = Callable[[Stack, float, int, Phase], Any]


def published_weight(problem: InverseProblem, group: int, n_steps: int) -> float:
    """The published λ, carried over to another size and number of steps; 0 where nothing is published.

    The gradient of a norm has a length that grows with ‖A‖ alone, so that λ‖A‖ is a distance in image space; the
    distance that a run has to cover grows with the square root of the number of pixels in a group, and is shared by the
    steps.
    """
    if problem.operator is None or problem.published is None:
        return 0.0
    norm = problem.residual_scale * problem.operator.norm()
    # A group cannot have more slices than there are.
    n_slices = min(group, len(problem.measurement)) if problem.measurement is not None else group
    n_pixels = n_slices * problem.operator.slice_shape[0] * problem.operator.slice_shape[1]
    steps = np.sqrt(n_pixels / _PUBLISHED_PIXELS) * _PUBLISHED_STEPS / n_steps
    return float(problem.published.distance / norm * steps)


class Dps:
    """Computes λ ∇ₓ‖s·(A x̂₀(x) − y) − e‖₂, the norm over groups of slices.

    Because A measures each slice by itself, the gradient of a group's norm is Jᵀ s Aᵀ r divided by that norm: the
    pullback is taken slice by slice and only scaled by its group afterwards. So group size and batch size have nothing
    to do with each other.

    Parameters
    ----------
    operator : LinearOperator
    measurement : array (n, *operator.data_shape), NumPy or CuPy
        y, in the layout of the primary plane.
    weight : float or None
        λ. A step is at most λ·s·‖A J‖ long, J the denoiser's Jacobian, however large the residual. None: adaptive, in
        every slice the step of steepest descent that brings ‖r‖, r = s·(A x̂₀ − y) − e, down to what noise leaves of it:

            λ = (‖s Aᵀr‖² / ‖s² A Aᵀr‖²) max(0, ‖r‖ − √(s²·level²·m + ‖e‖²)),   m samples.

        That knows no units, learns from each residual how well A is conditioned for it, and asks for no trials. The
        Jacobian is left out: where it is small the network does not know the image yet, and steps are to be short.
    scale : float
        s, the weight of the residual.
    stable : bool
        Never let λ exceed ‖r‖/‖s A‖², r the residual of the group: then the step is the one of gradient descent on
        ‖r‖²/2 that does not overshoot. The published method has no such limit: its many short steps stay below it
        almost always, and few long ones would oscillate. An adaptive λ has no need of it.
    noise_level : float
        Standard deviation of the noise in a sample, of the real and of the imaginary part each: of the adaptive λ.
    group : int
        Slices over which norms are taken; part of the method, not of the machine.
    renoise : function or None
        Returns e, array (n, *operator.data_shape), for a stack, σ, step and phase: see `block_noise`. None: e is zero.

    Source: Chung et al., Diffusion posterior sampling for general noisy inverse problems, ICLR 2023.
    """

    def __init__(
        self,
        operator: LinearOperator,
        measurement: Any,
        weight: float | None,
        *,
        scale: float = 1.0,
        stable: bool = False,
        noise_level: float = 0.0,
        group: int = 6,
        renoise: Renoise | None = None,
        decomposition: Decomposition = UNDIVIDED,
    ):
        self.operator, self.weight, self.scale = operator, weight, scale
        self.measurement, self.group, self.renoise = measurement, group, renoise
        self.fidelity = operator.fidelity(measurement, scale)
        # Samples that were not taken are zero, and hold no noise.
        n_parts = 2 if measurement.dtype.kind == "c" else 1
        n_samples = n_parts * (measurement.reshape(len(measurement), -1) != 0).sum(1)
        self.floor = scale * noise_level * n_samples**0.5
        # An adaptive λ never looks at the limit, and the norm takes many passes over the operator.
        is_limited = stable and weight is not None
        length = scale * decomposition.largest(operator.norm()) if is_limited else 0.0
        # Of an operator that measures nothing, no step is too long.
        self.limit = 1 / length**2 if length > 0 else np.inf

    def __call__(
        self, denoiser: Denoiser, x: Stack, sigma: float, step: int = 0, phase: Phase = Phase.PREDICTOR
    ) -> tuple[Any, Any, Any, Any]:
        """Return x̂₀, the gradient's direction with its weights, and the residual's norm.

        The step to subtract from slice i of x is weights[i] · direction[i]. Nothing is brought to the host, so that a
        GPU need not be waited for.

        Parameters
        ----------
        denoiser : Denoiser
        x : Stack
            In the measured plane.
        sigma : float
        step, phase
            Address of e.

        Returns
        -------
        x0, direction : float32 (n, h, w)
            direction is Jᵀ s Aᵀ r.
        weights : float32 (n,)
            λ/‖r‖ of a slice's group, no more than the stable limit, and zero for a residual of zero; of the slice
            itself where λ is adaptive.
        residual : float64 ()
            ‖A x̂₀ − y‖₂ over the whole stack.
        """
        library = library_of(x=x.data)
        e = None if self.renoise is None else self.renoise(x, sigma, step, phase)
        x0, direction, squared, plain = denoiser.guided(x.data, sigma, self.fidelity, e)
        residual = library.asarray(library.sqrt(x.all_gather(plain).sum()))
        if self.weight is None:
            return x0, direction, self._adaptive(x0, library.sqrt(squared), e), residual
        squared = x.all_gather(squared)
        norms = library.empty_like(squared)
        for group in x.groups(self.group):
            norms[group] = library.sqrt(squared[group].sum())
        weights = library.minimum(self.weight / _or_one(norms), self.limit)
        return x0, direction, x.own(_where_not_zero(weights, norms)), residual

    def _adaptive(self, x0: Any, norms: Any, e: Any) -> Any:
        """λ/‖r‖ of every slice, float32 (n,)."""
        library = library_of(x0=x0)
        scale = np.float32(self.scale)
        r = scale * (self.operator.apply(x0) - self.measurement)
        floor = self.floor
        if e is not None:
            r -= e
            floor = library.sqrt(floor**2 + squared_norms(e))
        u = scale * self.operator.adjoint(r)
        q = scale * self.operator.apply(u)
        image, data = squared_norms(u), squared_norms(q)
        excess = library.maximum(0, 1 - floor / _or_one(norms))
        return _where_not_zero(excess * image / _or_one(data), data)


def block_noise(noise: Noise, operator: ThickSlices) -> Renoise:
    """Noise of the current level for every pixel of a thick slice, a fresh one each time: the published guidance
    compares with a measurement that carries it."""

    def renoise(x: Stack, sigma: float, step: int, phase: Phase) -> Any:
        measured = Phase.CORRECTOR_MEASUREMENT if phase is Phase.CORRECTOR else Phase.PREDICTOR_MEASUREMENT
        entries = x.entries[0], *operator.first_entries[1:]
        return np.float32(sigma) * noise.draw(step, measured, x.plane, x.shape, entries, library_of(x=x.data))

    return renoise


def _or_one(numbers: Any) -> Any:
    """The same, with ones for zeros: divisors of what is zero then."""
    return library_of(numbers=numbers).where(numbers == 0, 1.0, numbers)


def _where_not_zero(weights: Any, numbers: Any) -> Any:
    """Weights as float32, zero where a number is exactly zero: there is no direction to go in.

    NaN propagates.
    """
    return library_of(weights=weights).where(numbers == 0, 0.0, weights).astype(np.float32)
