"""Masked 2D Fourier transform: single-coil Cartesian MRI."""

from __future__ import annotations

import numpy as np
from scipy import fft

from engine.operators.linear_operator import LinearOperator

_AXES = (-2, -1)


class MaskedFourier(LinearOperator):
    """A x = mask · fftshift(fft2(x)), unnormalised, the zero frequency at (h // 2, w // 2).

    Parameters
    ----------
    mask : float32 (h, w)
        1 where k-space is sampled, else 0.
    """

    def __init__(self, mask: np.ndarray):
        super().__init__((mask.shape[0], mask.shape[1]), mask.shape, np.complex64)
        self.mask = np.asarray(mask, dtype=np.float32)

    def _apply(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.mask * fft.fftshift(fft.fft2(x, axes=_AXES), axes=_AXES))

    def _adjoint(self, y: np.ndarray) -> np.ndarray:
        # norm="forward" leaves the inverse unscaled, which makes it the conjugate transpose of the unscaled transform.
        image = fft.ifft2(fft.ifftshift(self.mask * y, axes=_AXES), axes=_AXES, norm="forward")
        return np.ascontiguousarray(image.real, dtype=np.float32)

    def classical(self, y: np.ndarray) -> np.ndarray:
        """The zero-filled image: the inverse transform of what was sampled."""
        h, w = self.slice_shape
        return self.adjoint(y) / np.float32(h * w)
