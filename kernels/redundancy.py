"""How much of its line each sample of a scan stands for, where some lines are seen more often than others."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from kernels.geometry import LARGEST_DETECTOR, FanGeometry, Geometry, ParallelGeometry, bin_positions

Float64 = npt.NDArray[np.float64]

#: A gap between views, in radians, that nothing was measured in: at least this, and so many times the next largest.
_LEAST_GAP, _TIMES = math.radians(20), 3.0
#: A detector sees one side only if the other ends before the image does, and by so much nearer to the centre.
_REACHES, _LONGER = 0.98, 1.1
#: Of a ray that is seen once, at either end of a scan.
_FLOOR = 1e-6
#: Weights that differ by less are all one.
_SAME = 1e-9


def redundancy_weights(geometry: Geometry) -> Float64 | None:
    """Return by what views are to be multiplied before they are filtered; their mean is about 1.

    The weight of a sample is the angle that its view stands for, half of the way to its neighbours on either side, over
    that of a view among as many equal ones; times the part that it has among all samples of its line.

    - Parallel beam: views half a turn apart are one, so that angles count modulo half a turn.
    - Fan, less than a turn: samples of one line share it by a window over the views that rises and falls over what the
      scan has beyond half a turn (Parker 1982, for any length: each over the sum of both).
    - Whole turn with a detector that ends on one side before the image does: samples of one line share it by a window
      over the bins that both sides see (Wang 2002).

    Views that are missing stay missing.

    Parameters
    ----------
    geometry : Geometry

    Returns
    -------
    float64 (n_views, n_bins) or (n_views, 1), or None where all are 1
    """
    if geometry.n_views == 0:
        return None
    angles = np.asarray(geometry.angles_rad)
    shares = _shares_of_bins(geometry)
    is_fan = isinstance(geometry, FanGeometry)
    turned, missing = _angles_of_views(angles, 2 * math.pi)
    if not is_fan and (shares is None or missing is not None):
        turned, _ = _angles_of_views(angles, math.pi)
        weights = (turned * geometry.n_views / math.pi)[:, None]
    elif missing is None:
        part = np.full(geometry.n_bins, 0.5) if shares is None else shares
        weights = (turned * geometry.n_views / math.pi)[:, None] * part
    else:
        assert isinstance(geometry, FanGeometry)
        part = _shares_of_short_scan(np.mod(angles - missing, 2 * math.pi), turned, geometry.bin_angles_rad)
        weights = (turned * geometry.n_views / math.pi)[:, None] * part
    return None if abs(weights - 1).max() < _SAME else weights


def _angles_of_views(angles_rad: Float64, period: float) -> tuple[Float64, float | None]:
    """The angle that each view stands for, and where views begin after a gap that is too large; None without one."""
    n = len(angles_rad)
    within = np.mod(angles_rad, period)
    # What rounding has put before the end of a period belongs to its beginning.
    within[period - within < 1e-9] = 0.0
    order = np.argsort(within, kind="stable")
    gaps = np.diff(np.append(within[order], within[order[0]] + period))
    first = None
    if n > 2:
        largest = int(np.argmax(gaps))
        next_largest = float(np.delete(gaps, largest).max())
        if gaps[largest] > max(_LEAST_GAP, _TIMES * next_largest):
            gaps[largest] = next_largest
            first = float(within[order[(largest + 1) % n]])
    stands_for = np.empty(n)
    stands_for[order] = (gaps + np.roll(gaps, 1)) / 2
    return stands_for, first


def _shares_of_bins(geometry: Geometry) -> Float64 | None:
    """The part of its line for each bin in a whole turn, float64 (n_bins,); None where both sides are seen."""
    if isinstance(geometry, FanGeometry):
        places, reach = geometry.bin_angles_rad, math.asin(min(geometry.shape) / 2 / geometry.source_distance)
    else:
        assert isinstance(geometry, ParallelGeometry)
        places = bin_positions(geometry.n_bins, geometry.bin_spacing, geometry.bin_offset)
        reach = geometry.n / 2
    before, after = -float(places[0]), float(places[-1])
    short = min(before, after)
    if not (0 < short < _REACHES * reach and max(before, after) > _LONGER * short):
        return None
    towards = places if after > before else -places
    shares: Float64 = (1 + np.sin(np.clip(towards / short, -1, 1) * math.pi / 2)) / 2
    return shares


def bins_beyond(geometry: Geometry) -> tuple[int, int]:
    """Return how many bins a detector that sees one side alone lacks before its first and after its last one.

    What is filtered reaches beyond the detector: there, too, it belongs to the image.
    """
    if geometry.n_views == 0 or _shares_of_bins(geometry) is None:
        return 0, 0
    _, missing = _angles_of_views(np.asarray(geometry.angles_rad), 2 * math.pi)
    if missing is not None:
        return 0, 0
    middle = geometry.shadow[3]
    lacks = round(2 * middle - (geometry.n_bins - 1))
    lacks = max(-LARGEST_DETECTOR, min(lacks, LARGEST_DETECTOR))
    return (0, lacks) if lacks > 0 else (-lacks, 0)


def widened(geometry: Geometry, before: int, after: int) -> Geometry:
    """Return the geometry with so many bins more at either end of its detector."""
    n_bins = geometry.n_bins + before + after
    assert isinstance(geometry, (ParallelGeometry, FanGeometry))
    offset = geometry.bin_offset + (after - before) / 2 * geometry.bin_spacing
    if isinstance(geometry, FanGeometry):
        distances = geometry.source_distance, geometry.detector_distance
        return FanGeometry(
            geometry.sides, geometry.angles_rad, *distances, n_bins, geometry.bin_spacing, offset, geometry.curved
        )
    return ParallelGeometry(geometry.n, geometry.angles_rad, n_bins, geometry.bin_spacing, offset)


def _shares_of_short_scan(views: Float64, stands_for: Float64, bins: Float64) -> Float64:
    """The part of its line for each sample, float64 (n_views, n_bins); `views` count from the first, in radians."""
    length = float(stands_for.sum())
    rise = max(length - math.pi, 1e-3)

    def window(at: Float64) -> Float64:
        # Half a view beyond the first and the last one.
        before = at + (length - views.max()) / 2
        inside = (before >= 0) & (before <= length)
        up, down = (np.clip(x / rise, 0, 1) for x in (before, length - before))
        risen: Float64 = np.minimum(np.sin(up * math.pi / 2) ** 2, np.sin(down * math.pi / 2) ** 2)
        return np.where(inside, np.maximum(risen, _FLOOR), 0.0)

    here = window(np.broadcast_to(views[:, None], (len(views), len(bins))))
    # The same line, seen from its other end, belongs to this view.
    other = np.mod(views[:, None] + math.pi + 2 * bins, 2 * math.pi)
    shares: Float64 = here / (here + window(other))
    return shares
