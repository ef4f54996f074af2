"""Sensitivities of receiver coils: estimated from k-space, read from a file, or simulated."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.io.guard import MAX_BYTES
from engine.io.measurements.kspace_axes import centre
from engine.io.measurements.kspace_data import KSpace
from engine.io.measurements.maps import read_maps
from engine.io.source import Source

#: Samples along a side of the kernels, the usual number.
_KERNEL = 6
#: Below this the calibration region holds too few kernels to tell signal from noise.
_LEAST_CALIBRATION = 2 * _KERNEL


def espirit(
    kspace_data: np.ndarray,
    mask: np.ndarray,
    *,
    calibration_width: int = 24,
    crop: float = 0.95,
    max_iterations: int = 100,
) -> np.ndarray:
    """Estimate sensitivities from the fully sampled centre of k-space, slice by slice.

    Where something is seen, Σ|S_c|² = 1; where nothing is, outside the object, S = 0. The phase that all coils have in
    common cannot be known: here it is such that the combination of coils that sees most of the slice is real.

    Parameters
    ----------
    kspace_data : complex64 (n_slices, n_coils, h, w)
        In the convention of `CoilFourier`.
    mask : float32 (h, w)
        0 where nothing was sampled.
    calibration_width : int
        Samples along a side of the square around the zero frequency that is used, at most; fewer where the fully
        sampled centre is smaller.
    crop : float
        From 0 to 1: S is zero where the eigenvalue that stands for consistent signal falls below.
    max_iterations : int
        Of the power method that finds the eigenvectors.

    Returns
    -------
    complex64 (n_slices, n_coils, h, w)

    Raises
    ------
    InputError
        Arrays that do not fit, fewer than two coils, a fully sampled centre of less than 12 × 12, or no sigpy.

    Source
    ------
    Uecker et al., "ESPIRiT — an eigenvalue approach to autocalibrating parallel MRI", MRM 71:990 (2014), as sigpy has
    it. The common phase as in BART's `ecalib`.
    """
    if kspace_data.ndim != 4 or kspace_data.shape[2:] != mask.shape or kspace_data.shape[1] < 2:
        raise InputError(
            "kspace",
            f"(n_slices, n_coils, {', '.join(map(str, mask.shape))}) of at least 2 coils",
            kspace_data.shape,
            "estimate maps from a scan of several coils",
        )
    width, shifts = _calibration(mask, calibration_width)
    app = _sigpy("ESPIRiT").mri.app.EspiritCalib
    maps = np.zeros(kspace_data.shape, np.complex64)
    for samples, found in zip(kspace_data, maps, strict=True):
        peak = abs(samples).max()
        if not peak > 0:
            continue
        # sigpy transforms about the middle of the image, and takes the middle of k-space: moving that there turns all
        # coils alike.
        centred = np.roll(centre(samples / peak), shifts, (-2, -1))
        with np.errstate(divide="ignore", invalid="ignore"):  # its first coil can see nothing somewhere
            raw, eigenvalues = app(
                centred,
                calib_width=width,
                kernel_width=_KERNEL,
                crop=0.0,
                max_iter=max_iterations,
                output_eigenvalue=True,
                show_pbar=False,
            ).run()
        raw = np.where(np.isfinite(raw) & (eigenvalues > crop), raw, 0)
        found[:] = _normalised(raw * _common_phase(raw, centred, width))
    return maps


def load_maps(path: str | Path, kspace: KSpace, *, argument: str = "coil-maps") -> np.ndarray:
    """Read sensitivities on the grid of a file with k-space, and bring them to that of the samples.

    They lie as the images do that the file's `kspace` is the transform of: whatever was done to these, whose axes were
    swapped, reversed and cropped, is done to the maps.

    Parameters
    ----------
    path : path
        .npy, or HDF5 (.h5, .hdf5) with a dataset `maps`; complex (n_slices, n_coils, rows, columns), rows along the
        readout, with or without its oversampling, columns along the phase encoding. Of ISMRMRD files: slices, or
        partitions, in the order of their numbers. BART's .cfl: the same in its own order of axes.
    kspace : KSpace
        As `load_kspace` read it, of several coils.
    argument : str
        What errors call the file.

    Returns
    -------
    complex64 (n_slices, n_coils, h, w)
        As `kspace.data`.

    Raises
    ------
    InputError
        K-space of one coil; nothing there, unreadable, of another shape or type, not finite, or all zero.
    """
    if not kspace.is_multicoil:
        raise InputError(argument, "k-space of several coils", "that of one", "drop --coil-maps")
    n_coils, grid = kspace.data.shape[1], kspace.file_grid
    maps = read_maps(Source(Path(path), argument), [kspace.data.shape] if grid is None else grid.shapes(n_coils))
    return maps if grid is None else grid.brought(maps)


def simulated(n_coils: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Sensitivities of coils on a ring around the volume, Σ|S_c|² = 1 everywhere.

    Parameters
    ----------
    n_coils : int
        At least 1. More than 8 lie on several rings.
    shape : (int, int, int)
        (n_slices, h, w).

    Returns
    -------
    complex64 (n_slices, n_coils, h, w)

    Raises
    ------
    InputError
        Numbers below 1, more than fits 8 GiB, or no sigpy.
    """
    if n_coils < 1 or len(shape) != 3 or min(shape) < 1 or 8 * n_coils * math.prod(shape) > MAX_BYTES:
        raise InputError(
            "coils",
            f"at least 1 coil for (n_slices, h, w), within {MAX_BYTES} bytes",
            f"{n_coils} for {shape}",
            "ask for fewer",
        )
    birdcage = _sigpy("simulated coils").mri.birdcage_maps
    n_slices, h, w = shape
    if n_slices == 1:
        # A ring in the plane of the slice itself.
        maps = birdcage((n_coils, h, w), dtype=np.complex64)[None]
    else:
        maps = birdcage((n_coils, n_slices, h, w), nzz=min(8, n_coils), dtype=np.complex64).swapaxes(0, 1)
    return np.ascontiguousarray(_normalised(maps))


def _sigpy(what: str) -> ModuleType:
    try:
        import sigpy.mri
    except ImportError as error:
        raise InputError(
            "coil-maps",
            f"sigpy for {what}",
            "none",
            "`pip install -c constraints.txt -e '.[mri]'` or give maps in a file",
        ) from error
    return sigpy


def _calibration(mask: np.ndarray, at_most: int) -> tuple[int, tuple[int, int]]:
    """Side of the largest square around the zero frequency that was sampled whole, and how far it has to move for its
    middle to be there.

    An even number of samples has one more on one side of zero than on the other; on which, the direction of the axis
    decides.
    """
    h, w = mask.shape
    width, shifts = 0, (0, 0)
    for side in range(1, min(h, w, at_most) + 1):
        longer = range(1 - side % 2 + 1)
        found = [(i, j) for i in longer for j in longer if _is_whole(mask, side, (i, j))]
        if not found:
            break
        width, shifts = side, found[0]
    if width < _LEAST_CALIBRATION:
        raise InputError(
            "mask",
            (
                f"a fully sampled centre of at least {_LEAST_CALIBRATION} x {_LEAST_CALIBRATION} samples to "
                "estimate coil maps"
            ),
            f"{width} x {width}",
            "give maps with --coil-maps",
        )
    return width, (-shifts[0], -shifts[1])


def _is_whole(mask: np.ndarray, side: int, shifts: tuple[int, int]) -> bool:
    """Whether a square was sampled whole, its middle moved on from the zero frequency."""
    rows, columns = (
        slice(max(0, n // 2 - side // 2 + shift), n // 2 - side // 2 + shift + side)
        for n, shift in zip(mask.shape, shifts, strict=True)
    )
    part = mask[rows, columns]
    return part.shape == (side, side) and bool((part != 0).all())


def _common_phase(maps: np.ndarray, centred: np.ndarray, width: int) -> np.ndarray:
    """exp(iθ) of every pixel that makes the combination of coils that sees most of the slice real."""
    (h, w), half = centred.shape[1:], width // 2
    inner = centred[:, h // 2 - half : h // 2 - half + width, w // 2 - half : w // 2 - half + width]
    left, _, _ = np.linalg.svd(inner.reshape(len(inner), -1), full_matrices=False)
    combined = np.einsum("c,chw->hw", left[:, 0].conj(), maps)
    size = abs(combined)
    return np.where(size > 0, combined.conj() / np.where(size > 0, size, 1), 1)


def _normalised(maps: np.ndarray) -> Any:
    """Maps whose squares sum to 1, or are all 0, over the coils, the axis before the last two."""
    size = np.linalg.norm(maps, axis=-3, keepdims=True)
    return (maps / np.where(size > 0, size, 1)).astype(np.complex64)
