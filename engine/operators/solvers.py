"""Iterations on normal equations: conjugate gradients, and the largest singular value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.arrays import library_of

#: Residuals of conjugate gradients this much smaller than at their start are rounding.
_TOLERANCE = 1e-6


def conjugate_gradients(
    x: Any,
    residual: Any,
    normal: Callable[[Any], tuple[Any, Any]],
    squared_norm: Callable[[Any], Any],
    n_iterations: int,
) -> Any:
    """Solve N x = b for a symmetric N, by a stated number of iterations from a start.

    The problem rests once its residual is rounding; nothing here waits for a GPU. With few iterations the result stays
    near its start where N is small: directions that N hardly sees come last.

    Parameters
    ----------
    x : float32 or complex64 (n, ...)
        The start; stays as it is.
    residual : array, shape and type of x
        b − N x; is used up.
    normal : function
        Of a direction d: N d, and dᴴN d as `squared_norm` has it.
    squared_norm : function
        Of such an array: float64 (n,) for n problems, each with its own step lengths, or () for a single one.
    n_iterations : int

    Returns
    -------
    array, shape and type of x
        New memory.

    Source: Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems, 1952.
    """
    where = library_of(x=x).where
    x, direction = x.copy(), residual.copy()
    length = squared_norm(residual)
    enough = _TOLERANCE**2 * length

    def each(numbers: Any) -> Any:
        """One number a problem, to multiply a stack with."""
        return numbers.astype(np.float32).reshape(numbers.shape + (1,) * (x.ndim - 1 if numbers.ndim else 0))

    for _ in range(n_iterations):
        image, curvature = normal(direction)
        # A problem at rest divides zero by one.
        works = (length > enough) & (curvature > 0)
        step = each(works * length / where(works, curvature, 1.0))
        x += step * direction
        residual -= step * image
        before, length = length, squared_norm(residual)
        direction *= each(works * length / where(works, before, 1.0))
        direction += residual
    return x


def largest_singular_value(
    apply: Callable[[Any], Any], adjoint: Callable[[Any], Any], x: Any, n_iterations: int
) -> float:
    """Return ‖A‖₂ by power iteration on AᵀA.

    Parameters
    ----------
    apply, adjoint : function
    x : array
        The start: no null vector of A, unless A has no other.
    n_iterations : int
    """
    length = 0.0
    for _ in range(n_iterations):
        x = adjoint(apply(x * np.float32(1 / _length(x))))
        length = _length(x)
        if length == 0:
            break
    return float(np.sqrt(length))


def _length(x: Any) -> float:
    return float((abs(x).astype(np.float64) ** 2).sum()) ** 0.5
