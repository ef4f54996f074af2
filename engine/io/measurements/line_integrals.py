"""From the values of a file to line integrals, and to the fields of a geometry that tell where they run."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.io.checks import MAX_VOXELS
from engine.io.measurements.geometry import angles_of, is_cone, n_angles_of
from engine.io.measurements.projections import Projections
from engine.io.measurements.sinogram_geometry import add_angles, complete, set_centre, set_unit
from engine.io.measurements.sinogram_options import Reading
from engine.io.measurements.transmission import corrected, is_bright_at_border, minus_log, open_beam, weights_of
from engine.io.source import Source
from kernels.geometry import LARGEST_DETECTOR

#: More than any scanner makes: 8 GiB as float32, volumes of 1024 cubed.
_MAX_SAMPLES, _MAX_VIEWS = 2**31, 100_000


@dataclass(frozen=True, eq=False)
class LineIntegrals:
    """What a file holds.

    Parameters
    ----------
    values : array (n, n_views, n_bins) of real numbers
        Integrals along rays, in image units times mm; of n slices, or of n lines of a cone beam's detector.
    weights : float32 of the same shape or None
        Inverse variances of the samples' noise, but for a factor; their mean is 1. None: all are alike.
    fields : dict
        Of the geometry, completed by what file and options say.
    angles_in_file : bool
        Whether angles were read from the measurement's file.
    details : dict
        What was found out, for the plan and the record.
    """

    values: np.ndarray
    weights: np.ndarray | None
    fields: dict[str, Any]
    angles_in_file: bool
    details: dict[str, Any]

    def thinned(self, step: int) -> LineIntegrals:
        """The same with every `step`-th view alone."""
        if step == 1:
            return self
        fields = {**self.fields, "angles_deg": angles_of(self.fields, *self.values.shape[1:])[::step]}
        fields.pop("angles_rad", None)
        weights = None if self.weights is None else self.weights[:, ::step]
        return replace(self, values=self.values[:, ::step], weights=weights, fields=fields)


def line_integrals(
    stored: Projections, source: Source, fields: dict[str, Any], how: Reading, *, has_geometry: bool = True
) -> LineIntegrals:
    """Return what a detector counted, or what was made of it, as line integrals.

    Parameters
    ----------
    stored : Projections
    source : Source
        Where they came from.
    fields : dict
        Of the geometry.
    how : Reading
    has_geometry : bool
        Whether there is a geometry; else that of a parallel beam is made.

    Raises
    ------
    InputError
        As `engine.io.measurements.sinogram.load_sinogram`, but for what only the whole geometry tells.
    """
    fields = dict(fields)
    angles_in_file = add_angles(fields, stored, how)
    axes = ("lines" if is_cone(fields) else "slices", "views", "bins")
    values, flat, dark = _in_order(stored, n_angles_of(fields), how, axes, source)
    _check(values, axes, source)
    n_views, n_bins = values.shape[1:]
    if how.turn is not None:
        fields["angles_deg"] = {"first": 0, "last_excluded": how.turn, "count": n_views}
    if not has_geometry:
        complete(fields, n_bins, how)
    elif how.bin_mm is not None:
        raise InputError("bin-mm", "no --geometry beside it, which has bin_spacing_mm", how.bin_mm, "drop one of them")
    set_unit(fields, n_views, n_bins, how)
    values = _integrals(values, flat, dark, how, source)
    weights = weights_of(values, flat, dark) if how.weights == "counts" else None
    found = set_centre(fields, values, how, has_geometry=has_geometry)
    details: dict[str, Any] = {} if found is None else {"centre_bin": round(found, 2)}
    details |= {} if weights is None else {"weights": how.weights}
    return LineIntegrals(values, weights, fields, angles_in_file, details)


def scale_into(target: np.ndarray, values: np.ndarray, pixel_mm: float, source: Source) -> None:
    """Divide integrals along mm by the side of a pixel, part by part along the first axis.

    Parameters
    ----------
    target : float32
    values : array of its shape
    pixel_mm : float
    source : Source

    Raises
    ------
    InputError
        Values that are not finite as float32, or constant.
    """
    # What float32 cannot hold becomes infinite and is reported below.
    with np.errstate(over="ignore", invalid="ignore"):
        for part, lines in zip(target, values, strict=True):
            part[...] = np.true_divide(lines, pixel_mm, dtype=np.float64)
    if not np.isfinite(target).all():
        n_bad = int((~np.isfinite(target)).sum())
        raise source.refusal("finite float32 values", f"{n_bad} NaN or infinite ones", "replace them before the run")
    if target.min() == target.max():
        raise source.refusal("line integrals that vary", f"{target.min():g} everywhere", "check the file")


def check_voxels(shape: tuple[int, int, int], source: Source) -> None:
    """Refuse a volume (n_slices, n_rows, n_columns) that is too large to be reconstructed.

    Raises
    ------
    InputError
    """
    if math.prod(shape) > MAX_VOXELS:
        got = f"{math.prod(shape)} of {shape[0]} slices of {shape[1:]}"
        raise source.refusal(f"at most {MAX_VOXELS} voxels", got, "take fewer slices or a smaller image")


def _in_order(
    stored: Projections, n_angles: int | None, how: Reading, axes: tuple[str, ...], source: Source
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Values along these axes, a view of what is stored, with flat and dark field (first axis, bins)."""
    values = stored.values
    if how.axes:
        if sorted(how.axes) != sorted(axes):
            got = f"'{','.join(how.axes)}'"
            expected = f"{axes[0]}, views and bins in the order of the file"
            raise InputError("axes", expected, got, "give each of them once")
        if values.ndim != 3:
            raise InputError("axes", "an array of three axes", f"{values.ndim} in '{source.path}'", "drop --axes")
        return values.transpose([how.axes.index(name) for name in axes]), stored.flat, stored.dark
    if values.ndim == 2 and axes[0] == "slices":
        return values[None], stored.flat, stored.dark
    # A cone's lines have no sinograms of their own.
    views_first = stored.views_first or axes[0] == "lines"
    if values.ndim == 3 and n_angles is not None and (values.shape[0] == n_angles) != (values.shape[1] == n_angles):
        views_first = values.shape[0] == n_angles
    if stored.flat is not None or stored.dark is not None:
        # The fields belong to projections.
        views_first = True
    return (values.swapaxes(0, 1) if views_first and values.ndim == 3 else values), stored.flat, stored.dark


def _integrals(
    values: np.ndarray, flat: np.ndarray | None, dark: np.ndarray | None, how: Reading, source: Source
) -> np.ndarray:
    """Line integrals from what the detector counted; as they are where they are integrals."""
    takes_log = how.minus_log
    beam = how.open_beam
    if beam is not None and not takes_log:
        raise InputError("open-beam", "--minus-log beside it", f"{beam:g}, which has no effect", "pass --minus-log")
    if how.flats != "none" and (flat is not None or dark is not None):
        if beam is not None:
            raise InputError("open-beam", "no flat field in the file", f"{beam:g}", "drop it, or pass --flats none")
        # Fields of ones and zeros say that somebody has corrected the values: with or without a logarithm.
        is_trivial = flat is not None and bool((flat == 1).all()) and (dark is None or not dark.any())
        values = corrected(values, flat, dark, source, mend=how.flats == "mend")
        takes_log, beam = takes_log or not is_trivial or is_bright_at_border(values), 1.0
    if not takes_log:
        return values
    return minus_log(values, open_beam(values) if beam is None else beam, source)


def _check(stored: np.ndarray, axes: tuple[str, ...], source: Source) -> None:
    shape, dtype = stored.shape, stored.dtype
    if len(shape) != 3 or min(shape) < 1:
        expected = "axes slices, views, bins or views, bins" if axes[0] == "slices" else "axes views, lines, bins"
        raise source.refusal(expected, f"shape {shape}", "give one array of these axes")
    if dtype.kind not in "iuf":
        raise source.refusal("real numbers", re.sub("[^a-z0-9]", "", dtype.name), "save line integrals as float32")
    if shape[1] > _MAX_VIEWS or shape[2] > LARGEST_DETECTOR or stored.size > _MAX_SAMPLES:
        limits = f"at most {_MAX_VIEWS} views, {LARGEST_DETECTOR} bins and {_MAX_SAMPLES} values"
        raise source.refusal(limits, f"shape {shape}", "save a part of it")
