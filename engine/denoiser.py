"""The contract of a compiled denoiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import numpy as np

#: Given x̂₀ of some slices, float32 (m, h, w), and which slices of the stack they are: their cotangent, float32 (m, h,
#: w).
CotangentOf = Callable[[np.ndarray, slice], np.ndarray]


class Denoiser(ABC):
    """x̂₀ = E[clean | noisy] for single slices, and its exact vector-Jacobian product.

    Slices are independent of each other; runners may cut a stack as they like. So `vjp` takes the cotangent as a
    function of x̂₀: it is asked for piece by piece, possibly from several threads at once, and the network's forward
    pass is never repeated for the backward one.
    """

    @final
    def denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """Return x̂₀.

        Parameters
        ----------
        x : float32 (n, h, w), C-contiguous
            Noisy slices.
        sigma : float
            Their noise level, in units of image intensity.

        Returns
        -------
        float32 (n, h, w)

        Raises
        ------
        ValueError
            Another rank, type or layout.
        """
        _check(x)
        return self._denoise(x, sigma)

    @final
    def vjp(self, x: np.ndarray, sigma: float, cotangent: CotangentOf) -> tuple[np.ndarray, np.ndarray]:
        """Return x̂₀ and (∂x̂₀/∂x)ᵀ · cotangent.

        Parameters
        ----------
        x, sigma
            As in `denoise`.
        cotangent : function
            See `CotangentOf`. Must be safe to call from several threads for disjoint slices.

        Returns
        -------
        x0, pullback : float32 (n, h, w)

        Raises
        ------
        ValueError
            As `denoise`; errors of `cotangent` pass through.
        """
        _check(x)
        return self._vjp(x, sigma, cotangent)

    @abstractmethod
    def _denoise(self, x: np.ndarray, sigma: float) -> np.ndarray: ...

    @abstractmethod
    def _vjp(self, x: np.ndarray, sigma: float, cotangent: CotangentOf) -> tuple[np.ndarray, np.ndarray]: ...


def _check(x: np.ndarray) -> None:
    if x.ndim != 3 or x.dtype != np.float32 or not x.flags.c_contiguous:
        raise ValueError(f"x: expected contiguous (n, h, w) float32, got {x.shape} {x.dtype}; pass a stack of slices")
