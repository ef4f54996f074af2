"""How far a stack of slices is from its measurement, and the gradient of that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any, final

import numpy as np

import kernels
from kernels.arrays import library_of

if TYPE_CHECKING:
    from engine.operators.linear_operator import LinearOperator

#: Gradient, Σ|r|² and Σ|A x̂₀ − y|² of every slice.
Terms = tuple[Any, Any, Any]


class DataFidelity(ABC):
    """r = s·(A x̂₀ − y) − e of parts of a stack, their norms, and s·Aᵀr: half the gradient of ‖r‖².

    Safe to call from several threads.

    Parameters
    ----------
    operator : LinearOperator
    measurement : array (n, *operator.data_shape) of operator.data_dtype
        y of the whole stack, NumPy or CuPy.
    scale : float
        s, rounded to float32.
    """

    def __init__(self, operator: LinearOperator, measurement: Any, scale: float):
        operator.check_data("measurement", measurement)
        self.operator, self.measurement, self.scale = operator, measurement, float(np.float32(scale))
        self.n_slices, self.library = len(measurement), library_of(measurement=measurement)

    @final
    def __call__(self, x0: Any, which: slice, noise: Any = None) -> Terms:
        """Compare slices with their measurements.

        Parameters
        ----------
        x0 : array (m, n_rows, n_columns) of operator.image_dtype
            Same array library and device as the measurement.
        which : slice
            The m slices of the stack that they are; without a step.
        noise : array (m, *operator.data_shape) of operator.data_dtype, optional
            e of these slices.

        Returns
        -------
        gradient : array, shape and type of `x0`
            s·Aᵀr.
        squared, plain : float64 (m,)
            Σ|r|² and Σ|A x̂₀ − y|² of every slice.

        Raises
        ------
        TypeError
            Something that is no array, or of another library.
        ValueError
            Another shape or type; a number of slices other than `which` has.
        """
        library = library_of(x0=x0)
        if library is not self.library:
            raise TypeError(
                f"x0: expected {self.library.__name__}.ndarray like the measurement, got {library.__name__}.ndarray; "
                "make the data fidelity from a measurement in the library of x0"
            )
        start, stop, step = which.indices(self.n_slices)
        if step != 1 or len(x0) != max(0, stop - start):
            raise ValueError(
                f"x0: expected one slice for each of {which} of {self.n_slices}, got {x0.shape}; "
                "pass the slices that `which` names, without a step"
            )
        here = slice(start, max(start, stop))
        operator = self.operator.at(here)
        operator.check_image("x0", x0)
        if noise is not None:
            library_of(x0=x0, noise=noise)
            operator.check_data("noise", noise)
            noise = library.ascontiguousarray(noise)
            if len(noise) != len(x0):
                raise ValueError(
                    f"noise: expected {len(x0)} slices along axis 0 as in x0, got {len(noise)}; pass those of `which`"
                )
        if len(x0) == 0:
            nothing = library.zeros(0, np.float64)
            return library.zeros_like(x0), nothing, nothing.copy()
        return self._by_parts(operator, library.ascontiguousarray(x0), here, noise)

    def _by_parts(self, operator: LinearOperator, x0: Any, which: slice, noise: Any) -> Terms:
        n = len(x0) if self.slices_at_once is None else self.slices_at_once
        if len(x0) <= n:
            return self._terms(operator, x0, which, noise)
        gradient = self.library.empty_like(x0)
        squared, plain = (self.library.empty(len(x0), np.float64) for _ in range(2))

        def work(first: int) -> None:
            part = slice(first, min(first + n, len(x0)))
            there = slice(which.start + part.start, which.start + part.stop)
            few = None if noise is None else noise[part]
            with kernels.threads_here(1):
                gradient[part], squared[part], plain[part] = self._terms(operator.at(part), x0[part], there, few)

        # Transforms share out the rows of one slice among threads poorly; slices are shared out well.
        firsts = range(0, len(x0), n)
        with ThreadPoolExecutor(min(kernels.get_threads(), len(firsts))) as pool:
            list(pool.map(work, firsts))
        return gradient, squared, plain

    @property
    def slices_at_once(self) -> int | None:
        """How many slices a CPU thread should work on together; None for all, by all threads."""
        return None

    @abstractmethod
    def _terms(self, operator: LinearOperator, x0: Any, which: slice, noise: Any) -> Terms:
        """Do the work for at least one slice; `operator` is the one at these slices."""


@final
class PlainFidelity(DataFidelity):
    """The data fidelity of any operator, from its `apply` and its `adjoint`."""

    def _terms(self, operator: LinearOperator, x0: Any, which: slice, noise: Any) -> Terms:
        residual = operator.apply(x0)
        residual -= self.measurement[which]
        plain = squared_norms(residual)
        if self.scale == 1 and noise is None:
            return operator.adjoint(residual), plain, plain.copy()
        residual *= np.float32(self.scale)
        if noise is not None:
            residual -= noise
        gradient = operator.adjoint(residual)
        gradient *= np.float32(self.scale)
        return gradient, squared_norms(residual), plain


def squared_norms(y: Any) -> Any:
    """Σ|y_i|² of every entry of a stack, summed in float64, in the library of `y`."""
    library: ModuleType = library_of(y=y)
    flat = library.ascontiguousarray(y).reshape(len(y), -1)
    # Complex numbers count by their real and imaginary parts.
    parts = flat.view(np.float32)
    if library is np:
        # Without a copy in float64.
        return np.einsum("ij,ij->i", parts, parts, dtype=np.float64)
    wide = parts.astype(np.float64)
    return (wide * wide).sum(axis=1)
