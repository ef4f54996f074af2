"""The contract of a compiled denoiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import numpy as np

from engine.device import CPU, Device
from kernels.arrays import library_of

if TYPE_CHECKING:
    from engine.operators.data_fidelity import DataFidelity

#: Given x̂₀ of some slices, float32 (m, h, w), and which slices of the stack they are: their cotangent, float32 (m, h,
#: w).
CotangentOf = Callable[[np.ndarray, slice], np.ndarray]
#: x̂₀, Jᵀ·s·Aᵀr, and Σ|r|² and Σ|A x̂₀ − y|² of every slice.
Guided = tuple[Any, Any, Any, Any]


class Denoiser(ABC):
    """x̂₀ = E[clean | noisy] for single slices, and its exact vector-Jacobian product.

    Slices are independent of each other; runners may cut a stack as they like. So `vjp` takes the cotangent as a
    function of x̂₀: it is asked for piece by piece, possibly from several threads at once, and the network's forward
    pass is never repeated for the backward one.

    A context manager: at the end of a block it gives back what it holds.

    Attributes
    ----------
    device : Device
        Where its arrays live.
    sigma_range : (float, float)
        Noise levels on which the network was trained.
    batch_size : int
        Slices that go through the network together.
    """

    device: Device = CPU
    sigma_range: tuple[float, float] = (0.0, float("inf"))
    batch_size: int = 1

    def __enter__(self) -> Denoiser:
        return self

    @final
    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Give back threads and memory; may be called twice, and nothing else afterwards."""

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

    @final
    def guided(self, x: Any, sigma: float, fidelity: DataFidelity, noise: Any = None) -> Guided:
        """Return x̂₀, how far it is from a measurement, and the gradient of that through the network.

        Parameters
        ----------
        x, sigma
            As in `denoise`; NumPy or CuPy.
        fidelity : DataFidelity
            Of the whole stack x.
        noise : array (n, *operator.data_shape), optional
            e of the data fidelity.

        Returns
        -------
        x0, pullback : float32 (n, h, w)
            pullback is (∂x̂₀/∂x)ᵀ·s·Aᵀr.
        squared, plain : float64 (n,)
            Σ|r|² and Σ|A x̂₀ − y|² of every slice.

        Raises
        ------
        ValueError
            As `denoise`, and what `fidelity` raises.
        """
        _check(x)
        fused = self._guided(x, sigma, fidelity, noise)
        if fused is not None:
            return fused
        library = library_of(x=x)
        squared, plain = library.zeros(len(x), np.float64), library.zeros(len(x), np.float64)

        def cotangent(x0: Any, which: slice) -> Any:
            gradient, squared[which], plain[which] = fidelity(x0, which, None if noise is None else noise[which])
            return gradient

        x0, pullback = self._vjp(x, sigma, cotangent)
        return x0, pullback, squared, plain

    def _guided(self, x: Any, sigma: float, fidelity: DataFidelity, noise: Any) -> Guided | None:
        """`guided` by one graph that holds the operator too; None where there is none for this operator."""
        return None

    @abstractmethod
    def _denoise(self, x: np.ndarray, sigma: float) -> np.ndarray: ...

    @abstractmethod
    def _vjp(self, x: np.ndarray, sigma: float, cotangent: CotangentOf) -> tuple[np.ndarray, np.ndarray]: ...


def _check(x: np.ndarray) -> None:
    if x.ndim != 3 or x.dtype != np.float32 or not x.flags.c_contiguous:
        raise ValueError(f"x: expected contiguous (n, h, w) float32, got {x.shape} {x.dtype}; pass a stack of slices")
