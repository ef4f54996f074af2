"""The slices of a DICOM series in their order: one a position, on a regular grid."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from engine.errors import InputError
from engine.io.checks import MAX_VOXELS, check_frame
from engine.io.source import Source
from engine.io.volumes.dicom_frames import APART, MAX_COSINE, Frame

#: Of the usual gap between slices.
_MAX_UNEVEN = 0.01
#: Of the distance of slices, by which rounding may move one: coarser positions do not tell a missing slice.
_MAX_ROUNDING = 0.02
#: Decimals that positions are looked for to be rounded to.
_MAX_DECIMALS = 6
#: A gap is that of missing slices where it is within this part of a whole number of usual ones.
_NEAR_WHOLE = 0.05
_MAX_SIDEWAYS_PX = 0.1
#: Of the thickness that is said to change.
_SAME_THICKNESS = 0.01
#: Values that a message lists.
_MAX_LISTED = 4
_DCM2NIIX = "convert the series to NIfTI with dcm2niix, which splits it"


def in_order(frames: list[Frame], source: Source, chosen: int | None = None) -> tuple[list[Frame], np.ndarray]:
    """Put frames in order along their normal, once it is sure that they are a regular grid.

    Parameters
    ----------
    frames : list of Frame
    source : Source
    chosen : int or None
        Which of the frames at each position, counted from 0, where there are several.

    Returns
    -------
    frames : list of Frame
        One a position.
    affine : float64 (4, 4)
        Indices (column, row, slice) to mm (right, anterior, superior): the regular grid that fits the positions best.
        Slices may follow each other aslant, as with a tilted gantry.

    Raises
    ------
    InputError
    """
    first = frames[0]
    for frame in frames:
        for name, expected, other, most in (
            ("size", first.shape, frame.shape, 0.0),
            ("orientation", first.cosines, frame.cosines, MAX_COSINE),
            ("pixel spacing", first.spacing, frame.spacing, 1e-3 * first.spacing.min()),
        ):
            if abs(np.subtract(expected, other)).max() > most:
                got = f"{np.round(expected, 4).tolist()} in {first} and {np.round(other, 4).tolist()} in {frame}"
                remedy = _DCM2NIIX if frame.file == first.file else "move what does not belong elsewhere"
                raise source.refusal(f"slices of one {name}", got, remedy)
    if len(frames) < 2:
        if source.path.is_file():
            raise InputError(
                source.argument,
                "all slices of a series",
                f"one of them, the file '{source.path}'",
                f"give the folder '{source.path.parent}'",
            )
        raise source.refusal("at least 2 slices", f"one, {first}", "give the whole series")
    normal = np.cross(*first.cosines)
    frames = _one_a_position(sorted(frames, key=lambda frame: float(frame.position @ normal)), normal, source, chosen)
    if math.prod(first.shape) * len(frames) > MAX_VOXELS:
        raise source.refusal(f"at most {MAX_VOXELS} voxels", f"{len(frames)} slices of {first.shape}", "crop them")
    positions = np.array([frame.position for frame in frames])
    origin, step = _line(positions)
    _check_gaps(frames, positions, normal, source)
    off_line = positions - origin - np.arange(len(frames))[:, None] * step
    sideways = np.linalg.norm(off_line - np.outer(off_line @ normal, normal), axis=1)
    if sideways.max() > _MAX_SIDEWAYS_PX * first.spacing.min():
        got = f"{frames[int(sideways.argmax())]} {sideways.max():.3g} mm to the side"
        raise source.refusal("slices in one line", got, "resample the series to a rectangular grid")
    affine = np.eye(4)
    affine[:3, 0] = first.cosines[0] * first.spacing[1]
    affine[:3, 1] = first.cosines[1] * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, origin
    return frames, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def thickness_of(frames: list[Frame]) -> float | None:
    """Thickness in mm of all slices, as their headers say it; None where one does not, or they differ."""
    thickness = np.array([frame.thickness_mm for frame in frames])
    known = bool(np.isfinite(thickness).all() and (thickness > 0).all())
    if not known or np.ptp(thickness) > _SAME_THICKNESS * thickness.min():
        return None
    return float(np.median(thickness))


def _line(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First position and step of the regular series that is nearest, in squares."""
    index = np.arange(len(positions)) - (len(positions) - 1) / 2
    step = index @ positions / (index @ index)
    return positions.mean(axis=0) + index[0] * step, step


def _unit_of(positions: np.ndarray) -> float:
    """The decimal unit in mm of which all positions are multiples; 0 where there is none."""
    for decimals in range(_MAX_DECIMALS):
        scaled = positions * 10.0**decimals
        if abs(scaled - scaled.round()).max() < 1e-6:
            return float(10.0**-decimals)
    return 0.0


def _is_regular(values: np.ndarray, unit: float) -> bool:
    """Whether some regular series, rounded to a unit, is this one.

    Two values that are `lag` steps apart differ by `lag` steps and a unit at most, for one and the same step.
    """
    least, most = -math.inf, math.inf
    unit *= 1 + 1e-6
    for lag in range(1, len(values)):
        differences = values[lag:] - values[:-lag]
        least = max(least, (differences.max() - unit) / lag)
        most = min(most, (differences.min() + unit) / lag)
    return least <= most


def _check_gaps(frames: list[Frame], positions: np.ndarray, normal: np.ndarray, source: Source) -> None:
    """Refuse slices that are not evenly spaced, but for the rounding of their positions."""
    gaps = np.diff(positions @ normal)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # the lower median: missing slices only make gaps larger
    worst = int(abs(gaps - usual).argmax())
    if abs(gaps[worst] - usual) <= _MAX_UNEVEN * usual:
        return
    unit = _unit_of(positions)
    if unit / 2 <= _MAX_ROUNDING * gaps.mean() and all(_is_regular(values, unit) for values in positions.T):
        return
    before, after = frames[worst], frames[worst + 1]
    thickness = np.array([frame.thickness_mm for frame in frames])
    changed = np.flatnonzero(abs(np.diff(thickness)) > _SAME_THICKNESS * thickness[:-1])
    if changed.size:
        values = list(dict.fromkeys(f"{mm:.4g}" for mm in thickness))
        got = f"{_listed(values)} mm, which change from {frames[changed[0]]} to {frames[changed[0] + 1]},"
        raise source.refusal("slices of one thickness", got, "move slices of each thickness into a folder of their own")
    got = f"{gaps[worst]:.6g} mm between {before} and {after} where {usual:.6g} mm is usual"
    whole = gaps[worst] / usual
    is_missing = whole > 1.5 and abs(whole - round(whole)) <= _NEAR_WHOLE * round(whole)
    remedy = "add the missing slices" if is_missing else "move slices of each spacing into a folder of their own"
    raise source.refusal("evenly spaced slices", got, remedy)


def _one_a_position(frames: list[Frame], normal: np.ndarray, source: Source, chosen: int | None) -> list[Frame]:
    """Choose among frames, which are in order along the normal, that lie at one position."""
    groups = [frames[:1]]
    nearest = 1e-3 * frames[0].spacing.min()
    for before, frame in pairwise(frames):
        if (frame.position - before.position) @ normal > nearest:
            groups.append([])
        groups[-1].append(frame)
    n = max(map(len, groups))
    if n > 1:
        crowded = next(group for group in groups if len(group) == n)
        if len(groups) == 1:
            raise source.refusal("at least 2 slices", f"{n} images of one place", "give the whole series")
        what = [k for k in range(len(APART)) if len({frame.labels[k] for frame in crowded}) > 1]
        differ = " and ".join(_differing(k, crowded) for k in what) or "nothing that headers tell"
        if any(len(group) != n for group in groups):
            a, b = crowded[:2]
            got = f"{a} and {b} at one place, which differ in {differ},"
            remedy = _DCM2NIIX if a.file == b.file else "move each echo or time point into a folder of its own"
            raise source.refusal("one slice a position, or equally many at each", got, remedy)
        if chosen is None:
            got = f"{n} at each, which differ in {differ},"
            raise source.refusal("one slice a position", got, f"choose with --frame, 0 to {n - 1} in that order")
    check_frame(chosen, n, source)
    of_group = [sorted(group, key=lambda f: (f.labels, f.number, f.file.path.name, f.index)) for group in groups]
    taken = [group[chosen or 0] for group in of_group]
    # Echoes and b-values are those of a volume; times and numbers may be those of a slice.
    for k, (words, unit, _) in enumerate(APART):
        if words in ("image type", "echo time", "b-value") and len({frame.labels[k] for frame in taken}) > 1 and n > 1:
            got = f"{_listed(_texts(k, taken))} {unit}".rstrip()
            raise source.refusal(f"one {words} in frame {chosen}", got, _DCM2NIIX)
    return taken


def _differing(which: int, frames: list[Frame]) -> str:
    words, unit, _ = APART[which]
    if words == "gradient direction":  # three numbers each
        return words
    return f"{words} ({_listed(_texts(which, frames))}{' ' if unit else ''}{unit})"


def _texts(which: int, frames: list[Frame]) -> list[str]:
    """Values of a label, in their order."""
    labels = sorted({frame.labels[which] for frame in frames})
    return [{0: "none", 1: f"{value:.6g}"}.get(kind, text) for kind, value, text in labels]


def _listed(values: list[str]) -> str:
    if len(values) > _MAX_LISTED:
        return f"{values[0]} to {values[-1]}, {len(values)} of them"
    return " and ".join([", ".join(values[:-1]), values[-1]] if len(values) > 1 else values)
