"""The contract of an operator that measures a volume as a whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import ModuleType
from typing import Any, final

import numpy as np

from engine.device import Device
from engine.operators.checks import IMAGE_AXES, check_stack
from engine.operators.proximal import JointConjugateGradients
from engine.operators.solvers import largest_singular_value
from kernels.arrays import library_of


class VolumeOperator(ABC):
    """A linear map whose samples each see more than one slice of the stack that they are posed on.

    For all x and all y: ⟨A x, y⟩ = ⟨x, Aᵀ y⟩ up to rounding, where Aᵀ is `adjoint`. Beside a `LinearOperator`, which
    measures every slice by itself, it has neither gradients through one slice's network nor parts for ranks.

    Parameters
    ----------
    shape : (int, int, int)
        Of the stack: slices, rows, columns.
    n_samples : int
    """

    image_dtype = data_dtype = np.float32
    #: Of conjugate gradients towards a measurement.
    n_iterations = 4

    def __init__(self, shape: tuple[int, int, int], n_samples: int):
        self.shape, self.n_samples = shape, n_samples

    @property
    def slice_shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.shape[1:]

    @final
    def apply(self, x: Any) -> Any:
        """Measure a volume.

        Parameters
        ----------
        x : float32 (n, n_rows, n_columns), NumPy or CuPy

        Returns
        -------
        float32 (n_samples,)

        Raises
        ------
        TypeError, ValueError
            No array, another shape or type.
        """
        return self._apply(self.check_image("x", x).ascontiguousarray(x))

    @final
    def adjoint(self, y: Any) -> Any:
        """Apply the transpose.

        Parameters
        ----------
        y : float32 (n_samples,)

        Returns
        -------
        float32 (n, n_rows, n_columns)

        Raises
        ------
        TypeError, ValueError
            As `apply`.
        """
        return self._adjoint(self.check_data("y", y).ascontiguousarray(y))

    @final
    def classical(self, y: Any) -> Any:
        """Return the reconstruction that a scanner would show, float32 (n, n_rows, n_columns).

        Raises
        ------
        TypeError, ValueError
            As `apply`.
        """
        return self._classical(self.check_data("y", y).ascontiguousarray(y))

    @final
    def squared_residual(self, x: Any, y: Any) -> float:
        """Σ|A x − y|²."""
        residual = self.apply(x) - y
        return float((residual.astype(np.float64) ** 2).sum())

    @final
    def proximal(self, measurement: Any) -> JointConjugateGradients:
        """Return the function that moves a volume to this measurement."""
        return JointConjugateGradients(self, measurement, self.n_iterations)

    def norm(self, n_iterations: int = 20) -> float:
        """Return ‖A‖₂ by power iteration."""
        start = 1 + 0.1 * np.random.Generator(np.random.Philox(0)).random(self.shape, np.float32)
        return largest_singular_value(self.apply, self.adjoint, start, n_iterations)

    def on(self, device: Device) -> VolumeOperator:
        """Return the operator for arrays on a device."""
        return self

    @final
    def check_image(self, name: str, array: Any) -> ModuleType:
        """Return the library of a volume that this operator can measure.

        Raises
        ------
        TypeError, ValueError
            As `apply`.
        """
        library = library_of(**{name: array})
        check_stack(name, array, IMAGE_AXES, self.shape, np.float32)
        return library

    @final
    def check_data(self, name: str, array: Any) -> ModuleType:
        """Return the library of a measurement of this operator.

        Raises
        ------
        TypeError, ValueError
            As `apply`.
        """
        library = library_of(**{name: array})
        check_stack(name, array, ("samples",), (self.n_samples,), np.float32)
        return library

    @abstractmethod
    def _apply(self, x: Any) -> Any: ...

    @abstractmethod
    def _adjoint(self, y: Any) -> Any: ...

    @abstractmethod
    def _classical(self, y: Any) -> Any: ...
