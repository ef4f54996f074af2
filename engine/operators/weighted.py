"""Samples that are not all worth the same: an operator whose noise is."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from engine.device import Device
from engine.operators.linear_operator import LinearOperator
from engine.operators.solvers import largest_singular_value
from kernels.arrays import library_of


@final
class Weighted(LinearOperator):
    """W^½ A: every sample of another operator times the root of its weight.

    With weights that are the inverse variances of the samples' noise, up to a common factor, W^½ y has noise that is
    equally strong everywhere, as all that compares with a measurement takes it to be; least squares then are those of
    the likelihood. For counts of photons I behind an absorber the variance of −log I is about 1 / I: the weight is I.

    Parameters
    ----------
    inner : LinearOperator
        A.
    roots : float32 (n_slices, *inner.data_shape), NumPy or CuPy
        Roots of the weights, above 0.

    Raises
    ------
    ValueError
        Another shape, or roots that are not positive and finite.
    """

    def __init__(self, inner: LinearOperator, roots: Any):
        library = library_of(roots=roots)
        if roots.dtype != np.float32 or roots.shape[1:] != inner.data_shape:
            raise ValueError(
                f"roots: expected float32 (n, {', '.join(map(str, inner.data_shape))}), got {roots.dtype} "
                f"{roots.shape}; give one for every sample"
            )
        if len(roots) and not (0 < float(roots.min()) and np.isfinite(float(roots.max()))):
            raise ValueError("roots: expected positive, finite numbers, got others; leave out samples without weight")
        super().__init__(
            *(inner.slice_shape, inner.data_shape, inner.data_dtype, inner.image_dtype), library, len(roots)
        )
        self.inner, self.roots = inner, roots

    @property
    def data_axes(self) -> tuple[str, ...]:
        return self.inner.data_axes

    def at(self, which: slice) -> Weighted:
        return Weighted(self.inner.at(which), self.roots[which])

    def on(self, device: Device) -> Weighted:
        return Weighted(self.inner.on(device), device.put(self.roots))

    def norm(self, n_iterations: int = 20) -> float:
        """Return ‖W^½ A‖₂ for the slice with the largest weights."""
        if not len(self.roots):
            return 0.0
        squares = (self.roots.reshape(len(self.roots), -1) ** 2).sum(axis=1)
        heaviest = int(squares.argmax())
        one = self.at(slice(heaviest, heaviest + 1))
        start = 1 + 0.1 * np.random.Generator(np.random.Philox(0)).random((1, *self.slice_shape), np.float32)
        x = self.library.asarray(start.astype(self.image_dtype))
        return largest_singular_value(one.apply, one.adjoint, x, n_iterations)

    def _apply(self, x: Any) -> Any:
        return self.inner.apply(x) * self.roots

    def _adjoint(self, y: Any) -> Any:
        return self.inner.adjoint(y * self.roots)

    def _classical(self, y: Any) -> Any:
        """That of the samples as they were before they were weighed."""
        return self.inner.classical(y / self.roots)
