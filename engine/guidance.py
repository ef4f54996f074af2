"""Diffusion posterior sampling: the gradient of the data residual through the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.denoiser import Denoiser
from engine.operators import LinearOperator
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
    weight : float
        λ. A step is at most λ·s·‖A J‖ long, J the denoiser's Jacobian, however large the residual.
    scale : float
        s, the weight of the residual.
    stable : bool
        Never let λ exceed ‖r‖/‖s A‖², r the residual of the group: then the step is the one of gradient descent on
        ‖r‖²/2 that does not overshoot. The published method has no such limit: its many short steps stay below it
        almost always, and few long ones would oscillate.

    Source: Chung et al., Diffusion posterior sampling for general noisy inverse problems, ICLR 2023.
    """

    def __init__(
        self,
        operator: LinearOperator,
        measurement: Any,
        weight: float,
        scale: float = 1.0,
        stable: bool = False,
    ):
        self.operator, self.weight, self.scale = operator, weight, scale
        self.misfit = operator.misfit(measurement, scale)
        length = scale * operator.norm() if stable else 0.0
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
            Cover the stack; norms are taken over each.
        noise : array (n, *operator.data_shape), optional
            e, subtracted from the scaled residual.

        Returns
        -------
        x0, pullback : float32 (n, h, w)
            pullback is Jᵀ s Aᵀ r.
        weights : float32 (n,)
            λ/‖r‖ of a slice's group, no more than the stable limit, and zero for a residual of zero.
        residual : float64 ()
            ‖A x̂₀ − y‖₂ over the whole stack.
        """
        library = library_of(x=x)
        x0, pullback, squared, plain = denoiser.guided(x, sigma, self.misfit, noise)
        norms = library.empty_like(squared)
        for group in groups:
            norms[group] = library.sqrt(squared[group].sum())
        # A residual of exactly zero has no direction to go in; one that is no number gives weights that are none.
        zero = norms == 0
        weights = library.minimum(self.weight / library.where(zero, 1.0, norms), self.limit)
        weights = library.where(zero, 0.0, weights).astype(np.float32)
        return x0, pullback, weights, library.asarray(library.sqrt(plain.sum()))
