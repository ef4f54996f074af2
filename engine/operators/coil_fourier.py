"""Masked 2D Fourier transform as several coils see it: parallel MRI."""

from __future__ import annotations

import copy
from typing import Any, cast, final

import numpy as np

import kernels
from engine.device import Device
from engine.operators.data_fidelity import DataFidelity, Terms
from engine.operators.fourier import checked_image_dtype, checked_mask, without_weights
from engine.operators.linear_operator import LinearOperator
from engine.operators.transforms import (
    centred,
    fft_of,
    slices_at_once,
    spectrum_of,
    transpose_of,
    uncentred,
)
from kernels.arrays import library_of

#: Parts of the most that coils together see of a pixel: from which on it is seen like others, and up to which hardly.
_EVEN, _UNSEEN = 0.5, 0.01


class CoilFourier(LinearOperator):
    """y_c = mask · fftshift(fft2(S_c · x)) of every coil c, in the convention of `MaskedFourier`.

    Parameters
    ----------
    mask : float32 (h, w)
        As in `MaskedFourier`; the same for all coils.
    maps : complex64 (n_coils, h, w) or (n_slices, n_coils, h, w)
        S, the coils' sensitivities: for all slices, or for each slice of the stack.
    image_dtype : dtype
        float32, or complex64 for images with a phase.

    Raises
    ------
    TypeError
        Mask or maps are no arrays, or of two libraries.
    ValueError
        The mask as in `MaskedFourier`; maps of another rank, type or size, or with values that are not finite.
    """

    def __init__(self, mask: Any, maps: Any, image_dtype: type = np.float32):
        library = library_of(mask=mask, maps=maps)
        self.mask = checked_mask(mask)
        h, w = self.mask.shape
        if maps.ndim not in (3, 4) or maps.shape[-2:] != (h, w) or 0 in maps.shape[-3:] or maps.dtype != np.complex64:
            raise ValueError(
                f"maps: expected (n_coils, {h}, {w}) or (n_slices, n_coils, {h}, {w}) complex64, got {maps.shape} "
                f"{maps.dtype}; pass one sensitivity a coil and pixel of the mask's size"
            )
        if not bool(library.isfinite(maps).all()):
            raise ValueError("maps: expected finite values, got others; set 0 where a coil sees nothing")
        self.maps = library.ascontiguousarray(maps)
        n_slices = maps.shape[0] if maps.ndim == 4 else None
        data_shape = (maps.shape[-3], h, w)
        super().__init__((h, w), data_shape, np.complex64, checked_image_dtype(image_dtype), library, n_slices)
        self._uneven = self._unevenness()

    @property
    def data_axes(self) -> tuple[str, ...]:
        return "coils", "k-space rows", "k-space columns"

    def at(self, which: slice) -> CoilFourier:
        if self.n_slices is None:
            return self
        # Shares all but the maps, which have been checked.
        part = copy.copy(self)
        part.maps = self.maps[which]
        part._uneven = None if self._uneven is None else self._uneven[which]
        part.n_slices = len(part.maps)
        return part

    def on(self, device: Device) -> CoilFourier:
        return CoilFourier(device.put(self.mask), device.put(self.maps), self.image_dtype)

    def of_complex_images(self) -> CoilFourier:
        return CoilFourier(self.mask, self.maps, np.complex64)

    def of_real_images(self) -> CoilFourier:
        return CoilFourier(self.mask, self.maps)

    def with_mask(self, mask: Any) -> CoilFourier:
        """Return the operator that takes other samples."""
        return CoilFourier(mask, self.maps, self.image_dtype)

    def fidelity(self, measurement: Any, scale: float = 1.0) -> DataFidelity:
        return _CoilFidelity(self, measurement, scale)

    def normal_diagonal(self) -> Any:
        return self._uneven

    def _unevenness(self) -> Any:
        """The diagonal of AᴴA, but for pixels that hardly any coil sees; None where coils together see all alike."""
        seen = (abs(self.maps) ** 2).sum(axis=-3)
        most = seen.max()
        # Where maps are normalised, and nothing is to be gained.
        is_even = (seen >= most * np.float32(_EVEN)) | (seen <= most * np.float32(_UNSEEN))
        if bool(is_even.all()):
            return None
        return self.library.maximum(seen, most * np.float32(_UNSEEN)) * np.float32((self.mask**2).sum())

    def _apply(self, x: Any) -> Any:
        return self.mask * centred(spectrum_of(kernels.coil_expand(x, self.maps), self.library), self.library)

    def _adjoint(self, y: Any) -> Any:
        return self._combined(self.mask * y)

    def _classical(self, y: Any) -> Any:
        """Zero-filled coil images, combined by the sensitivities: Σ conj(S_c) F⁻¹ y_c / Σ |S_c|², weights undone."""
        h, w = self.slice_shape
        seen = (abs(self.maps) ** 2).sum(axis=-3)
        # Where no coil sees anything the sum above it is zero too.
        sees = seen >= np.finfo(np.float32).tiny
        seen = self.library.where(sees, seen, np.float32(1)) * np.float32(h * w)
        return self.library.where(sees, self._combined(without_weights(y, self.mask)) / seen, np.float32(0))

    def _combined(self, y: Any) -> Any:
        coils = transpose_of(uncentred(y, self.library), self.library, real=False)
        return kernels.coil_combine(coils, self.maps, self.image_dtype == np.float32)


@final
class _CoilFidelity(DataFidelity):
    """Coil images are complex, whatever the image: whole spectra."""

    def __init__(self, operator: CoilFourier, measurement: Any, scale: float):
        super().__init__(operator, measurement, scale)
        self._measured = uncentred(measurement, self.library)
        self._weight = uncentred(operator.mask, self.library)
        self._fft = fft_of(self.library)
        self._is_real = operator.image_dtype == np.float32
        # CuPy has no such argument: its plans reuse memory by themselves.
        self._in_place = {"overwrite_x": True} if self.library is np else {}

    @property
    def slices_at_once(self) -> int | None:
        return slices_at_once(self.library, self.operator.data_shape)

    def _terms(self, operator: LinearOperator, x0: Any, which: slice, noise: Any) -> Terms:
        maps = cast(CoilFourier, operator).maps
        spectra = self._fft.fft2(kernels.coil_expand(x0, maps), **self._in_place)
        if noise is not None:
            noise = uncentred(noise, self.library)
        squared, plain = kernels.kspace_residual(spectra, self._measured[which], self._weight, self.scale, noise)
        coils = self._fft.ifft2(spectra, norm="forward", **self._in_place)
        return kernels.coil_combine(coils, maps, self._is_real), squared, plain
