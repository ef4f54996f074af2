"""Proximal data consistency: how far an estimate of the volume is moved towards the measurement."""

from __future__ import annotations

from typing import Any

from engine.operators import LinearOperator, VolumeOperator
from engine.operators.proximal import Nearest
from engine.parallel.decomposition import UNDIVIDED, Decomposition


class ProximalConsistency:
    """Moves x̂₀ to argmin_x ½‖A x − y‖² + ½ρ‖x − x̂₀‖²: no gradient through the network.

    With noise of standard deviation s in y and an error of standard deviation r in x̂₀, the minimiser is the most
    probable image for ρ = s²/r². At noise level σ the error is taken to be r = σ·v/√(σ² + v²), v the spread of
    intensities: that of a pixel of variance v² of which nothing but its noisy value is known. A measurement without
    noise gives ρ = 0, full trust.

    Parameters
    ----------
    operator : LinearOperator or VolumeOperator
    measurement : array (n, *operator.data_shape) or (operator.n_samples,), NumPy or CuPy
        y, in the layout of the primary plane.
    noise_level : float
        s: standard deviation of the noise in a sample of y, of the real and of the imaginary part each.
    rho : float or None
        Instead of the rule, a constant multiple of ‖A‖².
    decomposition : Decomposition
        Where the slices are; operator and measurement are those of the slices here.

    Source: Chung et al., Decomposed diffusion sampler for accelerating large-scale inverse problems, ICLR 2024 (the
    step without noise); Zhu et al., Denoising diffusion models for plug-and-play image restoration, CVPRW 2023 (ρ from
    the two noise levels).
    """

    #: v, in units of image intensity.
    SPREAD = 0.3

    def __init__(
        self,
        operator: LinearOperator | VolumeOperator,
        measurement: Any,
        noise_level: float = 0.0,
        rho: float | None = None,
        decomposition: Decomposition = UNDIVIDED,
    ):
        self.proximal = operator.proximal(measurement)
        self.noise_level = noise_level
        self._constant = None if rho is None else rho * decomposition.largest(operator.norm()) ** 2

    def rho(self, sigma: float) -> float:
        """Weight of staying at x̂₀, at a noise level."""
        if self._constant is not None:
            return self._constant
        return self.noise_level**2 * (1 / sigma**2 + 1 / self.SPREAD**2)

    def __call__(self, x0: Any, sigma: float) -> Nearest:
        """Return the moved stack of slices, in the layout of y, and Σ|A x̂₀ − y|² of every slice, or of the volume."""
        return self.proximal(x0, self.rho(sigma))
