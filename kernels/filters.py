"""The filters of filtered back-projection."""

from __future__ import annotations

import math
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from kernels.geometry import FanGeometry, Geometry
from kernels.redundancy import bins_beyond, redundancy_weights, widened
from kernels.threads import get_threads

FILTERS = ("ramp", "hann")

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def filter_sinogram(
    sinogram: Float32, geometry: Geometry, window: str, library: ModuleType
) -> tuple[Float32, float, Geometry]:
    """Weight and filter every view, zeros beyond both ends of the detector.

    Parameters
    ----------
    sinogram : float32 (n_slices, n_views, n_bins)
        Line integrals.
    geometry : Geometry
    window : "ramp" or "hann"
    library : module
        numpy or cupy, that of `sinogram`.

    Returns
    -------
    filtered : float32 (n_slices, n_views, n), C-contiguous
    scale : float
        What their back-projection is to be multiplied with.
    geometry : Geometry
        Of what is filtered: of n bins, more than there are on a detector that sees one side alone.

    Notes
    -----
    Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, sections 3.3 (parallel) and 3.4 (fan).
    """
    _, per_pixel, per_radian, _ = geometry.shadow
    before, after = bins_beyond(geometry)
    n_bins = geometry.n_bins + before + after
    weights, scale = np.ones(geometry.n_bins), math.pi / geometry.n_views * per_pixel
    angular_step = 0.0
    if isinstance(geometry, FanGeometry):
        # Every line is seen twice in a whole turn: pi again, and not two; `redundancy` is relative to that.
        weights = np.cos(geometry.bin_angles_rad)
        if geometry.curved:
            angular_step = 1 / per_radian
            scale = math.pi / geometry.n_views * per_radian / geometry.source_distance
    redundancy = redundancy_weights(geometry)
    if redundancy is not None:
        weights = weights * redundancy
    # Doubles: the filter takes differences of neighbours, and the transform is a small part of the time.
    weighted = sinogram * library.asarray(weights)
    if before or after:
        weighted = library.pad(weighted, ((0, 0), (0, 0), (before, after)))
    filtered = filter_detector_lines(weighted, window, library, angular_step)
    if n_bins > geometry.n_bins:
        geometry = widened(geometry, before, after)
    return library.ascontiguousarray(filtered, dtype=np.float32), scale, geometry


def filter_detector_lines(lines: Any, window: str, library: ModuleType, angular_step_rad: float = 0.0) -> Any:
    """Filter along the last axis, zeros beyond both ends; see `filter_response`."""
    n_bins = lines.shape[-1]
    response = filter_response(n_bins, window, angular_step_rad)
    n_padded = 2 * (response.size - 1)
    fft: Any = scipy.fft if library is np else library.fft
    options = {"workers": get_threads()} if library is np else {}
    spectrum = fft.rfft(lines, n=n_padded, axis=-1, **options) * library.asarray(response)
    return fft.irfft(spectrum, n=n_padded, axis=-1, **options)[..., :n_bins]


@lru_cache(maxsize=8)
def filter_response(n_bins: int, window: str, angular_step_rad: float = 0.0) -> Float64:
    """Return the frequency response of a filter for bins one unit apart, built from its samples in space.

    The samples of the ramp are 1/4 at 0, -1 / (pi k)^2 at odd k, 0 at even k: unlike |f| sampled in frequency they keep
    the mean right. For a curved detector they are divided by (sin(k step) / (k step))^2.

    Parameters
    ----------
    n_bins : int
        Detector bins; the filter is as long as the next power of two of at least 2 n_bins, 64 or more.
    window : "ramp" or "hann"
    angular_step_rad : float
        Angle between the bins of a curved detector, else 0.

    Returns
    -------
    float64 (n_padded // 2 + 1,), read-only
    """
    n_padded = max(64, 1 << (2 * n_bins - 1).bit_length())
    # Distance to sample 0 on a circle; n_padded / 2 is even, so the odd ones are met from both sides.
    k = np.minimum(np.arange(n_padded), n_padded - np.arange(n_padded))
    odd = k % 2 == 1
    samples = np.zeros(n_padded)
    samples[0] = 0.25
    # Bins further apart than the detector is long never meet; there the sine might vanish.
    flattened = np.sinc(np.where(k < n_bins, k, 0) * angular_step_rad / np.pi)
    samples[odd] = -1.0 / (np.pi * k[odd] * flattened[odd]) ** 2
    response = np.asarray(scipy.fft.rfft(samples).real, dtype=np.float64)
    if window == "hann":
        response *= 0.5 + 0.5 * np.cos(np.pi * np.arange(response.size) / (response.size - 1))
    response.flags.writeable = False
    return response
