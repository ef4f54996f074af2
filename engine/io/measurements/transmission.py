"""From what a detector counted to line integrals: flat and dark fields, and the logarithm."""

from __future__ import annotations

import logging

import numpy as np

from engine.errors import InputError
from engine.io.source import Source

log = logging.getLogger("engine")

#: What a ray is taken to let through where the detector counted no more than without a beam.
_LEAST = 1e-4
#: Part of the detector at either end that counts as its border, of its bins that counts as its middle, and part of the
#: values' range by which one is brighter than the other.
_BORDER, _MIDDLE, _BRIGHTER = 1 / 32, 1 / 2, 0.05
#: Line integrals that let e^-20 of a beam through.
_LARGEST = 20.0
#: Transmissions of air exceed 1 by noise.
_MOST = 1.2


def is_bright_at_border(values: np.ndarray) -> bool:
    """Whether rays past an object have larger values than rays through it: no logarithm has been taken.

    Parameters
    ----------
    values : array (n_slices, n_views, n_bins)
    """
    n = values.shape[-1]
    n_border, n_aside = _border_of(n), round(n * (1 - _MIDDLE) / 2)
    if n < 3 * n_border:
        return False
    low, high = np.quantile(values, [0.01, 0.99])
    ends = (float(np.mean(values[..., end], dtype=np.float64)) for end in (slice(n_border), slice(n - n_border, n)))
    middle = float(np.mean(values[..., n_aside : n - n_aside], dtype=np.float64))
    # At both ends: half a beam has one of them in the object.
    return bool(min(ends) > middle + _BRIGHTER * (high - low))


def border(values: np.ndarray) -> np.ndarray:
    """The bins at both ends of the detector, (n_slices, n_views, n)."""
    n = _border_of(values.shape[-1])
    return np.concatenate([values[..., :n], values[..., -n:]], axis=-1)


def corrected(
    counts: np.ndarray, flat: np.ndarray | None, dark: np.ndarray | None, source: Source, *, mend: bool = False
) -> np.ndarray:
    """Return the part of the beam that came through, (counts − dark) / (flat − dark).

    Parameters
    ----------
    counts : array (n_slices, n_views, n_bins) of real numbers
    flat, dark : float64 (n_slices, n_bins) or None
        With an open beam and without any; no dark field counts as zero.
    source : Source
    mend : bool
        Bins whose flat field is not above the dark one are interpolated from their neighbours.

    Returns
    -------
    float32 (n_slices, n_views, n_bins)

    Raises
    ------
    InputError
        A field that is not finite, or bins whose flat field is not above the dark one.
    """
    if flat is None:
        raise source.refusal("a flat field beside the dark one", "none", "do without both by --flats none")
    dark = np.zeros_like(flat) if dark is None else dark
    if not (np.isfinite(flat).all() and np.isfinite(dark).all()):
        raise source.refusal("finite flat and dark fields", "NaN or infinite values", "pass --flats none --minus-log")
    above = flat - dark
    bad = above <= 0
    if 2 * bad.sum() > bad.size:
        got = f"a darker or equal one in {int(bad.sum())} of {bad.size} bins"
        raise source.refusal("a flat field above the dark one", got, "pass --flats none --minus-log to do without both")
    if bad.any() and not mend:
        zeros = f", {int((flat == 0).sum())} of them zeros," if (flat == 0).any() else ""
        got = f"none in {int(bad.sum())} of {bad.size} bins{zeros}"
        raise source.refusal("a flat field above the dark one", got, "interpolate them with --flats mend")
    out = np.empty(counts.shape, np.float32)
    bins = np.arange(counts.shape[-1])
    for target, values, here, below, wrong in zip(out, counts, above, dark, bad, strict=True):
        if wrong.all():
            raise source.refusal("a row of the detector with bins to interpolate from", "none", "leave it out")
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            target[...] = (values - below) / np.where(wrong, 1, here)
        if wrong.any():
            for view in target:
                view[wrong] = np.interp(bins[wrong], bins[~wrong], view[~wrong])
    return out


def open_beam(values: np.ndarray) -> float:
    """Return what a ray that meets nothing counts: 1 for transmissions, else what both ends of the detector see.

    Raises
    ------
    InputError
        The object covers the border.
    """
    if np.quantile(values, 0.999) <= _MOST:
        return 1.0
    if not is_bright_at_border(values):
        expected = "values of at most 1, or counts that are largest at both ends of the detector, where air is"
        got = "neither"
        raise InputError("minus-log", expected, got, "state the counts of an open beam with --open-beam")
    return float(np.median(border(values)))


def minus_log(values: np.ndarray, beam: float, source: Source) -> np.ndarray:
    """Return −log(values / beam), float32, and warn of values that have no logarithm.

    Raises
    ------
    InputError
        Hardly any value is positive.
    """
    part = np.asarray(values, np.float32) / np.float32(beam)
    # NaN is for whoever checks the result to report.
    n_dark = int((part <= 0).sum())
    if 2 * n_dark > part.size:
        got = f"{n_dark} of {part.size} that are not"
        raise source.refusal("positive values, of which there are logarithms", got, "drop --minus-log")
    if n_dark:
        log.warning(
            "%s: %d of %d samples are at or below the dark field: they count as a transmission of %g; "
            "line integrals there are guesses",
            *(source.path, n_dark, part.size, _LEAST),
        )
    integrals: np.ndarray = -np.log(np.maximum(part, np.float32(_LEAST)))
    return integrals


def weights_of(integrals: np.ndarray, flat: np.ndarray | None, dark: np.ndarray | None) -> np.ndarray:
    """Return the inverse variance of each line integral's noise, where that is photons', but for a factor.

    Of I photons −log I has a variance of about 1 / I.

    Parameters
    ----------
    integrals : array (n_slices, n_views, n_bins)
        Logarithms, without a unit.
    flat, dark : float64 (n_slices, n_bins) or None
        As in `corrected`.

    Returns
    -------
    float32 (n_slices, n_views, n_bins)
        Of mean 1.

    Raises
    ------
    InputError
        Integrals of a size that no logarithm of counts has.
    """
    largest = float(np.max(integrals))
    if not largest < _LARGEST:
        expected = f"logarithms of counts, which are less than {_LARGEST:g}, to weigh by them"
        raise InputError("weights", expected, f"{largest:g}", "drop --weights, or scale the line integrals")
    weights = np.exp(-np.asarray(integrals, np.float64))
    if flat is not None:
        light = flat - (0 if dark is None else dark)
        weights *= np.maximum(light, 0)[:, None]
    weights = np.maximum(weights, _LEAST * float(weights.mean()))
    return (weights / weights.mean()).astype(np.float32)


def _border_of(n_bins: int) -> int:
    return max(1, round(n_bins * _BORDER))
