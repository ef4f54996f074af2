"""Masked 2D Fourier transform: single-coil Cartesian MRI."""

from __future__ import annotations

from typing import Any, final

import numpy as np

import kernels
from engine.device import Device
from engine.operators.data_fidelity import DataFidelity, Terms
from engine.operators.linear_operator import LinearOperator
from engine.operators.proximal import Nearest, Proximal
from engine.operators.transforms import (
    centred,
    fft_of,
    opposite,
    slices_at_once,
    spectrum_of,
    transpose_of,
    uncentred,
)
from kernels.arrays import library_of


class MaskedFourier(LinearOperator):
    """A x = mask · fftshift(fft2(x)), unnormalised, the zero frequency at (h // 2, w // 2).

    Parameters
    ----------
    mask : float32 (h, w)
        Weight of every sample of k-space: 0 where nothing is measured, else usually 1.
    image_dtype : dtype
        float32, or complex64 for images with a phase.

    Raises
    ------
    TypeError
        The mask is no NumPy or CuPy array.
    ValueError
        It has another rank, no samples, or weights that are negative or not finite.
    """

    def __init__(self, mask: Any, image_dtype: type = np.float32):
        self.mask = checked_mask(mask)
        shape = self.mask.shape
        super().__init__(shape, shape, np.complex64, checked_image_dtype(image_dtype), library_of(mask=self.mask))

    @property
    def data_axes(self) -> tuple[str, ...]:
        return "k-space rows", "k-space columns"

    def on(self, device: Device) -> MaskedFourier:
        return MaskedFourier(device.put(self.mask), self.image_dtype)

    def of_complex_images(self) -> MaskedFourier:
        return MaskedFourier(self.mask, np.complex64)

    def of_real_images(self) -> MaskedFourier:
        return MaskedFourier(self.mask)

    def with_mask(self, mask: Any) -> MaskedFourier:
        """Return the operator that takes other samples."""
        return MaskedFourier(mask, self.image_dtype)

    def fidelity(self, measurement: Any, scale: float = 1.0) -> DataFidelity:
        return _fidelity_of(self, measurement, scale)

    def proximal(self, measurement: Any) -> Proximal:
        return _InverseSpectrum(self, measurement)

    def _apply(self, x: Any) -> Any:
        return self.mask * centred(spectrum_of(x, self.library), self.library)

    def _adjoint(self, y: Any) -> Any:
        return transpose_of(uncentred(self.mask * y, self.library), self.library, self.image_dtype == np.float32)

    def _classical(self, y: Any) -> Any:
        """The zero-filled image: the inverse transform of what was sampled, its weights undone."""
        h, w = self.slice_shape
        spectra = uncentred(without_weights(y, self.mask), self.library)
        return transpose_of(spectra, self.library, self.image_dtype == np.float32) / np.float32(h * w)


def checked_image_dtype(image_dtype: Any) -> type:
    """Return float32 or complex64; raise ValueError for anything else."""
    for known in (np.float32, np.complex64):
        if np.dtype(image_dtype) == known:
            return known
    raise ValueError(f"image_dtype: expected float32 or complex64, got {np.dtype(image_dtype)}; choose one")


def checked_mask(mask: Any) -> Any:
    """Return a mask as contiguous float32; raise what `MaskedFourier` says."""
    library = library_of(mask=mask)
    if mask.ndim != 2 or 0 in mask.shape or mask.dtype.kind not in "buif":
        raise ValueError(
            f"mask: expected (h, w) of real weights, at least one, got {mask.shape} {mask.dtype}; pass one weight a "
            "sample of k-space"
        )
    mask = library.ascontiguousarray(mask, dtype=np.float32)
    if not bool((library.isfinite(mask) & (mask >= 0)).all()):
        raise ValueError("mask: expected finite weights of at least 0, got others; set 0 where nothing is measured")
    return mask


def without_weights(y: Any, mask: Any) -> Any:
    """Divide samples by their weights; zero where there is none to speak of."""
    library = library_of(y=y, mask=mask)
    # The reciprocal of less than a normal number would overflow.
    has_weight = mask >= np.finfo(np.float32).tiny
    return y * library.where(has_weight, 1 / library.where(has_weight, mask, np.float32(1)), np.float32(0))


@final
class _HalfSpectrumFidelity(DataFidelity):
    """For real images: half a spectrum, rearranged once so that k and −k lie together."""

    def __init__(self, operator: MaskedFourier, measurement: Any, scale: float):
        super().__init__(operator, measurement, scale)
        self._measured = kernels.half_of(uncentred(measurement, self.library))
        self._weight = kernels.half_of(uncentred(operator.mask, self.library))
        self._fft = fft_of(self.library)

    @property
    def slices_at_once(self) -> int | None:
        return slices_at_once(self.library, self.operator.data_shape)

    def _terms(self, operator: LinearOperator, x0: Any, which: slice, noise: Any) -> Terms:
        if noise is not None:
            noise = kernels.half_of(uncentred(noise, self.library))
        spectrum, squared, plain = self.gradient_spectrum(x0, which, noise)
        return self.image_of(spectrum), squared, plain

    def gradient_spectrum(self, x0: Any, which: slice, noise: Any = None) -> Terms:
        """`_terms`, the gradient still in k-space."""
        spectrum = self._fft.rfft2(x0)
        squared, plain = kernels.kspace_residual_half(
            spectrum, self.operator.slice_shape[1], self._measured[which], self._weight, self.scale, noise
        )
        return spectrum, squared, plain

    def image_of(self, spectrum: Any) -> Any:
        """The transform's adjoint; its inverse times the number of pixels."""
        return self._fft.irfft2(spectrum, s=self.operator.slice_shape, norm="forward")


@final
class _FullSpectrumFidelity(DataFidelity):
    """For complex images: whole spectra."""

    def __init__(self, operator: MaskedFourier, measurement: Any, scale: float):
        super().__init__(operator, measurement, scale)
        self._measured = uncentred(measurement, self.library)[:, None]
        self._weight = uncentred(operator.mask, self.library)
        self._fft = fft_of(self.library)

    @property
    def slices_at_once(self) -> int | None:
        return slices_at_once(self.library, self.operator.data_shape)

    def _terms(self, operator: LinearOperator, x0: Any, which: slice, noise: Any) -> Terms:
        if noise is not None:
            noise = uncentred(noise, self.library)[:, None]
        spectrum, squared, plain = self.gradient_spectrum(x0, which, noise)
        return self.image_of(spectrum), squared, plain

    def gradient_spectrum(self, x0: Any, which: slice, noise: Any = None) -> Terms:
        """`_terms`, the gradient still in k-space."""
        spectrum = self._fft.fft2(x0)
        squared, plain = kernels.kspace_residual(
            spectrum[:, None], self._measured[which], self._weight, self.scale, noise
        )
        return spectrum, squared, plain

    def image_of(self, spectrum: Any) -> Any:
        """The transform's adjoint; its inverse times the number of pixels."""
        return self._fft.ifft2(spectrum, norm="forward")


def _fidelity_of(
    operator: MaskedFourier, measurement: Any, scale: float
) -> _HalfSpectrumFidelity | _FullSpectrumFidelity:
    kind = _HalfSpectrumFidelity if operator.image_dtype == np.float32 else _FullSpectrumFidelity
    return kind(operator, measurement, scale)


@final
class _InverseSpectrum(Proximal):
    """x = z − F⁻¹ (m² + ρ)⁻¹ m (m F z − y): every sample of k-space by itself.

    A real image has one number for k and −k together, whose weight is the mean of the two m².
    """

    def __init__(self, operator: MaskedFourier, measurement: Any):
        super().__init__(operator, measurement)
        h, w = operator.slice_shape
        self._fidelity = _fidelity_of(operator, measurement, 1.0)
        weight = uncentred(operator.mask, self.library).astype(np.float64) ** 2
        if operator.image_dtype == np.float32:
            weight = ((weight + opposite(weight, self.library)) / 2)[:, : w // 2 + 1]
        # Of the unnormalised transform, whose adjoint is its inverse times h·w.
        self._gram = weight * (h * w)

    def _nearest(self, z: Any, rho: float) -> Nearest:
        spectrum, _, squared = self._fidelity.gradient_spectrum(z, slice(0, len(z)))
        seen = self._gram + rho > 0
        inverse = self.library.where(seen, 1 / self.library.where(seen, self._gram + rho, 1.0), 0.0)
        spectrum *= inverse.astype(np.float32)
        return z - self._fidelity.image_of(spectrum), squared
