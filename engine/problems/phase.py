"""The slowly varying phase of an image, estimated from the centre of k-space."""

from __future__ import annotations

import numpy as np
import scipy.fft

from engine.errors import InputError

#: Half the width of the centre that is used, in samples beside the zero frequency: phase of lower resolution than that
#: is followed, noise and edges are not.
_HALF_WIDTH = 16
#: A centre of 5 × 5 samples follows little more than a slope across the image.
_LEAST_HALF_WIDTH = 2


def estimate_phase(
    data: np.ndarray, mask: np.ndarray, maps: np.ndarray | None = None, *, half_width: int = _HALF_WIDTH
) -> np.ndarray:
    """Estimate the phase φ with which x = m·exp(iφ) of a real image m explains k-space.

    It is that of the image at low resolution: of the fully sampled centre of k-space under a Hann window. The phase is
    assumed to vary slowly, over no less than the image's width over `half_width`; where it jumps, as at borders between
    water and fat, or in vessels by their flow, m has to be signed, or does not explain the data. For k-space of a real,
    positive image φ is 0 where there is signal, up to rounding.

    Parameters
    ----------
    data : complex64 (n_slices, h, w), or (n_slices, n_coils, h, w) with `maps`
        In the convention of `MaskedFourier` or `CoilFourier`.
    mask : float32 (h, w)
        0 where nothing was sampled.
    maps : complex64 (n_slices, n_coils, h, w) or (n_coils, h, w), or None
        Sensitivities S_c; coil images are combined by Σ conj(S_c). φ is the phase that these do not explain.
    half_width : int
        Samples on each side of the zero frequency that are used, at most, along rows and columns.

    Returns
    -------
    float32 (n_slices, h, w)
        φ in radians, in (−π, π]; 0 where no coil sees anything.

    Raises
    ------
    InputError
        Shapes that do not fit, coils without maps, or a fully sampled centre of less than 5 × 5.

    Source
    ------
    Noll, Nishimura, Macovski, "Homodyne detection in magnetic resonance imaging", IEEE TMI 10:154 (1991). With several
    coils: Willig-Onwuachi et al., "Phase-constrained parallel MR image reconstruction", JMR 176:187 (2005).
    """
    n_axes = 3 if maps is None else 4
    if data.ndim != n_axes or data.shape[-2:] != mask.shape or not _fits(maps, data):
        raise InputError(
            "kspace",
            "(n_slices, h, w), or (n_slices, n_coils, h, w) with maps of its coils and pixels",
            f"{data.shape}, a mask {mask.shape} and maps {None if maps is None else maps.shape}",
            "give maps for coils",
        )
    rows, columns = _centre(mask, half_width)
    h, w = mask.shape
    window = np.zeros((h, w), np.float32)
    window[h // 2 - rows : h // 2 + rows + 1, w // 2 - columns : w // 2 + columns + 1] = _hann(rows)[:, None] * _hann(
        columns
    )
    phase = np.empty((len(data), h, w), np.float32)
    for i, samples in enumerate(data):
        images = scipy.fft.ifft2(np.fft.ifftshift(samples * window, axes=(-2, -1)), overwrite_x=True)
        if maps is not None:
            images = (images * (maps if maps.ndim == 3 else maps[i]).conj()).sum(axis=0)
        phase[i] = np.angle(images)
    return phase


def _fits(maps: np.ndarray | None, data: np.ndarray) -> bool:
    return maps is None or maps.shape == data.shape[-3:] or maps.shape == data.shape


def _hann(half: int) -> np.ndarray:
    k = np.arange(-half, half + 1)
    return 0.5 + 0.5 * np.cos(np.pi * k / (half + 1))


def _worth(half: tuple[int, int]) -> tuple[int, int]:
    """Of two rectangles the larger one is better, but not where it is too thin to be used."""
    return min(*half, _LEAST_HALF_WIDTH), (2 * half[0] + 1) * (2 * half[1] + 1)


def _centre(mask: np.ndarray, at_most: int) -> tuple[int, int]:
    """Half the height and width of the largest fully sampled rectangle about the zero frequency."""
    h, w = mask.shape
    # As many on both sides of zero: a window that is not symmetric would give real images a phase.
    limit = min(at_most, (h - 1) // 2), min(at_most, (w - 1) // 2)
    holes = mask[h // 2 - limit[0] : h // 2 + limit[0] + 1, w // 2 - limit[1] : w // 2 + limit[1] + 1] == 0
    best, columns = (-1, -1), limit[1]
    for rows in range(limit[0] + 1):
        part = holes[limit[0] - rows : limit[0] + rows + 1].any(axis=0)
        distances = abs(np.flatnonzero(part) - limit[1])
        columns = min(columns, int(distances.min()) - 1 if len(distances) else columns)
        best = max(best, (rows, columns), key=_worth)
    if min(best) < _LEAST_HALF_WIDTH:
        n = 2 * _LEAST_HALF_WIDTH + 1
        raise InputError(
            "mask",
            f"a fully sampled centre of at least {n} x {n} samples to estimate the image's phase",
            f"{max(0, 2 * best[0] + 1)} x {max(0, 2 * best[1] + 1)}",
            "choose --phase none for a real image",
        )
    return best
