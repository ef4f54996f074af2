"""How much noise a measurement holds: known, stated, or estimated from the measurement and its operator alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch
from math import comb

import numpy as np
from scipy.stats import median_abs_deviation

from engine.errors import InputError
from engine.operators import (
    CoilFourier,
    ConeBeam,
    LinearOperator,
    MaskedFourier,
    Radon,
    Stacks,
    ThickSlices,
    VolumeOperator,
    Weighted,
    WeightedVolume,
)
from engine.operators.transforms import opposite, uncentred
from engine.sampling.problem import InverseProblem

log = logging.getLogger("engine")

#: Values from which an estimate is taken at least: its standard error is then a tenth of it.
_ENOUGH = 150
#: Part of the samples that counts as far from the centre of k-space.
_FAR = 0.2
#: Of the levels of single slices the one that this part of them falls below: some slices hold little but air.
_QUIET = 0.1
#: Part of the samples' deviation that is noise, above which nothing can be seen in it: nine tenths of the variance.
_ALL_NOISE = 0.95
#: Part of the samples' mean that the noise of images without signal is at least: it is 0.52 of magnitudes of noise.
_PART_OF_NOISE = 0.3
#: Differences of this order leave noise and little of an image that its neighbours' pixels foretell.
_ORDER = 3


def with_noise_level(problem: InverseProblem, level: float | str) -> InverseProblem:
    """Return the problem with a noise level, and what the run's record says of it.

    Parameters
    ----------
    problem : InverseProblem
        With a measurement, in NumPy arrays.
    level : float or str
        "known": its own, by its simulation, its file or a noise scan in that. "estimate": see `estimated`. A number: as
        a part of the root mean square of the samples: of a simulation those without noise, which is how noise is
        simulated.

    Raises
    ------
    InputError
        Another word, a number that is negative or not finite, no measurement, or too few samples to estimate from.
    """
    if problem.operator is None or problem.measurement is None:
        raise InputError(
            "noise-level",
            "a task with a measurement",
            f"{problem.name}, on which it has no effect",
            "drop --noise-level",
        )
    if isinstance(level, str):
        if level not in ("known", "estimate"):
            raise InputError("noise-level", "known, estimate or a number", f"'{level}'", "choose one")
        value = problem.noise_level if level == "known" else estimated(problem.operator, problem.measurement)
        source = "noise scan" if level == "known" and "noise_scan" in problem.details else level
        if level == "estimate" and isinstance(problem.operator, (ThickSlices, Stacks)):
            _warn_without_signal(value, problem.measurement)
    else:
        if not (np.isfinite(level) and level >= 0):
            raise InputError("noise-level", "a number of at least 0", level, "0.01 is one per cent")
        value, source = level * problem.sample_rms, "stated"
    return replace(
        problem, noise_level=value, details={**problem.details, "noise_level": value, "noise_level_source": source}
    )


def _warn_without_signal(level: float, slices: np.ndarray) -> None:
    """Warn where thick slices are noise and nothing else."""
    samples = slices[slices != 0]
    spread = float(samples.std()) if samples.size else 0.0
    # Tissue may be of one intensity; magnitudes of noise have a deviation of half their mean.
    if level > _ALL_NOISE * spread > 0 and level > _PART_OF_NOISE * abs(float(samples.mean())):
        log.warning(
            "the measurement looks like noise alone: its level, %.3g of white, leaves nothing of the samples' own "
            "deviation, %.3g; what is reconstructed from it is invented",
            *(level, spread),
        )


def estimated(operator: LinearOperator | VolumeOperator, measurement: np.ndarray) -> float:
    """Estimate the standard deviation of white noise in the samples, of the real and the imaginary part each.

    Combinations of samples in which every image (or at least every smooth one) cancels hold noise alone; their median
    absolute deviation is not moved by the few in which an edge is left. Which ones depends on the operator:

    - k-space of real images: y(k) − conj y(−k), where both were taken: exact, zero without noise;
    - k-space of complex images, or of several coils: the outermost fifth of the samples, in the tenth of the slices
      that hold least there. What the image has at such frequencies counts as noise;
    - sinograms: rays that miss the image, if there are enough: exact, zero without noise; else third differences from
      bin to bin and from slice to slice;
    - projections of a cone beam: third differences along lines and bins: rays past the volume may meet what lies beyond
      its first or last slice;
    - thick slices, of one stack or several: third differences along both of the other axes, where no sample is zero: a
      background that was set to zero afterwards holds no noise. In the demonstration they find up to a sixth too much
      for noise of 1 % of the samples' root mean square, and less than a tenth for 2 %.

    Noise is taken for equally strong everywhere.

    Parameters
    ----------
    operator : LinearOperator or VolumeOperator
    measurement : array (n, *operator.data_shape) of operator.data_dtype, or (operator.n_samples,), NumPy

    Returns
    -------
    float
        In units of the samples.

    Raises
    ------
    InputError
        An operator of another kind, or too few samples.

    Source: Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, Biometrika 1994 (the median absolute
    deviation of finest details).
    """
    operator.check_data("measurement", measurement)
    return _level(operator, measurement)


@singledispatch
def _level(operator: LinearOperator | VolumeOperator, y: np.ndarray) -> float:
    raise InputError(
        "noise-level",
        "k-space, a sinogram or thick slices to estimate from",
        f"{type(operator).__name__}",
        "give the level as a number",
    )


@_level.register
def _(operator: MaskedFourier, y: np.ndarray) -> float:
    if operator.image_dtype == np.float32:
        pairs = _asymmetric(operator.mask, y)
        if pairs.size >= _ENOUGH:
            return _deviation(pairs)
    return _far_from_centre(operator.mask, y)


@_level.register
def _(operator: CoilFourier, y: np.ndarray) -> float:
    return _far_from_centre(operator.mask, y)


@_level.register
def _(operator: Radon, y: np.ndarray) -> float:
    ones = np.ones((1, *operator.slice_shape), np.float32)
    missing = y[:, operator.apply(ones)[0] == 0]
    # From slice to slice and along the detector: from view to view a sparse sinogram is not smooth.
    return _deviation(missing if missing.size >= _ENOUGH else _differences(y, (0, 2)))


@_level.register
def _(operator: ConeBeam, y: np.ndarray) -> float:
    return _deviation(_differences(operator.projections_of(y), (1, 2)))


@_level.register
def _(operator: Stacks, y: np.ndarray) -> float:
    levels = [
        _of_slices(part, one.geometry.slice_axis)
        for part, one in zip(operator.parts_of(y), operator.stacks, strict=True)
    ]
    # One for all: the same scanner as a rule.
    return float(np.sqrt(np.mean(np.square(levels))))


@_level.register(Weighted)
@_level.register(WeightedVolume)
def _(operator: Weighted | WeightedVolume, y: np.ndarray) -> float:
    # Its noise is equally strong everywhere, which the other's is not.
    return _level(operator.inner, y)


@_level.register
def _(operator: ThickSlices, y: np.ndarray) -> float:
    return _of_slices(y, operator.axis)


def _of_slices(y: np.ndarray, through: int) -> float:
    """From third differences within thick slices that follow each other along an axis."""
    axes = [axis for axis in range(3) if axis != through]
    differences = _differences(y, axes)
    # A background that was set to zero holds no noise, and would hide what there is in the head.
    inside = differences[_without_zeros(y, axes)]
    return _deviation(inside if inside.size >= _ENOUGH else differences)


def _asymmetric(mask: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What of k-space is not a real image's: real numbers, each with the deviation of a sample's part."""
    spectra, weight = uncentred(y, np).astype(np.complex128), uncentred(mask, np).astype(np.float64)
    opposite_weight = opposite(weight, np)
    index = np.arange(weight.size).reshape(weight.shape)
    # Each pair once; a sample that is its own opposite has no other.
    pairs = (weight > 0) & (opposite_weight > 0) & (index < opposite(index, np))
    one, other = weight[pairs], opposite_weight[pairs]
    difference = (other * spectra[:, pairs] - one * opposite(spectra, np).conj()[:, pairs]) / np.hypot(one, other)
    return np.concatenate([difference.real.ravel(), difference.imag.ravel()])


def _far_from_centre(mask: np.ndarray, y: np.ndarray) -> float:
    """The level in the quietest slices of the samples far from the centre."""
    rows, columns = ((np.arange(n) - n // 2) / n for n in mask.shape)
    distance = np.hypot(rows[:, None], columns)
    taken = distance[mask > 0]
    _check(taken.size)
    far = (mask > 0) & (distance >= np.quantile(taken, 1 - _FAR))
    samples = y[..., far].reshape(len(y), -1)
    parts = np.concatenate([samples.real, samples.imag], axis=1)
    _check(parts.size)
    return float(np.quantile(median_abs_deviation(parts, axis=1, scale="normal"), _QUIET))


def _differences(y: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Differences along every one of some axes, each with the deviation of a sample."""
    differences = y.astype(np.float64)
    for axis in axes:
        order = min(_ORDER, y.shape[axis] - 1)
        # Squares of binomial coefficients sum to this one.
        differences = np.diff(differences, order, axis) / np.sqrt(comb(2 * order, order))
    return differences


def _without_zeros(y: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Of every one of `_differences` whether none of its samples is zero."""
    kept = y != 0
    for axis in axes:
        order = min(_ORDER, y.shape[axis] - 1)
        kept = np.lib.stride_tricks.sliding_window_view(kept, order + 1, axis).all(axis=-1)
    return kept


def _deviation(values: np.ndarray) -> float:
    _check(values.size)
    return float(median_abs_deviation(values, axis=None, scale="normal"))


def _check(n: int) -> None:
    if n < _ENOUGH:
        raise InputError(
            "noise-level",
            f"at least {_ENOUGH} values of the measurement to estimate from",
            n,
            "give the level as a number",
        )
