"""How close a reconstruction is to the truth."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from skimage.metrics import structural_similarity

from engine.errors import InputError
from engine.volume import NAMED_PLANES, Plane

#: PSNR of identical images, in dB, where the formula gives infinity, which JSON has no word for; nothing exceeds it.
PSNR_CAP_DB = 100.0
#: Part of white above which a voxel is no air.
TISSUE = 0.1
#: Side of scikit-image's default SSIM window, in pixels.
_WINDOW = 7
#: Its smallest.
_FEWEST_VOXELS = 3


def psnr(truth: np.ndarray, estimate: np.ndarray, data_range: float) -> float:
    """Return the peak signal-to-noise ratio, 10 log10(data_range² / mean squared error), at most `PSNR_CAP_DB`.

    Parameters
    ----------
    truth, estimate : array, equal shapes
        Any rank; the mean runs over all elements, in float64.
    data_range : float
        Peak signal, in the units of `truth`; positive.

    Returns
    -------
    float
        dB; always finite.

    Raises
    ------
    InputError
        Different shapes, empty, NaN or infinite values, or a data range that is not positive and finite.
    """
    _check(truth, estimate)
    _check_range(data_range)
    return _psnr(np.asarray(truth, dtype=np.float64), np.asarray(estimate, dtype=np.float64), data_range)


def tissue_psnr(truth: np.ndarray, estimate: np.ndarray) -> float:
    """PSNR of the head, in dB, with the data range of the whole truth: air, which is easy, does not count.

    The head is what is brighter than `TISSUE`, two voxels around it, and holes within.

    Parameters
    ----------
    truth, estimate : float32 (d0, d1, d2)
        White about 1.

    Raises
    ------
    InputError
        As `psnr`; also a truth without tissue.
    """
    _check(truth, estimate)
    head = ndimage.binary_fill_holes(ndimage.binary_dilation(truth > TISSUE, iterations=2))
    return psnr(truth[head], estimate[head], float(np.ptp(truth)))


def per_plane(truth: np.ndarray, estimate: np.ndarray) -> dict:
    """Compare two volumes as a whole and slice by slice along the three named planes.

    The data range of every figure is that of `truth` over the whole volume, max − min. A plane's PSNR is the mean of
    its slices' PSNR in dB, not the PSNR of their mean error; its SSIM is the mean of its slices' mean SSIM. Slices
    whose truth is zero everywhere are left out. Neither argument is clipped.

    Parameters
    ----------
    truth, estimate : float32 (d0, d1, d2)
        Axes (x, y, z); every axis at least 3 long.

    Returns
    -------
    dict
        ``psnr_db`` of the whole volume, ``data_range``, and for each of ``axial``, ``coronal`` and ``sagittal`` a dict
        of ``psnr_db``, ``ssim`` and ``n_slices``, the number averaged. Finite Python numbers: valid JSON.

    Raises
    ------
    InputError
        As `psnr`; also a rank other than 3, an axis too short, or a constant truth.

    Notes
    -----
    SSIM is scikit-image's default (Wang et al. 2004 with K1 0.01, K2 0.03): a uniform window of 7 × 7 pixels, or of the
    largest odd side that fits where a slice is smaller, and sample covariances.
    """
    _check(truth, estimate)
    check_truth(truth.shape)
    truth, estimate = np.asarray(truth, dtype=np.float64), np.asarray(estimate, dtype=np.float64)
    data_range = float(truth.max() - truth.min())
    if data_range == 0:
        raise InputError("truth", "varying intensities", "a constant volume", "check the file")
    figures: dict = {"psnr_db": _psnr(truth, estimate, data_range), "data_range": data_range}
    for name, axes in NAMED_PLANES.items():
        plane = Plane(axes)
        pairs = [pair for pair in zip(plane.slices_of(truth), plane.slices_of(estimate), strict=True) if pair[0].any()]
        figures[name] = {
            "psnr_db": float(np.mean([_psnr(*pair, data_range) for pair in pairs])),
            "ssim": float(np.mean([_ssim(*pair, data_range) for pair in pairs])),
            "n_slices": len(pairs),
        }
    return figures


def check_truth(shape: tuple[int, ...]) -> None:
    """Refuse a truth that `per_plane` could not compare with.

    Raises
    ------
    InputError
        A rank other than 3, or an axis too short for SSIM's windows.
    """
    if len(shape) != 3 or min(shape) < _FEWEST_VOXELS:
        raise InputError(
            "truth",
            f"a volume with at least {_FEWEST_VOXELS} voxels along every axis",
            f"shape {shape}",
            "compare larger volumes",
        )


def _psnr(truth: np.ndarray, estimate: np.ndarray, data_range: float) -> float:
    error = math.sqrt(float(np.mean((truth - estimate) ** 2)))
    if error == 0:
        return PSNR_CAP_DB
    return min(20 * math.log10(data_range / error), PSNR_CAP_DB)


def _ssim(truth: np.ndarray, estimate: np.ndarray, data_range: float) -> float:
    side = min(truth.shape)
    window = min(_WINDOW, side - (side + 1) % 2)
    return float(structural_similarity(truth, estimate, data_range=data_range, win_size=window))


def _check(truth: np.ndarray, estimate: np.ndarray) -> None:
    if truth.shape != estimate.shape:
        raise InputError("estimate", f"the truth's shape {truth.shape}", estimate.shape, "compare volumes on one grid")
    if truth.size == 0:
        raise InputError("truth", "at least one value", f"shape {truth.shape}", "give a volume")
    for name, values in (("truth", truth), ("estimate", estimate)):
        if not np.isfinite(values).all():
            n_bad = int((~np.isfinite(values)).sum())
            raise InputError(name, "finite values", f"{n_bad} NaN or infinite ones", "check the run")


def _check_range(data_range: float) -> None:
    if not (math.isfinite(data_range) and data_range > 0):
        raise InputError("data_range", "a positive, finite number", data_range, "give the truth's max minus its min")
