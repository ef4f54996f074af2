"""Reconstruction without a prior: least squares, and a transform of the volume that should be sparse."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.methods.outcome import outcome_of
from engine.operators import VolumeOperator
from engine.sampling.problem import InverseProblem
from engine.sampling.reconstruction import Reconstruction
from engine.sampling.settings import Settings


def sigpy_of(method: str) -> ModuleType:
    """Return sigpy, which only the methods that compare need.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        import sigpy
    except ImportError as error:
        raise InputError(
            "method",
            f"sigpy, whose solver {method} uses",
            "none",
            "`pip install -c constraints.txt -e '.[compare]'` or choose another method",
        ) from error
    return sigpy


def solve_least_squares(
    problem: InverseProblem, first: np.ndarray, settings: Settings, sigpy: ModuleType, **how: Any
) -> Reconstruction:
    """Find argmin_x ½‖A x − y‖² / ‖A‖² + w·r·R(x) by sigpy.

    The weight w has no scale: the data term is that of an operator of norm one, and r is the largest value of `first`,
    by which intensities are measured. So neither the units of y nor those of the image change the result.

    Parameters
    ----------
    problem : InverseProblem
        Its arrays are NumPy's.
    first : float32 or complex64 (n, h, w)
        Where iterations start, in slices of the problem's plane.
    settings : Settings
        That were used.
    sigpy : module
        From `sigpy_of`.
    how
        Of `sigpy.app.LinearLeastSquares`: the solver, its steps, and w·R of a volume in units of r.
    """
    started = time.monotonic()
    operator, y = problem.measured()
    norm = np.float32(operator.norm())
    unit = np.float32(abs(first).max()) or np.float32(1)
    unit_operator = _unit_operator(sigpy, operator, len(first), norm)
    y = y / (norm * unit)
    y = y if problem.is_complex else _real(y)
    app = sigpy.app.LinearLeastSquares(unit_operator, y, x=first / unit, show_pbar=False, **how)
    slices = unit * app.run()
    return outcome_of(problem, slices, settings, first, time.monotonic() - started)


def _unit_operator(sigpy: ModuleType, operator: Any, n: int, norm: np.float32) -> Any:
    """A / ‖A‖ of a whole stack for sigpy, which keeps one type for all: where images are real, so are data."""
    image_shape = (n, *operator.slice_shape)
    of_type = np.asarray if operator.image_dtype == operator.data_dtype else _real
    n_parts = np.dtype(operator.data_dtype).itemsize // np.dtype(operator.image_dtype).itemsize
    if isinstance(operator, VolumeOperator):
        data_shape: tuple[int, ...] = (operator.n_samples,)
    else:
        data_shape = (n, *operator.data_shape[:-1], operator.data_shape[-1] * n_parts)

    class Forward(sigpy.linop.Linop):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__(data_shape, image_shape)

        def _apply(self, x: np.ndarray) -> np.ndarray:
            return of_type(operator.apply(x) / norm)

        def _adjoint_linop(self) -> Any:
            return Transpose()

    class Transpose(sigpy.linop.Linop):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__(image_shape, data_shape)

        def _apply(self, y: np.ndarray) -> np.ndarray:
            transposed: np.ndarray = operator.adjoint(np.ascontiguousarray(y).view(operator.data_dtype)) / norm
            return transposed

        def _adjoint_linop(self) -> Any:
            return Forward()

    return Forward()


def _real(y: np.ndarray) -> np.ndarray:
    """Real and imaginary parts side by side in the last axis; a real array as it is."""
    return np.ascontiguousarray(y).view(np.float32)
