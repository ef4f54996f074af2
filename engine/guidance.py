"""Diffusion posterior sampling: the gradient of the data residual through the denoiser."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.denoiser import Denoiser
from engine.operators import LinearOperator


class Dps:
    """Computes ∇ₓ‖s·(A x̂₀(x) − y) − e‖₂, the norm over groups of slices.

    Because A measures each slice by itself, the gradient of a group's norm is Jᵀ Aᵀ r divided by that norm: the pullback is
    taken slice by slice and only scaled by its group afterwards. So group size and batch size have nothing to do with each
    other.

    Parameters
    ----------
    operator : LinearOperator
    measurement : array (n, *operator.data_shape)
        y, in the layout of the primary plane.
    scale : float
        s, the weight of the residual.

    Source: Chung et al., Diffusion posterior sampling for general noisy inverse problems, ICLR 2023.
    """

    def __init__(self, operator: LinearOperator, measurement: np.ndarray, scale: float = 1.0):
        self.operator, self.measurement, self.scale = operator, measurement, np.float32(scale)

    def __call__(
        self, denoiser: Denoiser, x: np.ndarray, sigma: float, groups: Sequence[slice], noise: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Return x̂₀, the gradient, and the residual's norm.

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
        x0, gradient : float32 (n, h, w)
        residual : float
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

        x0, gradient = denoiser.vjp(x, sigma, cotangent)
        for group in groups:
            norm = float(np.sqrt(squared[group].sum()))
            # A residual of exactly zero has no direction to go in.
            gradient[group] *= np.float32(1 / norm if norm > 0 else 0)
        return x0, gradient, float(np.sqrt(plain.sum()))


def _squared_norms(y: np.ndarray) -> np.ndarray:
    """‖y_i‖² of every entry of a stack, summed in float64."""
    return np.asarray((np.abs(y).astype(np.float64) ** 2).reshape(len(y), -1).sum(axis=1))
