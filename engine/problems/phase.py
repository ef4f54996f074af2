"""The slowly varying phase of an image, estimated from the centre of k-space."""

from __future__ import annotations

import numpy as np
import scipy.fft

from engine.errors import InputError

#: Half the width of the centre that is used, in samples beside the zero frequency: phase of lower resolution than that
#: is followed, noise and edges are not.
_HALF_WIDTH = 16
#: A sample away from zero is the echo if it holds this many times what is held at zero or beside it. In an ellipse the
#: strongest one is zero itself for a quadratic phase of 1.5π across it, and holds 52 times as much where the echo is
#: three samples off; in scanned tubes 2.5 to 6.5 times, two to four samples off.
_ECHO = 4.0
#: A centre of 5 × 5 samples follows little more than a slope across the image.
_LEAST_HALF_WIDTH = 2


def estimate_phase(
    data: np.ndarray,
    mask: np.ndarray,
    maps: np.ndarray | None = None,
    *,
    half_width: int = _HALF_WIDTH,
    least_half_width: int = _LEAST_HALF_WIDTH,
) -> np.ndarray:
    """Estimate the phase φ with which x = m·exp(iφ) of a real image m explains k-space.

    It is that of the image at low resolution: of the fully sampled centre of k-space under a Hann window. The centre is
    the echo: the zero frequency, or the sample that holds by far the most where an echo is off it, which turns the
    phase as many times across the image. The phase is
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
        Samples on each side of the centre that are used, at most, along rows and columns.
    least_half_width : int
        And at least; 0 is enough where the phase is a start alone.

    Returns
    -------
    float32 (n_slices, h, w)
        φ in radians, in (−π, π]; 0 where no coil sees anything.

    Raises
    ------
    InputError
        Shapes that do not fit, coils without maps, or a fully sampled centre that is too small, of less than 5 × 5.

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
    row, column = _echo(data)
    rows, columns = _centre(mask, (row, column), half_width, least_half_width)
    window = np.zeros(mask.shape, np.float32)
    inner = np.s_[row - rows : row + rows + 1, column - columns : column + columns + 1]
    window[inner] = _hann(rows)[:, None] * _hann(columns)
    phase = np.empty((len(data), *mask.shape), np.float32)
    for i, samples in enumerate(data):
        images = scipy.fft.ifft2(np.fft.ifftshift(samples * window, axes=(-2, -1)), overwrite_x=True)
        if maps is not None:
            images = (images * (maps if maps.ndim == 3 else maps[i]).conj()).sum(axis=0)
        phase[i] = np.angle(images)
    return phase


def echo_is_whole(data: np.ndarray, mask: np.ndarray) -> bool:
    """Whether an echo off the zero frequency was sampled with its neighbours; without them its middle may be missing.

    Parameters
    ----------
    data, mask
        As in `estimate_phase`.
    """
    row, column = _echo(data)
    if (row, column) == (mask.shape[0] // 2, mask.shape[1] // 2):
        return True
    return bool(mask[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].all())


def _echo(data: np.ndarray) -> tuple[int, int]:
    """The sample about which a scan's strongest ones lie: the zero frequency, unless another one holds much more."""
    h, w = data.shape[-2:]
    power = np.zeros((h, w))
    for samples in data:
        power += (abs(samples) ** 2).reshape(-1, h, w).sum(axis=0)
    row, column = (int(i) for i in np.unravel_index(power.argmax(), power.shape))
    # The neighbours of zero hold much of what a slow phase moves, and a window about zero holds both.
    middle = power[max(0, h // 2 - 1) : h // 2 + 2, max(0, w // 2 - 1) : w // 2 + 2].max()
    return (row, column) if power[row, column] > _ECHO * middle else (h // 2, w // 2)


def _fits(maps: np.ndarray | None, data: np.ndarray) -> bool:
    return maps is None or maps.shape == data.shape[-3:] or maps.shape == data.shape


def _hann(half: int) -> np.ndarray:
    k = np.arange(-half, half + 1)
    return 0.5 + 0.5 * np.cos(np.pi * k / (half + 1))


def _worth(half: tuple[int, int]) -> tuple[int, int]:
    """Of two rectangles the larger one is better, but not where it is too thin to be used."""
    return min(*half, _LEAST_HALF_WIDTH), (2 * half[0] + 1) * (2 * half[1] + 1)


def _centre(mask: np.ndarray, echo: tuple[int, int], at_most: int, at_least: int) -> tuple[int, int]:
    """Half the height and width of the largest fully sampled rectangle about the echo."""
    (h, w), (row, column) = mask.shape, echo
    # As many on both sides: a window that is not symmetric would give real images a phase.
    limit = min(at_most, row, h - 1 - row), min(at_most, column, w - 1 - column)
    holes = mask[row - limit[0] : row + limit[0] + 1, column - limit[1] : column + limit[1] + 1] == 0
    best, columns = (-1, -1), limit[1]
    for rows in range(limit[0] + 1):
        part = holes[limit[0] - rows : limit[0] + rows + 1].any(axis=0)
        distances = abs(np.flatnonzero(part) - limit[1])
        columns = min(columns, int(distances.min()) - 1 if len(distances) else columns)
        best = max(best, (rows, columns), key=_worth)
    if min(best) < at_least:
        n = 2 * at_least + 1
        raise InputError(
            "mask",
            f"a fully sampled centre of at least {n} x {n} samples to estimate the image's phase",
            f"{max(0, 2 * best[0] + 1)} x {max(0, 2 * best[1] + 1)}",
            "choose --phase none for a real image" + (", or --phase joint" if at_least else ""),
        )
    return best
