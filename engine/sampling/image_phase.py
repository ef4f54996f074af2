"""The phase of an image whose magnitude a prior knows: taken from the estimates themselves."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from engine.operators.transforms import fft_of, slices_at_once
from kernels.arrays import library_of

#: Standard deviation of the Gaussian that an estimate is smoothed with, in pixels, over its noise level. On a person's
#: brain at 1 mm, one coil, with a phase of 4 rad within few pixels: of none, 3.5, 5, 7 and 10 pixels the best within
#: 0.4 dB, sampled five-fold in two dimensions (30.6 dB; none 28.9) and three-fold in lines (24.2 dB; none 23.6). Half a
#: pixel at the end costs residual and gains nothing.
_PIXELS_PER_LEVEL = 7.0
#: Standard deviations beyond which nothing is left of it to speak of.
_TRUNCATED = 4.0


def phase_of(image: Any, sigma: float) -> Any:
    """The phase of an image that is known up to errors of a noise level.

    It is that of the image under a Gaussian window, wide while errors are large, and narrow in the end: a phase that
    changes within a pixel is found, and errors, which have none in common with their neighbours, are not taken for it.

    Parameters
    ----------
    image : complex64 (n, h, w), NumPy or CuPy
    sigma : float
        In units of image intensity.

    Returns
    -------
    float32 (n, h, w)
        In radians, in (−π, π].
    """
    library, width = library_of(image=image), _PIXELS_PER_LEVEL * sigma
    # Mirrored: tissue at one border has nothing to do with that at the other, and going round costs 2 dB there.
    margin = ceil(_TRUNCATED * width)
    shape = tuple(n + 2 * margin for n in image.shape[1:])
    window = library.asarray(_window(shape, width))
    inner = slice(margin, shape[0] - margin), slice(margin, shape[1] - margin)
    fft, phase = fft_of(library), library.empty(image.shape, np.float32)
    n = slices_at_once(library, shape) or max(1, len(image))
    for first in range(0, len(image), n):
        part = slice(first, first + n)
        wide = library.pad(image[part], ((0, 0), (margin, margin), (margin, margin)), mode="symmetric")
        phase[part] = library.angle(fft.ifft2(fft.fft2(wide) * window)[:, inner[0], inner[1]])
    return phase


def turned(slices: Any, phase: Any) -> Any:
    """Slices times exp(iφ): complex64 (n, h, w), of real or complex ones."""
    library = library_of(slices=slices)
    return (slices * library.exp(np.complex64(1j) * phase)).astype(np.complex64)


def magnitude_along(image: Any, phase: Any) -> Any:
    """Re(x exp(−iφ)): float32 (n, h, w), the magnitude where φ is the phase of x."""
    return library_of(image=image).ascontiguousarray(turned(image, -phase).real)


def _window(shape: tuple[int, ...], width_px: float) -> np.ndarray:
    """What a Gaussian of that standard deviation does to spectra of images, the zero frequency at (0, 0).

    Its values at whole pixels count: below a third of a pixel nothing is left of it but the middle one, and images stay
    as they are. The transform of a continuous Gaussian would go on smoothing there.
    """
    rows, columns = (_spectrum(n, width_px) for n in shape)
    return (rows[:, None] * columns).astype(np.float32)


def _spectrum(n: int, width_px: float) -> np.ndarray:
    """Of a Gaussian along a periodic axis, whose values sum to one: real, float64 (n,)."""
    distance = np.minimum(np.arange(n), n - np.arange(n))
    values = np.exp(-0.5 * (distance / max(width_px, 1e-3)) ** 2)
    return np.asarray(np.fft.fft(values / values.sum()).real)
