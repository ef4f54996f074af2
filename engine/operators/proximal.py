"""Data consistency without a network's gradient: the slices nearest to an estimate that agree with a measurement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import ModuleType
from typing import TYPE_CHECKING, Any, final

import numpy as np

from engine.operators.data_fidelity import squared_norms
from engine.operators.solvers import conjugate_gradients

if TYPE_CHECKING:
    from engine.operators.linear_operator import LinearOperator
    from engine.operators.volume_operator import VolumeOperator

#: x, and Σ|A z − y|² of every slice.
Nearest = tuple[Any, Any]
#: Samples of a measurement that are worked on together, so that intermediate arrays stay small beside the measurement.
_SAMPLES_AT_ONCE = 2**24


class Proximal(ABC):
    """argmin_x ½‖A x − y‖² + ½ρ‖x − z‖² of every slice, for one measurement y.

    Parameters
    ----------
    operator : LinearOperator
    measurement : array (n, *operator.data_shape)
    """

    def __init__(self, operator: LinearOperator, measurement: Any):
        self.library: ModuleType = operator.check_data("measurement", measurement)
        self.operator, self.measurement = operator, measurement

    @final
    def __call__(self, z: Any, rho: float) -> Nearest:
        """Return the minimiser for the whole stack.

        Parameters
        ----------
        z : array (n, n_rows, n_columns) of `operator.image_dtype`
        rho : float
            Weight of staying at z, at least 0, in units of ‖A‖²; 0 moves z no further than the measurement asks for.

        Returns
        -------
        x : array (n, n_rows, n_columns)
        squared : float64 (n,)
            Σ|A z − y|² of every slice: how far z was from the measurement.

        Raises
        ------
        TypeError
            No array, or one of another library than the measurement's.
        ValueError
            Another shape or type, or a negative ρ.
        """
        library = self.operator.check_image("z", z)
        if library is not self.library:
            raise TypeError(
                f"z: expected {self.library.__name__}.ndarray like the measurement, got {library.__name__}.ndarray; "
                "move one of them with cupy.asarray or cupy.asnumpy"
            )
        if len(z) != len(self.measurement):
            n = len(self.measurement)
            raise ValueError(
                f"z: expected {n} slices along axis 0 as in the measurement, got {len(z)}; pass all of them"
            )
        if not rho >= 0:
            raise ValueError(f"rho: expected at least 0, got {rho}; 0 trusts the measurement entirely")
        return self._nearest(library.ascontiguousarray(z), rho)

    @abstractmethod
    def _nearest(self, z: Any, rho: float) -> Nearest: ...


@final
class ConjugateGradients(Proximal):
    """The minimiser for any operator, by conjugate gradients on the normal equations, started at z.

    Every slice has its own step lengths, and rests once its residual is rounding. For ρ = 0 and few iterations the
    result stays near z where the measurement says little: directions that A hardly sees come last. Where an operator
    states the diagonal of AᴴA, which is uneven, that is its preconditioner.

    Parameters
    ----------
    operator, measurement
        As for `Proximal`.
    n_iterations : int
        Each applies A and its transpose once.
    """

    def __init__(self, operator: LinearOperator, measurement: Any, n_iterations: int = 5):
        super().__init__(operator, measurement)
        if n_iterations < 1:
            raise ValueError(f"n_iterations: expected at least 1, got {n_iterations}; 5 is usual")
        self.n_iterations = n_iterations

    def _nearest(self, z: Any, rho: float) -> Nearest:
        n = max(1, _SAMPLES_AT_ONCE // int(np.prod(self.operator.data_shape)))
        if len(z) <= n:
            return self._solve(self.operator, self.measurement, z, rho)
        parts = [slice(i, min(i + n, len(z))) for i in range(0, len(z), n)]
        solved = [self._solve(self.operator.at(p), self.measurement[p], z[p], rho) for p in parts]
        return tuple(self.library.concatenate(column) for column in zip(*solved, strict=True))  # type: ignore[return-value]

    def _solve(self, operator: LinearOperator, y: Any, z: Any, rho: float) -> Nearest:
        data = operator.apply(z)
        data -= y
        diagonal = operator.normal_diagonal()
        # Solved for x over this: pixels that are seen well and badly come equally fast.
        unit = np.float32(1) if diagonal is None else 1 / self.library.sqrt(diagonal + np.float32(rho))

        def normal(direction: Any) -> tuple[Any, Any]:
            direction = unit * direction
            seen = operator.apply(direction)
            image = operator.adjoint(seen)
            image += np.float32(rho) * direction
            return unit * image, squared_norms(seen) + rho * squared_norms(direction)

        x = conjugate_gradients(z / unit, unit * -operator.adjoint(data), normal, squared_norms, self.n_iterations)
        x *= unit
        return x, squared_norms(data)


@final
class JointConjugateGradients:
    """argmin_x ½‖A x − y‖² + ½ρ‖x − z‖² of a volume that is measured as a whole, by conjugate gradients from z.

    Parameters
    ----------
    operator : VolumeOperator
    measurement : float32 (operator.n_samples,)
    n_iterations : int
        Each applies A and its transpose once.
    """

    def __init__(self, operator: VolumeOperator, measurement: Any, n_iterations: int = 4):
        operator.check_data("measurement", measurement)
        self.operator, self.measurement, self.n_iterations = operator, measurement, n_iterations

    def __call__(self, z: Any, rho: float) -> Nearest:
        """Return the minimiser, and Σ|A z − y|² as float64 (1,); arguments as for `Proximal`."""
        operator = self.operator
        library = operator.check_image("z", z)
        if not rho >= 0:
            raise ValueError(f"rho: expected at least 0, got {rho}; 0 trusts the measurement entirely")

        def squared_norm(x: Any) -> Any:
            return squared_norms(x.reshape(1, -1))[0]

        def normal(direction: Any) -> tuple[Any, Any]:
            seen = operator.apply(direction)
            image = operator.adjoint(seen)
            image += np.float32(rho) * direction
            return image, squared_norm(seen) + rho * squared_norm(direction)

        data = operator.apply(z)
        data -= self.measurement
        x = conjugate_gradients(z, -operator.adjoint(data), normal, squared_norm, self.n_iterations)
        return x, library.reshape(squared_norm(data), (1,))
