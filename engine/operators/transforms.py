"""Fourier transforms of the last two axes, by SciPy on the CPU and by CuPy on a GPU."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import scipy.fft

_AXES = (-2, -1)
#: Spectra that are worked on together on the CPU: they go through a transform, a pass over the samples and another
#: transform, and should still be in a cache for the next.
_CACHED_BYTES = 1 << 22


def fft_of(library: ModuleType) -> Any:
    """The module with a library's transforms. SciPy's keep single precision and use one thread, the caller's own."""
    return scipy.fft if library is np else library.fft


def slices_at_once(library: ModuleType, data_shape: tuple[int, ...]) -> int | None:
    """How many slices' spectra fit a cache of the CPU; None, for all, on a GPU."""
    return max(1, _CACHED_BYTES // (8 * math.prod(data_shape))) if library is np else None


def centred(spectra: Any, library: ModuleType) -> Any:
    """Move the zero frequency from (0, 0) to (h // 2, w // 2)."""
    return library.fft.fftshift(spectra, axes=_AXES)


def uncentred(spectra: Any, library: ModuleType) -> Any:
    """Undo `centred`; new, contiguous memory."""
    return library.ascontiguousarray(library.fft.ifftshift(spectra, axes=_AXES))


def opposite(spectra: Any, library: ModuleType) -> Any:
    """What lies at −k, at the place of k; the zero frequency at (0, 0)."""
    return library.roll(library.flip(spectra, _AXES), (1, 1), axis=_AXES)


def spectrum_of(images: Any, library: ModuleType) -> Any:
    """Transform images, unnormalised: complex64 (..., h, w), the zero frequency at (0, 0).

    Of real images only one half is computed, and mirrored: F(−k) is the conjugate of F(k).
    """
    fft = fft_of(library)
    if images.dtype == np.complex64:
        return fft.fft2(images, axes=_AXES)
    half, w = fft.rfft2(images, axes=_AXES), images.shape[-1]
    spectra = library.empty(images.shape, np.complex64)
    spectra[..., : w // 2 + 1] = half
    # Columns −1, −2, … are those of k = 1, 2, …, their rows 0, −1, −2, ….
    mirrored = half[..., (w - 1) // 2 : 0 : -1].conj()
    spectra[..., 0, w // 2 + 1 :] = mirrored[..., 0, :]
    spectra[..., 1:, w // 2 + 1 :] = mirrored[..., :0:-1, :]
    return spectra


def transpose_of(spectra: Any, library: ModuleType, real: bool) -> Any:
    """Apply the conjugate transpose of `spectrum_of`: the inverse transform without its factor 1/(h w).

    For real images, its real part, from the half that is the Hermitian part of the spectra.
    """
    fft = fft_of(library)
    # norm="forward" leaves the inverse unscaled, which makes it the transpose of the unscaled transform.
    if not real:
        return fft.ifft2(spectra, axes=_AXES, norm="forward")
    n_half = spectra.shape[-1] // 2 + 1
    mirrored = opposite(spectra, library)
    half = np.float32(0.5) * (spectra[..., :n_half] + mirrored[..., :n_half].conj())
    return fft.irfft2(half, s=spectra.shape[-2:], axes=_AXES, norm="forward")
