"""Parallel-beam projection of stacks of slices, its exact transpose, and filtered back-projection."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from kernels.arrays import library_of
from kernels.checks import check_array
from kernels.geometry import ParallelGeometry
from kernels.native import native_of

Float32 = npt.NDArray[np.float32]


def check_images(images: Any, geometry: ParallelGeometry) -> None:
    """Raise unless `images` is float32 (n_slices, n, n) of the geometry's n."""
    n = geometry.n
    got: tuple[int, ...] = getattr(images, "shape", ())
    remedy = f"rebuild the geometry for {got[1]} x {got[1]} images" if len(got) == 3 else "pass a stack of slices"
    if len(got) == 3 and got[1] != got[2]:
        remedy = "pad or crop the slices to squares"
    check_array("images", images, ("n", n, n), np.float32, remedy)


def check_sinogram(sinogram: Any, geometry: ParallelGeometry) -> None:
    """Raise unless `sinogram` is float32 (n_slices, n_views, n_bins) of the geometry's sizes."""
    got: tuple[int, ...] = getattr(sinogram, "shape", ())
    remedy = "pass a stack of sinograms"
    if len(got) == 3:
        remedy = f"rebuild the geometry with {got[1]} angles"
        if got[1] == geometry.n_views:
            remedy = f"rebuild the geometry for an image that needs {got[2]} bins"
    check_array("sinogram", sinogram, ("n", geometry.n_views, geometry.n_bins), np.float32, remedy)


def radon_forward(images: Float32, geometry: ParallelGeometry) -> Float32:
    """Sum every slice along the rays of every view; linear in `images`.

    View by view, the padded m x m pixel lattice is rotated about its centre, sampled bilinearly with zeros outside, and
    summed along the rotated rows.

    Parameters
    ----------
    images : float32 (n_slices, n, n), C-contiguous
        Any unit.
    geometry : ParallelGeometry
        Image size and angles.

    Returns
    -------
    float32 (n_slices, n_views, n_bins)
        Line integrals, in image units times pixels.

    Raises
    ------
    TypeError
        `images` is not a NumPy array, or not float32.
    ValueError
        `images` has another rank, size or layout.
    """
    check_images(images, geometry)
    library = library_of(images=images)
    native, context = native_of(library)
    out: Float32 = library.empty((images.shape[0], geometry.n_views, geometry.n_bins), np.float32)
    native.radon_forward(images, geometry.cos_sin, geometry.pad_before, out, context)
    return out


def radon_adjoint(sinogram: Float32, geometry: ParallelGeometry) -> Float32:
    """Apply the exact transpose of `radon_forward` to every slice.

    For all x, y: <radon_forward(x), y> == <x, radon_adjoint(y)> up to rounding of the sums; both use the same float32
    weights. No filter, no scaling; this is not an inverse.

    Parameters
    ----------
    sinogram : float32 (n_slices, n_views, n_bins), C-contiguous
        Line integrals, or residuals of them.
    geometry : ParallelGeometry
        Image size and angles.

    Returns
    -------
    float32 (n_slices, n, n)
        Sinogram units times pixels.

    Raises
    ------
    TypeError
        `sinogram` is not a NumPy array, or not float32.
    ValueError
        `sinogram` has another rank, size or layout.
    """
    check_sinogram(sinogram, geometry)
    library = library_of(sinogram=sinogram)
    native, context = native_of(library)
    out: Float32 = library.empty((sinogram.shape[0], geometry.n, geometry.n), np.float32)
    native.radon_adjoint(sinogram, geometry.cos_sin, geometry.pad_before, out, context)
    return out


def radon_fbp(sinogram: Float32, geometry: ParallelGeometry) -> Float32:
    """Reconstruct every slice by filtered back-projection; linear in `sinogram`, an approximate inverse.

    Ramp filter of each view on a detector padded with zeros, then linear interpolation at every pixel, summed over the
    views and scaled by pi / (2 n_views). Meant for angles spread evenly over half a turn.

    Parameters
    ----------
    sinogram : float32 (n_slices, n_views, n_bins), C-contiguous
        Line integrals, in image units times pixels.
    geometry : ParallelGeometry
        Image size and angles.

    Returns
    -------
    float32 (n_slices, n, n)
        In image units.

    Raises
    ------
    TypeError
        `sinogram` is not a NumPy array, or not float32.
    ValueError
        `sinogram` has another rank, size or layout.
    """
    check_sinogram(sinogram, geometry)
    filtered = filter_ramp(sinogram)
    out = np.empty((sinogram.shape[0], geometry.n, geometry.n), np.float32)
    scale = math.pi / (2 * geometry.n_views)
    native, context = native_of(np)
    native.radon_backproject(filtered, geometry.cos_sin, geometry.pad_before, scale, out, context)
    return out


def filter_ramp(sinogram: Float32) -> Float32:
    """Convolve the last axis with the band-limited ramp filter, zeros beyond both ends.

    Parameters
    ----------
    sinogram : float32 (n_slices, n_views, n_bins)
        Line integrals.

    Returns
    -------
    float32 (n_slices, n_views, n_bins), C-contiguous
        Filtered lines, doubled as the scaling of `radon_fbp` expects.
    """
    n_bins = sinogram.shape[-1]
    response = ramp_response(n_bins)
    n_padded = 2 * (response.size - 1)
    # Doubles: the filter takes differences of neighbours, and the transform is a small part of the time.
    spectrum = scipy.fft.rfft(sinogram.astype(np.float64), n=n_padded, axis=-1)
    filtered = scipy.fft.irfft(spectrum * response, n=n_padded, axis=-1)[..., :n_bins]
    return np.ascontiguousarray(filtered, dtype=np.float32)


@lru_cache(maxsize=8)
def ramp_response(n_bins: int) -> npt.NDArray[np.float64]:
    """Return the frequency response of the ramp filter, built from its samples in space.

    The samples are 1/4 at 0, -1 / (pi k)^2 at odd k, 0 at even k (Kak and Slaney, Principles of Computerized
    Tomographic Imaging, 1988, section 3.3): unlike |f| sampled in frequency they keep the mean right.

    Parameters
    ----------
    n_bins : int
        Detector bins; the filter is as long as the next power of two of at least 2 n_bins, 64 or more.

    Returns
    -------
    float64 (n_padded // 2 + 1,), read-only
        Twice the response, real.
    """
    n_padded = max(64, 1 << (2 * n_bins - 1).bit_length())
    # Distance to sample 0 on a circle; n_padded / 2 is even, so the odd ones are met from both sides.
    k = np.minimum(np.arange(n_padded), n_padded - np.arange(n_padded))
    odd = k % 2 == 1
    samples = np.zeros(n_padded)
    samples[0] = 0.25
    samples[odd] = -1.0 / (np.pi * k[odd]) ** 2
    response = np.asarray(2.0 * scipy.fft.rfft(samples).real, dtype=np.float64)
    response.flags.writeable = False
    return response
