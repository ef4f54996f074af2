"""Diffusion posterior sampling: the gradient of the data residual through the denoiser."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.denoiser import Denoiser
from engine.operators import LinearOperator


class Dps:
    """Computes λ ∇ₓ‖s·(A x̂₀(x) − y) − e‖₂, the norm over groups of slices.

    Because A measures each slice by itself, the gradient of a group's norm is Jᵀ Aᵀ r divided by that norm: the
    pullback is taken slice by slice and only scaled by its group afterwards. So group size and batch size have nothing
    to do with each other.

    Parameters
    ----------
    operator : LinearOperator
    measurement : array (n, *operator.data_shape)
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
        measurement: np.ndarray,
        weight: float,
        scale: float = 1.0,
        stable: bool = False,
    ):
        self.operator, self.measurement, self.weight, self.scale = operator, measurement, weight, np.float32(scale)
        self.limit = 1 / (scale * operator.norm()) ** 2 if stable else np.inf

    def __call__(
        self, denoiser: Denoiser, x: np.ndarray, sigma: float, groups: Sequence[slice], noise: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return x̂₀, what to subtract from x as a direction and a length for each slice, and the residual's norm.

        Parameters
        ----------
        denoiser : Denoiser
        x : float32 (n, h, w)
        sigma : float
        groups : sequence of slice
            Cover the stack; norms are taken over each.
        noise : array (n, *operator.data_shape), optional
            e, subtracted from the scaled residual.

        Returns
        -------
        x0, pullback : float32 (n, h, w)
        weights : float32 (n,)
            The step for slice i is weights[i] · pullback[i].
        residual : float64 ()
            ‖A x̂₀ − y‖₂ over the whole stack.
        """
        squared = np.zeros(len(x))
        plain = np.zeros(len(x))

        def cotangent(x0: np.ndarray, which: slice) -> np.ndarray:
            residual = self.operator.apply(x0) - self.measurement[which]
            plain[which] = _squared_norms(residual)
            residual = self.scale * residual
            if noise is not None:
                residual -= noise[which]
            squared[which] = _squared_norms(residual)
            return self.scale * self.operator.adjoint(residual)

        x0, pullback = denoiser.vjp(x, sigma, cotangent)
        weights = np.empty(len(x), np.float32)
        for group in groups:
            norm = float(np.sqrt(squared[group].sum()))
            # A residual of exactly zero has no direction to go in.
            weights[group] = min(self.weight / norm, self.limit) if norm > 0 else 0
        return x0, pullback, weights, np.asarray(np.sqrt(plain.sum()))


def _squared_norms(y: np.ndarray) -> np.ndarray:
    """‖y_i‖² of every entry of a stack, summed in float64."""
    return np.asarray((np.abs(y).astype(np.float64) ** 2).reshape(len(y), -1).sum(axis=1))
