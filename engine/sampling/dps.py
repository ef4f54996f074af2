"""Diffusion posterior sampling: the gradient of the data residual through the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.operators import LinearOperator
from engine.operators.data_fidelity import squared_norms
from engine.parallel.decomposition import UNDIVIDED, Decomposition
from engine.sampling.denoiser import Denoiser
from engine.volume import Plane
from kernels.arrays import library_of


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

    decomposition : Decomposition
        Where the slices are; operator and measurement are those of the slices here.
    plane : Plane or None
        The primary one; needed where slices are elsewhere.

    Source: Chung et al., Diffusion posterior sampling for general noisy inverse problems, ICLR 2023.
    """

    def __init__(
        self,
        operator: LinearOperator,
        measurement: Any,
        weight: float | None,
        scale: float = 1.0,
        stable: bool = False,
        noise_level: float = 0.0,
        decomposition: Decomposition = UNDIVIDED,
        plane: Plane | None = None,
    ):
        self.operator, self.weight, self.scale = operator, weight, scale
        self.measurement = measurement
        self.fidelity = operator.fidelity(measurement, scale)
        # Samples that were not taken are zero, and hold no noise.
        n_parts = 2 if measurement.dtype.kind == "c" else 1
        n_samples = n_parts * (measurement.reshape(len(measurement), -1) != 0).sum(1)
        self.floor = scale * noise_level * n_samples**0.5
        self._own = slice(None) if plane is None else decomposition.own(plane)
        self._all_of = (
            (lambda numbers: numbers) if plane is None else lambda numbers: decomposition.all_of(numbers, plane)
        )
        length = scale * decomposition.largest(operator.norm()) if stable else 0.0
        # Of an operator that measures nothing, no step is too long.
        self.limit = 1 / length**2 if length > 0 else np.inf

    def __call__(
        self, denoiser: Denoiser, x: Any, sigma: float, groups: Sequence[slice], noise: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        """Return x̂₀, the gradient's direction with its weights, and the residual's norm.

        The step to subtract from slice i of x is weights[i] · pullback[i]. All arrays are of the library of x; nothing
        is brought to the host, so that a GPU need not be waited for.

        Parameters
        ----------
        denoiser : Denoiser
        x : float32 (n, h, w), NumPy or CuPy
        sigma : float
        groups : sequence of slice
            Cover the whole stack; norms are taken over each.
        noise : array (n, *operator.data_shape), optional
            e, subtracted from the scaled residual.

        Returns
        -------
        x0, pullback : float32 (n, h, w)
            pullback is Jᵀ s Aᵀ r.
        weights : float32 (n,)
            λ/‖r‖ of a slice's group, no more than the stable limit, and zero for a residual of zero; of the slice
            itself where λ is adaptive.
        residual : float64 ()
            ‖A x̂₀ − y‖₂ over the whole stack.
        """
        library = library_of(x=x)
        x0, pullback, squared, plain = denoiser.guided(x, sigma, self.fidelity, noise)
        residual = library.asarray(library.sqrt(self._all_of(plain).sum()))
        if self.weight is None:
            return x0, pullback, self._adaptive(x0, library.sqrt(squared), noise), residual
        squared = self._all_of(squared)
        norms = library.empty_like(squared)
        for group in groups:
            norms[group] = library.sqrt(squared[group].sum())
        weights = library.minimum(self.weight / _or_one(norms), self.limit)
        return x0, pullback, _where_not_zero(weights, norms)[self._own], residual

    def _adaptive(self, x0: Any, norms: Any, noise: Any) -> Any:
        """λ/‖r‖ of every slice, float32 (n,)."""
        library = library_of(x0=x0)
        scale = np.float32(self.scale)
        r = scale * (self.operator.apply(x0) - self.measurement)
        floor = self.floor
        if noise is not None:
            r -= noise
            floor = library.sqrt(floor**2 + squared_norms(noise))
        u = scale * self.operator.adjoint(r)
        q = scale * self.operator.apply(u)
        image, data = squared_norms(u), squared_norms(q)
        excess = library.maximum(0, 1 - floor / _or_one(norms))
        return _where_not_zero(excess * image / _or_one(data), data)


def _or_one(numbers: Any) -> Any:
    """The same, with ones for zeros: divisors of what is zero then."""
    return library_of(numbers=numbers).where(numbers == 0, 1.0, numbers)


def _where_not_zero(weights: Any, numbers: Any) -> Any:
    """Weights as float32, zero where a number is exactly zero: there is no direction to go in.

    A number that is none gives a weight that is none.
    """
    return library_of(weights=weights).where(numbers == 0, 0.0, weights).astype(np.float32)
