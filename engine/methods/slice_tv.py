"""Data consistency with total variation across slices: what ties slices together where one prior knows one plane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.operators import LinearOperator
from engine.operators.solvers import conjugate_gradients
from engine.parallel.stack import Stack
from engine.sampling.image_phase import magnitude_along, phase_of, turned
from engine.sampling.problem import InverseProblem
from kernels.arrays import library_of

#: The variables of ADMM beside x, each a jump from slice to slice, (n − 1, h, w): "z" stands for D x, "u" is the scaled
#: multiplier of D x = z. Steps hand them on as the memory of their state.
Splitting = Mapping[str, Any]


def magnitude_moved(
    consistency: SliceTv, x: Stack, splitting: Splitting, sigma: float, image_phase: Stack | None
) -> tuple[Any, Splitting, Any, Stack | None]:
    """One iteration from x of noise level σ; of an image with a phase, from its magnitude, with the phase it comes to.

    Returns
    -------
    x : float32 (n, h, w)
    splitting, residual
        See `SliceTv`.
    image_phase : Stack or None
    """
    if image_phase is None:
        return *consistency(x.data, splitting), None
    image, splitting, residual = consistency(turned(x.data, image_phase.data), splitting)
    image_phase = x.of(phase_of(image, sigma))
    return magnitude_along(image, image_phase.data), splitting, residual, image_phase


def no_splitting(x: Any) -> Splitting:
    """Zeros, for a stack of slices (n, h, w), of its type."""
    zeros = library_of(x=x).zeros((max(0, len(x) - 1), *x.shape[1:]), x.dtype)
    return {"z": zeros, "u": zeros}


@dataclass(frozen=True)
class SliceTv:
    """Iterations of ADMM for argmin_x ½‖A x − y‖² / ‖A‖² + w ‖D x‖₁, D the difference of neighbouring slices.

    Each of them is

        x ← x after m steps of conjugate gradients towards (AᵀA / ‖A‖² + ρDᵀD) x = Aᵀy / ‖A‖² + ρDᵀ(z − u)
        z ← shrink(D x + u, w/ρ)
        u ← u + D x − z

    With few conjugate gradients and warm variables, one iteration does not find the minimum: where the measurement says
    nothing, x stays near where it was.

    Parameters
    ----------
    operator : LinearOperator
    measurement : array (n, *operator.data_shape), NumPy or CuPy
    weight : float
        w, in units of image intensity.
    rho : float
        ρ, positive.
    n_conjugate : int
        m.
    norm : float
        ‖A‖.

    Source: Boyd et al., Distributed optimization and statistical learning via the alternating direction method of
    multipliers, 2011; Chung et al., Solving 3D inverse problems using pre-trained 2D diffusion models, CVPR 2023
    (variables shared between steps).
    """

    operator: LinearOperator
    measurement: Any
    weight: float
    rho: float
    n_conjugate: int
    norm: float

    @classmethod
    def of(cls, problem: InverseProblem, weight: float, rho: float, n_conjugate: int) -> SliceTv:
        """For a problem's measurement; InputError where there is none."""
        operator, y = problem.measured_slices()
        return cls(operator, y, weight, rho, n_conjugate, operator.norm())

    def __call__(self, x: Any, splitting: Splitting) -> tuple[Any, Splitting, Any]:
        """Do one iteration; what comes in stays as it is.

        Parameters
        ----------
        x : array (n, h, w) of the operator's images
        splitting : Splitting

        Returns
        -------
        x : array, shape and type of x
        splitting : Splitting
        residual : float64 ()
            ‖A x − y‖₂ of the x that came in, where that is.
        """
        misfit = self.measurement - self.operator.apply(x)
        x = self._least_squares(x, misfit, splitting["z"] - splitting["u"])
        jumps = jumps_of(x) + splitting["u"]
        z = shrink(jumps, self.weight / self.rho)
        library = library_of(x=x)
        return x, {"z": z, "u": jumps - z}, library.asarray(library.sqrt(squared(abs(misfit))))

    def _least_squares(self, x: Any, misfit: Any, target: Any) -> Any:
        """Of data and ‖D x − target‖, the stack as a whole, started at x, where y − A x is misfit."""
        scale, rho = np.float32(1 / self.norm**2), np.float32(self.rho)

        def normal(direction: Any) -> tuple[Any, Any]:
            image = scale * self.operator.adjoint(self.operator.apply(direction))
            image += rho * jumps_adjoint(jumps_of(direction))
            return image, _product(direction, image)

        residual = scale * self.operator.adjoint(misfit)
        residual += rho * jumps_adjoint(target - jumps_of(x))
        return conjugate_gradients(x, residual, normal, squared, self.n_conjugate)


def jumps_of(x: Any) -> Any:
    """D x: every slice less the one before, (n − 1, h, w)."""
    return x[1:] - x[:-1]


def jumps_adjoint(jumps: Any) -> Any:
    """Dᵀ of jumps (n − 1, h, w): a stack (n, h, w)."""
    rest = [(0, 0)] * (jumps.ndim - 1)
    library = library_of(jumps=jumps)
    return library.pad(jumps, [(1, 0), *rest]) - library.pad(jumps, [(0, 1), *rest])


def shrink(x: Any, threshold: float) -> Any:
    """Bring every entry nearer to zero by the threshold, and not beyond: the proximal map of an ℓ1 norm.

    Complex entries keep their phase.
    """
    if x.dtype.kind != "c":
        return x - x.clip(-np.float32(threshold), np.float32(threshold))
    library, size = library_of(x=x), abs(x)
    # The smallest number for zero, which stays zero.
    kept = (size - np.float32(threshold)).clip(0) / library.maximum(size, np.finfo(np.float32).tiny)
    return x * kept


def squared(x: Any) -> Any:
    """Σ|x|², float64 (), where x is."""
    return _product(x, x)


def _product(x: Any, y: Any) -> Any:
    """Re Σ conj(x) y, float64 (), where they are."""
    if x.dtype.kind != "c":
        return (x * y).sum(dtype=np.float64)
    return (x.real * y.real).sum(dtype=np.float64) + (x.imag * y.imag).sum(dtype=np.float64)
