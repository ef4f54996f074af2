"""The contract of a measurement operator."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import ModuleType
from typing import Any, final

import numpy as np
import scipy.sparse.linalg

from engine.device import Device
from engine.operators.checks import IMAGE_AXES, check_stack
from engine.operators.data_fidelity import DataFidelity, PlainFidelity
from engine.operators.proximal import ConjugateGradients, Proximal
from engine.operators.solvers import largest_singular_value
from kernels.arrays import library_of


class LinearOperator(ABC):
    """A linear map that measures every slice by itself.

    For all x and all y: Re⟨A x, y⟩ = Re⟨x, Aᵀ y⟩ up to rounding, where Aᵀ is `adjoint`: the exact transpose, no filter,
    no scaling, no inverse. For complex images it is the conjugate transpose, for real ones the real part of that.

    Arrays are NumPy's or CuPy's; results are of the same library. NaN propagates; an empty stack gives an empty one.
    A new operator is a class with `_apply` and `_adjoint`: norm, data fidelity, proximal map, composition (`A @ B`) and
    a plain classical reconstruction follow from these, and faster ones may replace them.

    Parameters
    ----------
    slice_shape : (int, int)
        Rows and columns of a slice, at least one each.
    data_shape : tuple of int
        Shape of the measurement of one slice.
    data_dtype : dtype
        float32 or complex64.
    image_dtype : dtype
        float32 or complex64.
    library : module or None
        The array library of what the operator holds; None serves either.
    n_slices : int or None
        The stack's length, for an operator that is another one for every slice; None fits any.

    Raises
    ------
    ValueError
        A slice without pixels.
    """

    def __init__(
        self,
        slice_shape: tuple[int, int],
        data_shape: tuple[int, ...],
        data_dtype: type,
        image_dtype: type = np.float32,
        library: ModuleType | None = None,
        n_slices: int | None = None,
    ):
        if min(slice_shape) < 1:
            raise ValueError(f"slice_shape: expected at least one row and column, got {slice_shape}; pass real slices")
        self.slice_shape, self.image_dtype = slice_shape, image_dtype
        self.data_shape, self.data_dtype = data_shape, data_dtype
        self.library: Any = library
        self.n_slices = n_slices

    @final
    def apply(self, x: Any) -> Any:
        """Measure a stack of slices.

        Parameters
        ----------
        x : array (n, n_rows, n_columns) of `image_dtype`

        Returns
        -------
        array (n, *data_shape) of `data_dtype`
            New memory.

        Raises
        ------
        TypeError
            No array, or one of another library than the operator's.
        ValueError
            Another shape or type; the message names the axis.
        """
        library = self.check_image("x", x)
        if len(x) == 0:
            return library.zeros((0, *self.data_shape), self.data_dtype)
        return self._apply(library.ascontiguousarray(x))

    @final
    def adjoint(self, y: Any) -> Any:
        """Apply the transpose.

        Parameters
        ----------
        y : array (n, *data_shape) of `data_dtype`

        Returns
        -------
        array (n, n_rows, n_columns) of `image_dtype`
            New memory.

        Raises
        ------
        TypeError, ValueError
            As `apply`.
        """
        library = self.check_data("y", y)
        if len(y) == 0:
            return library.zeros((0, *self.slice_shape), self.image_dtype)
        return self._adjoint(library.ascontiguousarray(y))

    @final
    def classical(self, y: Any) -> Any:
        """Return the reconstruction that a scanner would show.

        Parameters
        ----------
        y : array (n, *data_shape) of `data_dtype`

        Returns
        -------
        array (n, n_rows, n_columns) of `image_dtype`

        Raises
        ------
        TypeError, ValueError
            As `apply`.
        """
        library = self.check_data("y", y)
        if len(y) == 0:
            return library.zeros((0, *self.slice_shape), self.image_dtype)
        return self._classical(library.ascontiguousarray(y))

    @final
    def __matmul__(self, inner: LinearOperator) -> LinearOperator:
        """A @ B: what A measures of the images that B makes."""
        return Composition(self, inner)

    @property
    @final
    def H(self) -> Callable[[Any], Any]:
        """The adjoint as a function: A.H(y)."""
        return self.adjoint

    @final
    def gram(self, x: Any) -> Any:
        """Return AᵀA x, array (n, n_rows, n_columns) of `image_dtype`."""
        return self.adjoint(self.apply(x))

    @final
    def as_scipy(self, n: int) -> scipy.sparse.linalg.LinearOperator:
        """Return the same for SciPy's solvers: of flat vectors, a stack of n slices and its measurement."""
        image_shape, data_shape = (n, *self.slice_shape), (n, *self.data_shape)

        def matvec(x: np.ndarray) -> np.ndarray:
            return np.asarray(self.apply(x.reshape(image_shape).astype(self.image_dtype))).ravel()

        def rmatvec(y: np.ndarray) -> np.ndarray:
            return np.asarray(self.adjoint(y.reshape(data_shape).astype(self.data_dtype))).ravel()

        shape = (math.prod(data_shape), math.prod(image_shape))
        dtype = np.result_type(self.data_dtype, self.image_dtype)
        return scipy.sparse.linalg.LinearOperator(shape, matvec, rmatvec, dtype=dtype)

    def at(self, which: slice) -> LinearOperator:
        """Return the operator of a part of the stack."""
        return self

    def on(self, device: Device) -> LinearOperator:
        """Return the operator for arrays on a device; one that holds no arrays serves all."""
        return self

    def of_complex_images(self) -> LinearOperator:
        """Return the operator that measures images with a phase; one that knows real images alone stays as it is."""
        return self

    def of_real_images(self) -> LinearOperator:
        """Return the operator that measures real images; the inverse of `of_complex_images`."""
        return self

    def fidelity(self, measurement: Any, scale: float = 1.0) -> DataFidelity:
        """Return the function that compares slices with this measurement: see `DataFidelity`.

        Raises
        ------
        TypeError, ValueError
            As `adjoint`.
        """
        return PlainFidelity(self, measurement, scale)

    @final
    def squared_residual(self, x: Any, y: Any) -> float:
        """Σ|A x − y|² of the stack, some slices at a time."""
        _, _, squared = self.fidelity(y)(x, slice(0, len(x)))
        return float(squared.sum())

    def normal_diagonal(self) -> Any:
        """Return the diagonal of AᴴA, by which conjugate gradients divide first; None where it is about even.

        Returns
        -------
        float32 (n, n_rows, n_columns), or (n_rows, n_columns) for all slices, more than 0; or None
            Near it: pixels that are hardly seen count as seen a little.
        """
        return None

    def proximal(self, measurement: Any) -> Proximal:
        """Return the function that moves slices to this measurement: see `engine.operators.proximal.Proximal`.

        Raises
        ------
        TypeError, ValueError
            As `adjoint`.
        """
        return ConjugateGradients(self, measurement)

    def norm(self, n_iterations: int = 20) -> float:
        """Return ‖A‖₂, the largest singular value for one slice (any one of the stack), by power iteration."""
        if self.n_slices is not None and self.n_slices != 1:
            parts = (self.at(slice(i, i + 1)) for i in range(self.n_slices))
            return max((part.norm(n_iterations) for part in parts), default=0.0)
        # Near the answer for averages and projections, yet not in the null space of k-space without its centre.
        start = 1 + 0.1 * np.random.Generator(np.random.Philox(0)).random((1, *self.slice_shape), np.float32)
        x = (self.library or np).asarray(start.astype(self.image_dtype))
        return largest_singular_value(self.apply, self.adjoint, x, n_iterations)

    @final
    def check_image(self, name: str, array: Any) -> ModuleType:
        """Return the library of a stack of images that this operator can measure.

        Raises
        ------
        TypeError, ValueError
            As `apply`.
        """
        return self._check(name, array, IMAGE_AXES, self.slice_shape, self.image_dtype)

    @final
    def check_data(self, name: str, array: Any) -> ModuleType:
        """Return the library of a stack of measurements of this operator.

        Raises
        ------
        TypeError, ValueError
            As `apply`.
        """
        return self._check(name, array, ("slices", *self.data_axes), self.data_shape, self.data_dtype)

    @property
    def data_axes(self) -> tuple[str, ...]:
        """What each axis of `data_shape` counts, in the plural, for messages."""
        return ("samples",) * len(self.data_shape)

    def _check(self, name: str, array: Any, axes: tuple[str, ...], shape: tuple[int, ...], dtype: type) -> ModuleType:
        library = library_of(**{name: array})
        if self.library not in (None, library):
            raise TypeError(
                f"{name}: expected {self.library.__name__}.ndarray like what the operator was built from, "
                f"got {library.__name__}.ndarray; move one of them with cupy.asarray or cupy.asnumpy"
            )
        check_stack(name, array, axes, (self.n_slices, *shape), dtype)
        return library

    @abstractmethod
    def _apply(self, x: Any) -> Any: ...

    @abstractmethod
    def _adjoint(self, y: Any) -> Any: ...

    def _classical(self, y: Any) -> Any:
        """By default the adjoint, of the size of an image: Aᵀy / ‖A‖²."""
        return self.adjoint(y) / np.float32(self.norm() ** 2 or 1)


@final
class Composition(LinearOperator):
    """A B: measure with A what B makes of an image.

    Parameters
    ----------
    outer : LinearOperator
        A.
    inner : LinearOperator
        B, from images to images: its data have the shape and the type of images of A.

    Raises
    ------
    ValueError
        Operators that do not fit each other.
    """

    def __init__(self, outer: LinearOperator, inner: LinearOperator):
        if (inner.data_shape, inner.data_dtype) != (outer.slice_shape, outer.image_dtype):
            raise ValueError(
                f"inner: expected an operator whose data are images {outer.slice_shape} of "
                f"{outer.image_dtype.__name__}, got {inner.data_shape} of {inner.data_dtype.__name__}; swap them?"
            )
        super().__init__(
            *(inner.slice_shape, outer.data_shape, outer.data_dtype, inner.image_dtype),
            outer.library or inner.library,
            outer.n_slices or inner.n_slices,
        )
        self.outer, self.inner = outer, inner

    @property
    def data_axes(self) -> tuple[str, ...]:
        return self.outer.data_axes

    def at(self, which: slice) -> Composition:
        return Composition(self.outer.at(which), self.inner.at(which))

    def on(self, device: Device) -> Composition:
        return Composition(self.outer.on(device), self.inner.on(device))

    def _apply(self, x: Any) -> Any:
        return self.outer.apply(self.inner.apply(x))

    def _adjoint(self, y: Any) -> Any:
        return self.inner.adjoint(self.outer.adjoint(y))

    def _classical(self, y: Any) -> Any:
        return self.inner.classical(self.outer.classical(y))
