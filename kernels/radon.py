"""Projection of stacks of slices, its exact transpose, and filtered back-projection."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.arrays import library_of
from kernels.checks import check_array
from kernels.filters import FILTERS, filter_sinogram
from kernels.geometry import Geometry
from kernels.native import native_of

Float32 = npt.NDArray[np.float32]


def check_images(images: Any, geometry: Geometry) -> None:
    """Raise unless `images` is float32 (n_slices, n_rows, n_columns) of the geometry's shape."""
    got: tuple[int, ...] = getattr(images, "shape", ())
    remedy = f"rebuild the geometry for {got[1]} x {got[2]} images" if len(got) == 3 else "pass a stack of slices"
    if len(got) == 3 and got[1] != got[2] and geometry.shape[0] == geometry.shape[1]:
        remedy = "pad or crop the slices to squares"
    check_array("images", images, ("n", *geometry.shape), np.float32, remedy)


def check_sinogram(sinogram: Any, geometry: Geometry) -> None:
    """Raise unless `sinogram` is float32 (n_slices, n_views, n_bins) of the geometry's sizes."""
    got: tuple[int, ...] = getattr(sinogram, "shape", ())
    remedy = "pass a stack of sinograms"
    if len(got) == 3:
        remedy = f"rebuild the geometry with {got[1]} angles"
        if got[1] == geometry.n_views:
            remedy = f"rebuild the geometry for a detector of {got[2]} bins"
    check_array("sinogram", sinogram, ("n", geometry.n_views, geometry.n_bins), np.float32, remedy)


def radon_forward(images: Float32, geometry: Geometry) -> Float32:
    """Sum every slice along the rays of every view; linear in `images`.

    Samples lie one pixel apart on each ray and are interpolated bilinearly, with zeros outside the image. For
    `ParallelGeometry` this is: rotate the padded pixel lattice about its centre and sum along the rotated rows.

    Parameters
    ----------
    images : float32 (n_slices, n_rows, n_columns), C-contiguous, NumPy or CuPy
        Any unit.
    geometry : Geometry
        Image size, detector and angles.

    Returns
    -------
    float32 (n_slices, n_views, n_bins)
        Line integrals, in image units times pixels; same library and device as `images`.

    Raises
    ------
    TypeError
        `images` is not an array, or not float32.
    ValueError
        `images` has another rank, size or layout.
    """
    check_images(images, geometry)
    library = library_of(images=images)
    native, context = native_of(library)
    n_slices = images.shape[0]
    out: Float32 = library.empty((n_slices, geometry.n_views, geometry.n_bins), np.float32)
    scratch = library.empty(native.radon_forward_scratch(n_slices, *geometry.shape), np.float32)
    native.radon_forward(images, geometry.tables(library), scratch, out, context)
    return out


def radon_adjoint(sinogram: Float32, geometry: Geometry) -> Float32:
    """Apply the exact transpose of `radon_forward` to every slice.

    For all x, y: <radon_forward(x), y> == <x, radon_adjoint(y)> up to rounding of the sums; both use the same float32
    weights. No filter, no scaling; this is not an inverse.

    Parameters
    ----------
    sinogram : float32 (n_slices, n_views, n_bins), C-contiguous, NumPy or CuPy
        Line integrals, or residuals of them.
    geometry : Geometry
        Image size, detector and angles.

    Returns
    -------
    float32 (n_slices, n_rows, n_columns)
        Sinogram units times pixels; same library and device as `sinogram`.

    Raises
    ------
    TypeError
        `sinogram` is not an array, or not float32.
    ValueError
        `sinogram` has another rank, size or layout.
    """
    check_sinogram(sinogram, geometry)
    library = library_of(sinogram=sinogram)
    native, context = native_of(library)
    n_slices = sinogram.shape[0]
    out: Float32 = library.empty((n_slices, *geometry.shape), np.float32)
    scratch = library.empty(native.radon_adjoint_scratch(n_slices, *sinogram.shape[1:]), np.float32)
    native.radon_adjoint(sinogram, geometry.tables(library), scratch, out, context)
    return out


def radon_fbp(sinogram: Float32, geometry: Geometry, window: str = "ramp") -> Float32:
    """Reconstruct every slice by filtered back-projection; linear in `sinogram`, an approximate inverse.

    Filter each view on a detector padded with zeros, then interpolate linearly at every pixel and sum over the views.
    Views count by the angle that they stand for, and samples of one line share it (`kernels.redundancy`): angles need
    not be even, a fan may turn less than once, and a detector may see one side alone in a whole turn.

    Parameters
    ----------
    sinogram : float32 (n_slices, n_views, n_bins), C-contiguous, NumPy or CuPy
        Line integrals, in image units times pixels.
    geometry : Geometry
        Image size, detector and angles.
    window : "ramp" or "hann"
        The ramp filter as it is, or damped by a Hann window that falls to zero at the detector's Nyquist frequency:
        less noise, less sharp.

    Returns
    -------
    float32 (n_slices, n_rows, n_columns)
        In image units; same library and device as `sinogram`.

    Raises
    ------
    TypeError
        `sinogram` is not an array, or not float32.
    ValueError
        `sinogram` has another rank, size or layout; an unknown window.
    """
    check_sinogram(sinogram, geometry)
    if window not in FILTERS:
        raise ValueError(f"window: expected one of {', '.join(FILTERS)}, got {window!r}; choose one of these")
    library = library_of(sinogram=sinogram)
    native, context = native_of(library)
    n_slices = sinogram.shape[0]
    out: Float32 = library.empty((n_slices, *geometry.shape), np.float32)
    if geometry.n_views == 0:
        out[...] = 0
        return out
    filtered, scale, geometry = filter_sinogram(sinogram, geometry, window, library)
    scratch = library.empty(native.radon_adjoint_scratch(n_slices, *filtered.shape[1:]), np.float32)
    native.radon_backproject(filtered, geometry.tables(library), scale, scratch, out, context)
    return out
