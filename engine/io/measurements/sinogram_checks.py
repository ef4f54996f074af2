"""What is likely to be wrong with a sinogram that can be read: warnings, each with its remedy."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np

import kernels
from engine.io.measurements.rotation_centre import find_centre, mass_axis
from engine.io.measurements.transmission import border, is_bright_at_border
from engine.io.source import Source
from kernels.geometry import Geometry

log = logging.getLogger("engine")

#: Views from which angles can be judged.
_ENOUGH_VIEWS = 5
#: Degrees that no scan is as short as; a half and a whole turn in degrees, taken for radians, and how exactly.
_SHORTEST_DEG, _TURNS_DEG, _ALIKE = 7.0, (180.0, 360.0), 0.1
#: Steps in radians by which golden angles go on, which need not be brought into one turn.
_GOLDEN_RAD = tuple(math.radians(step) for step in (111.246, 222.492, 137.508, 68.754, 32.039, 23.628, 20.886))
#: Relative deviation of the views' sums, and bins by which a centre or its sinusoid may be off; beside what noise does.
_UNEVEN, _BINS_OFF, _TIMES_ERROR = 0.05, 1.0, 4.0
#: Air at the border, as a part of the largest values: an object that the detector does not see whole has no sums.
_AIR = 0.08
#: Step between the views of a fan from which those of a parallel beam can be interpolated.
_WIDEST_STEP_RAD = math.radians(4.1)


@dataclass(frozen=True, eq=False)
class Lines:
    """A sinogram in the order of its file.

    Parameters
    ----------
    data : float (n_slices, n_views, n_bins)
        Said to be line integrals.
    geometry : kernels.Geometry
        In any unit of length.
    """

    data: np.ndarray
    geometry: Geometry

    @property
    def centre_bin(self) -> float:
        """The bin on which the axis of rotation is said to fall."""
        return float(self.geometry.shadow[3])


def warn_of_doubts(lines: Lines, source: Source, *, in_file: bool) -> None:
    """Warn of what is likely to be wrong, see `doubts`; values that are none are refused elsewhere."""
    if np.isfinite(lines.data).all():
        for doubt in doubts(lines, in_file=in_file):
            log.warning("%s: %s", source.path, doubt)


def doubts(lines: Lines, *, in_file: bool = False) -> list[str]:
    """Return what is likely to be wrong, one sentence with a remedy each; empty where all is plausible.

    Parameters
    ----------
    lines : Lines
    in_file : bool
        Whether angles were read from the measurement's file, not from a geometry.
    """
    if is_bright_at_border(lines.data):
        return [
            "values are larger at the border of the detector than in its middle, as counts and transmissions are: no "
            "logarithm has been taken; take it with --minus-log"
        ]
    found = _of_angles(np.asarray(lines.geometry.angles_rad), in_file)
    if found:
        return [found]
    sees_whole = _sees_whole(lines.data)
    beam = _as_parallel(lines) if sees_whole else None
    if beam is None:
        return [] if sees_whole or _is_half_beam(lines) else _of_truncation(lines.data)
    data, angles_rad, centre, bins_per_step = beam
    unevenness = _unevenness(data)
    if unevenness > _UNEVEN:
        return [
            f"the sums over bins vary by {unevenness:.0%} from view to view, though each is the same object: views "
            "without their flat field or logarithm, an object that leaves the detector, or wrong angles of a fan"
        ]
    axis = mass_axis(data, angles_rad)
    if axis is None:
        return []
    # Where the sinusoid explains hardly any of it, less is enough.
    allowed = _BINS_OFF if axis.rest < axis.moves / 2 else _BINS_OFF / 4
    if axis.rest > allowed + _TIMES_ERROR * axis.rest_error:
        return [
            f"the centre of mass moves along no sinusoid ({axis.rest:.2g} bins off): angles in another order, sense or "
            "unit (--angle-unit, --turn), or a source on the other side"
        ]
    # Views from the other side of a parallel beam know the axis better than the centre of mass does.
    turns_about = find_centre(data, angles_rad) if isinstance(lines.geometry, kernels.ParallelGeometry) else axis.bin
    off = ((axis.bin if turns_about is None else turns_about) - centre) * bins_per_step
    if min(abs(off), abs(axis.bin - centre) * bins_per_step) > _BINS_OFF + _TIMES_ERROR * axis.error * bins_per_step:
        stated = lines.centre_bin
        sign = ", which has the other sign" if abs(off + 2 * (stated - (data.shape[-1] - 1) / 2)) < _BINS_OFF else ""
        return [
            f"the object turns about bin {stated + off:.2f}, and not about {stated:.2f}{sign}: pass "
            f"--centre {stated + off:.2f}, or --centre find"
        ]
    return []


def _of_angles(angles_rad: np.ndarray, in_file: bool) -> str | None:
    """Whether degrees were taken for radians or radians for degrees."""
    n = len(angles_rad)
    if n < _ENOUGH_VIEWS:
        return None
    span = float(np.ptp(angles_rad))
    remedy = "--angle-unit {0}" if in_file else "--angle-unit {0}, or angles_{0} in --geometry"
    if math.degrees(span) < _SHORTEST_DEG:
        said = f"the angles of {n} views span {math.degrees(span):.2g} degrees in all: they may be radians"
        return f"{said}; {remedy.format('rad')}"
    step = span / (n - 1)
    steps = np.diff(angles_rad)
    is_golden = min(abs(abs(float(np.median(steps))) - golden) for golden in _GOLDEN_RAD) < 1e-3
    # As numbers of radians they look like degrees.
    if not is_golden and any(abs(span + step - turn) < _ALIKE * turn for turn in _TURNS_DEG):
        said = f"the angles of {n} views span {span / (2 * math.pi):.3g} turns in all: they may be degrees"
        return f"{said}; {remedy.format('deg')}"
    return None


def _sees_whole(data: np.ndarray) -> bool:
    """Whether rays at both ends of the detector meet air alone."""
    largest = float(np.quantile(data, 0.99))
    return abs(float(np.mean(border(data), dtype=np.float64))) <= _AIR * largest and all(
        abs(float(np.mean(border(data)[..., end], dtype=np.float64))) <= _AIR * largest for end in (0, -1)
    )


def _is_half_beam(lines: Lines) -> bool:
    """Whether the detector sees one side of the axis much farther than the other."""
    n = lines.data.shape[-1]
    return min(lines.centre_bin, n - 1 - lines.centre_bin) < 0.35 * n


def _of_truncation(data: np.ndarray) -> list[str]:
    unevenness = _unevenness(data)
    if unevenness <= _UNEVEN:
        return []
    return [
        f"rays at the ends of the detector meet the object, and the sums over bins vary by {unevenness:.0%} from view "
        "to view: an object wider than the detector keeps a bright rim, and air that is not zero wants a flat field"
    ]


def _unevenness(data: np.ndarray) -> float:
    """Relative deviation of the views' sums."""
    sums = data.sum(axis=(0, 2), dtype=np.float64)
    return float(sums.std() / abs(sums.mean())) if sums.mean() else math.inf


def _as_parallel(lines: Lines) -> tuple[np.ndarray, np.ndarray, float, float] | None:
    """Projections of a parallel beam with the same rays, their angles, the bin of the axis, and bins a step there.

    None for a fan that is no whole turn of close views.
    """
    geometry = lines.geometry
    angles_rad = np.asarray(geometry.angles_rad)
    if not isinstance(geometry, kernels.FanGeometry):
        return lines.data, angles_rad, lines.centre_bin, 1.0
    turned = np.mod(angles_rad, 2 * math.pi)
    order = np.argsort(turned, kind="stable")
    gaps = np.diff(np.append(turned[order], turned[order[0]] + 2 * math.pi))
    if gaps.max() > _WIDEST_STEP_RAD:
        return None
    gamma = geometry.bin_angles_rad
    n_views, n_bins = len(angles_rad), len(gamma)
    reach = geometry.source_distance * math.sin(min(-gamma[0], gamma[-1]))
    if reach <= 0:
        return None
    s = np.linspace(-reach, reach, n_bins)
    of_s = np.arcsin(s / geometry.source_distance)
    at = np.interp(of_s, gamma, np.arange(n_bins))
    left = np.clip(np.floor(at).astype(int), 0, n_bins - 2)
    part = at - left
    # The ray at angle θ and distance s belongs to the view θ − γ.
    parallel = 2 * math.pi * np.arange(n_views) / n_views
    view = np.mod(parallel[:, None] - of_s, 2 * math.pi)
    index = np.searchsorted(turned[order], view, side="right") - 1
    before, after = order[index], order[(index + 1) % n_views]
    ahead = np.mod(view - turned[before], 2 * math.pi) / gaps[index]
    lines_of_s = lines.data[..., left] * (1 - part) + lines.data[..., left + 1] * part
    columns = np.arange(n_bins)
    data = lines_of_s[:, before, columns] * (1 - ahead) + lines_of_s[:, after, columns] * ahead
    per_step = geometry.shadow[1] * (s[1] - s[0])
    return data, parallel, (n_bins - 1) / 2, float(per_step)
