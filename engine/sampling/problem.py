"""An inverse problem: an operator, its measurement, and the volume that is to explain it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.device import Device
from engine.errors import InputError
from engine.operators import LinearOperator, VolumeOperator
from engine.volume import Plane

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Published:
    """What the published method takes for a problem of this kind.

    Parameters
    ----------
    K : int or float
        See `engine.sampling.schedule.turns`.
    distance : float
        λ‖A‖ of its 2000 steps on groups of 6 slices of 256 × 256: a distance in image space.
    """

    K: int | float
    distance: float


@dataclass(frozen=True)
class InverseProblem:
    """y = A x + noise: slices of one plane were measured, the volume is asked for.

    Parameters
    ----------
    plane : Plane
        The plane whose slices are measured: that of the primary prior.
    shape : (int, int, int)
        Of the volume.
    operator : LinearOperator, VolumeOperator or None
        A; None for unconditional generation.
    measurement : array (n_slices, *operator.data_shape), (operator.n_samples,) or None
        y, NumPy or CuPy.
    noise_level : float
        Standard deviation of the noise in a sample of y, of the real and the imaginary part each.
    residual_scale : float
        Weight of the residual in the published guidance.
    renoise : bool
        Whether the published guidance compares with a re-noised measurement: for thick slices that are the means of
        their blocks. Its noise, one normal a block over √factor, is that of such a mean; for another profile the method
        says nothing, and the measurement stays as it is.
    sample_rms : float
        Root mean square of the samples before simulated noise, zeros left out: the unit of stated noise.
    published : Published or None
        Its place in the published tables.
    name : str
        For messages and records; a method that compares takes its default weight by it.
    details : mapping
        For records alone.
    shows_magnitude : bool
        Whether a scanner would show the magnitude of an image that may have a phase, whatever A says of it.
    """

    plane: Plane
    shape: Shape
    operator: LinearOperator | VolumeOperator | None = None
    measurement: Any = None
    noise_level: float = 0.0
    residual_scale: float = 1.0
    renoise: bool = False
    sample_rms: float = 0.0
    published: Published | None = None
    name: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    shows_magnitude: bool = False

    @property
    def is_of_slices(self) -> bool:
        """Whether every slice is measured by itself."""
        return not isinstance(self.operator, VolumeOperator)

    @property
    def is_complex(self) -> bool:
        """Whether the image that is asked for has a phase beside its magnitude, which is the volume."""
        return self.operator is not None and self.operator.image_dtype == np.complex64

    def on(self, device: Device) -> InverseProblem:
        """The same with its arrays on a device."""
        if self.operator is None or self.measurement is None:
            return self
        return replace(self, operator=self.operator.on(device), measurement=device.put(self.measurement))

    def of_complex_images(self) -> InverseProblem:
        """The same, asking for an image with a phase where the operator can measure one."""
        if not isinstance(self.operator, LinearOperator):
            return self
        return replace(self, operator=self.operator.of_complex_images())

    def of_real_images(self) -> InverseProblem:
        """The same, asking for a real image: what is known of its phase is all there is."""
        if not isinstance(self.operator, LinearOperator):
            return self
        return replace(self, operator=self.operator.of_real_images())

    def at(self, which: slice) -> InverseProblem:
        """The same with some of the measured slices; the volume stays whole, and so does what ties slices together."""
        if not isinstance(self.operator, LinearOperator) or self.measurement is None:
            return self
        return replace(self, operator=self.operator.at(which), measurement=self.measurement[which])

    def measured(self) -> tuple[LinearOperator | VolumeOperator, Any]:
        """Operator and measurement.

        Raises
        ------
        InputError
            There are none.
        """
        if self.operator is None or self.measurement is None:
            raise InputError("problem", "one with a measurement", f"'{self.name}'", "choose another one, or method")
        return self.operator, self.measurement

    def measured_slices(self) -> tuple[LinearOperator, Any]:
        """The same of slices that are measured each by itself.

        Raises
        ------
        InputError
            There are none.
        """
        operator, y = self.measured()
        if not isinstance(operator, LinearOperator):
            raise InputError("problem", "one whose slices are measured one by one", f"'{self.name}'", "choose another")
        return operator, y

    def classical(self) -> np.ndarray | None:
        """Zero-filled, interpolated or back-projected volume, float32 (d0, d1, d2); None without a measurement.

        Of images with a phase the magnitude.
        """
        if self.operator is None or self.measurement is None:
            return None
        return self.plane.volume_of(magnitude_of(self.classical_slices()))

    def classical_slices(self) -> Any:
        """The same in slices of the problem's plane, complex64 (n, h, w) where the image may have a phase."""
        operator, y = (self.of_complex_images() if self.shows_magnitude else self).measured()
        return operator.classical(y)


def magnitude_of(slices: Any) -> Any:
    """Float32 slices: of complex ones the magnitude, real ones as they are."""
    return abs(slices) if slices.dtype.kind == "c" else slices
