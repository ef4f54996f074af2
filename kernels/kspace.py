"""Residuals of k-space samples with their norms in one pass, and multiplication by coil sensitivities."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.arrays import library_of
from kernels.checks import check_array, check_integer
from kernels.native import native_of

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Complex64 = npt.NDArray[np.complex64]


def kspace_residual(
    spectrum: Complex64, measured: Complex64, weight: Float32, scale: float = 1.0, noise: Complex64 | None = None
) -> tuple[Float64, Float64]:
    """Replace spectra by scale · weight · r and return the norms of r and d, every slice's by itself.

    d = weight · spectrum - measured, r = scale · d - noise. All samples lie in the transform's own order, the zero
    frequency first. Norms are summed in float64, always in the same order.

    Parameters
    ----------
    spectrum : complex64 (n_slices, n_copies, n_rows, n_columns), C-contiguous
        Transforms of every slice, one a coil; overwritten.
    measured : complex64, shape of `spectrum`, C-contiguous
    weight : float32 (n_rows, n_columns), C-contiguous
    scale : float
        Rounded to float32 first.
    noise : complex64, shape of `spectrum`, C-contiguous, or None
        None leaves it out.

    Returns
    -------
    scaled, plain : float64 (n_slices,)
        Σ|r|² and Σ|d|².

    Raises
    ------
    TypeError
        Something that is no array, of another dtype, or of another library.
    ValueError
        Another shape or layout.
    """
    library = library_of(spectrum=spectrum, measured=measured, weight=weight, noise=noise)
    check_array("spectrum", spectrum, ("n", "copies", "rows", "columns"), np.complex64, "pass one transform a coil")
    n_slices, n_copies, n_rows, n_columns = spectrum.shape
    check_array("measured", measured, spectrum.shape, np.complex64, "pass one measurement a sample")
    check_array("weight", weight, (n_rows, n_columns), np.float32, "pass one weight a sample of a transform")
    if noise is not None:
        check_array("noise", noise, spectrum.shape, np.complex64, "pass one value a sample")
    native, context = native_of(library)
    norms: Float64 = library.empty(native.kspace_norms(n_slices, n_copies, n_rows, n_columns), np.float64)
    native.kspace_residual(spectrum, measured, noise, weight, scale, norms, context)
    return norms[:n_slices], norms[n_slices : 2 * n_slices]


def kspace_residual_half(
    spectrum: Complex64,
    n_full: int,
    measured: Complex64,
    weight: Float32,
    scale: float = 1.0,
    noise: Complex64 | None = None,
) -> tuple[Float64, Float64]:
    """Do what `kspace_residual` does for spectra of real images, of which one half says everything.

    What is left in `spectrum` is half of the Hermitian part of scale · weight · r: its inverse real transform is the
    real part of the whole one's. The norms are those of the whole.

    Every sample k of the half stands for two, k and -k. Where -k lies in the half itself, in the columns of the zero
    and the highest frequency, its second entries in `measured`, `noise` and `weight` must be zero; `half_of` makes such
    arrays.

    Parameters
    ----------
    spectrum : complex64 (n_slices, n_rows, n_full // 2 + 1), C-contiguous
        As of a real transform, the zero frequency first; overwritten.
    n_full : int
        Columns of the image.
    measured : complex64 (n_slices, 2, n_rows, n_full // 2 + 1), C-contiguous
        At k, and the conjugate at -k.
    weight : float32 (2, n_rows, n_full // 2 + 1), C-contiguous
        At k and at -k.
    scale, noise
        As in `kspace_residual`; the noise in the shape of `measured`.

    Returns
    -------
    scaled, plain : float64 (n_slices,)
        Σ|r|² and Σ|d|² over the whole spectra.

    Raises
    ------
    TypeError, ValueError
        As `kspace_residual`.
    """
    library = library_of(spectrum=spectrum, measured=measured, weight=weight, noise=noise)
    n_full = check_integer("n_full", n_full, 1, 1 << 31)
    half = n_full // 2 + 1
    check_array("spectrum", spectrum, ("n", "rows", half), np.complex64, f"pass real transforms of {n_full} columns")
    n_slices, n_rows, _ = spectrum.shape
    pairs = (n_slices, 2, n_rows, half)
    check_array("measured", measured, pairs, np.complex64, "pass kernels.half_of(measurement)")
    check_array("weight", weight, pairs[1:], np.float32, "pass kernels.half_of(weight)")
    if noise is not None:
        check_array("noise", noise, pairs, np.complex64, "pass kernels.half_of(noise)")
    native, context = native_of(library)
    norms: Float64 = library.empty(native.kspace_norms(n_slices, 1, n_rows, half), np.float64)
    native.kspace_residual_half(spectrum, n_full, measured, noise, weight, scale, norms, context)
    return norms[:n_slices], norms[n_slices : 2 * n_slices]


def half_of(full: Any) -> Any:
    """Arrange values of whole spectra as `kspace_residual_half` takes them.

    Parameters
    ----------
    full : float32 or complex64 (..., n_rows, n_columns)
        The zero frequency first.

    Returns
    -------
    array (..., 2, n_rows, n_columns // 2 + 1), C-contiguous
        The value at k, and the conjugate of that at -k, or zero where -k lies in the half itself.

    Raises
    ------
    TypeError
        Not an array.
    ValueError
        Fewer than two axes, or an empty spectrum.
    """
    library = library_of(full=full)
    if full.ndim < 2 or 0 in full.shape[-2:]:
        raise ValueError(f"full: expected (..., rows, columns), got {full.shape}; pass spectra of at least one sample")
    n_rows, n_columns = full.shape[-2:]
    n_half = n_columns // 2 + 1
    pairs = library.zeros((*full.shape[:-2], 2, n_rows, n_half), full.dtype)
    pairs[..., 0, :, :] = full[..., :n_half]
    paired = (n_columns + 1) // 2
    # Row -k of row k: the first stays, the others turn round.
    mirrored = full[..., n_columns - 1 : n_columns - paired : -1].conj()
    pairs[..., 1, 0, 1:paired] = mirrored[..., 0, :]
    pairs[..., 1, 1:, 1:paired] = mirrored[..., :0:-1, :]
    return pairs


def coil_expand(images: Any, maps: Complex64) -> Complex64:
    """Multiply every image by the sensitivity of every coil.

    Parameters
    ----------
    images : float32 or complex64 (n_slices, n_rows, n_columns), C-contiguous
    maps : complex64 (n_coils, n_rows, n_columns) or (n_slices, n_coils, n_rows, n_columns), C-contiguous
        Shared by all slices, or of every slice.

    Returns
    -------
    complex64 (n_slices, n_coils, n_rows, n_columns)

    Raises
    ------
    TypeError, ValueError
        As `kspace_residual`.
    """
    library = library_of(images=images, maps=maps)
    dtype = np.complex64 if images.dtype == np.complex64 else np.float32
    check_array("images", images, ("n", "rows", "columns"), dtype, "pass a stack of images")
    n_slices, n_rows, n_columns = images.shape
    _check_maps(maps, n_slices, n_rows, n_columns)
    out: Complex64 = library.empty((n_slices, maps.shape[-3], n_rows, n_columns), np.complex64)
    native, context = native_of(library)
    native.coil_expand(images, maps, out, context)
    return out


def coil_combine(coils: Complex64, maps: Complex64, real: bool) -> Any:
    """Sum every coil's image times the conjugate of its sensitivity: the transpose of `coil_expand`.

    Parameters
    ----------
    coils : complex64 (n_slices, n_coils, n_rows, n_columns), C-contiguous
    maps : complex64
        As in `coil_expand`.
    real : bool
        Return the real part, as the transpose for real images demands.

    Returns
    -------
    float32 (if `real`) or complex64 (n_slices, n_rows, n_columns)

    Raises
    ------
    TypeError, ValueError
        As `kspace_residual`.
    """
    library = library_of(coils=coils, maps=maps)
    check_array("coils", coils, ("n", "coils", "rows", "columns"), np.complex64, "pass one image a coil")
    n_slices, n_coils, n_rows, n_columns = coils.shape
    _check_maps(maps, n_slices, n_rows, n_columns)
    if maps.shape[-3] != n_coils:
        raise ValueError(
            f"maps: expected {n_coils} coils as in coils, got {maps.shape[-3]}; pass the sensitivity of every coil"
        )
    out = library.empty((n_slices, n_rows, n_columns), np.float32 if real else np.complex64)
    native, context = native_of(library)
    native.coil_combine(coils, maps, out, context)
    return out


def _check_maps(maps: Any, n_slices: int, n_rows: int, n_columns: int) -> None:
    shape: tuple[int | str, ...] = ("coils", n_rows, n_columns)
    if getattr(maps, "ndim", 0) == 4:
        shape = (n_slices, *shape)
    check_array("maps", maps, shape, np.complex64, "pass the sensitivity of every coil at every pixel")
