"""One operator after another."""

from __future__ import annotations

from typing import Any, final

from engine.device import Device
from engine.operators.linear_operator import LinearOperator


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
