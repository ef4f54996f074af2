"""Where the axis of rotation lies on the detector of a parallel beam, found in the projections themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: Slices that are looked at, at most, and triples of neighbouring views.
_N_SLICES, _N_TRIPLES = 8, 64
#: Bins around the centre of mass's axis that are searched, as a part of the detector and at least, and the last step.
_REACH, _LEAST_REACH, _STEP = 1 / 64, 3.0, 0.05
#: Angle between views of a triple, in radians, beyond which their neighbours do not foretell a view.
_WIDEST = math.radians(8)
#: Views, and condition of their sines and cosines, from which an axis can be told.
_ENOUGH_VIEWS, _WORST_CONDITION = 6, 30.0


@dataclass(frozen=True, eq=False)
class MassAxis:
    """How the centre of mass of the projections moves: c + a cos θ + b sin θ where all is right.

    Parameters
    ----------
    bin : float
        c, the axis of rotation, counted from 0.
    error : float
        What noise makes of c, one standard deviation.
    rest : float
        Root mean square of what the sinusoid does not explain, in bins.
    rest_error : float
        What noise makes of that.
    moves : float
        Standard deviation of the centre of mass, in bins.
    """

    bin: float
    error: float
    rest: float
    rest_error: float
    moves: float


def mass_axis(data: np.ndarray, angles_rad: np.ndarray) -> MassAxis | None:
    """Fit a sinusoid to the centre of mass of every view.

    Parameters
    ----------
    data : float (n_slices, n_views, n_bins)
        Line integrals of an object that no view cuts off.
    angles_rad : float64 (n_views,)

    Returns
    -------
    MassAxis or None
        None for views too few or too close to each other, and for an object without mass.
    """
    lines = data.sum(axis=0, dtype=np.float64)
    mass, n = lines.sum(axis=1), lines.shape[1]
    design = np.stack([np.ones(len(lines)), np.cos(angles_rad), np.sin(angles_rad)], axis=1)
    if len(lines) < _ENOUGH_VIEWS or np.linalg.cond(design) > _WORST_CONDITION or mass.min() <= 0:
        return None
    centres = lines @ np.arange(n) / mass
    found, *_ = np.linalg.lstsq(design, centres, rcond=None)
    # Third differences along the detector: noise, and little of the object.
    sigma = float(np.median(abs(np.diff(lines, 3, axis=1)))) / 0.6745 / math.sqrt(20) if n > 3 else 0.0
    of_view = sigma * math.sqrt(float(((np.arange(n) - found[0]) ** 2).sum())) / float(np.median(mass))
    error = of_view * math.sqrt(float(np.linalg.inv(design.T @ design)[0, 0]))
    rest = float(np.sqrt(np.mean((centres - design @ found) ** 2)))
    return MassAxis(float(found[0]), error, rest, of_view, float(centres.std()))


def find_centre(data: np.ndarray, angles_rad: np.ndarray) -> float | None:
    """Return the bin, with its fraction, on which the axis of rotation falls.

    First where the centre of mass turns about; then, in steps of a twentieth of a bin, where views are foretold best by
    their neighbours, some of which are views from the other side, mirrored about the axis. The second is not moved by a
    beam that drifts.

    Parameters
    ----------
    data : float (n_slices, n_views, n_bins)
        Line integrals of a parallel beam.
    angles_rad : float64 (n_views,)

    Returns
    -------
    float or None
        None where neither can be told.
    """
    mass = data.sum(axis=(1, 2), dtype=np.float64)
    data = data[np.sort(np.argsort(-mass)[:_N_SLICES])]
    axis = mass_axis(data, angles_rad)
    if axis is None or not 0 <= axis.bin <= data.shape[-1] - 1:
        return None
    triples = _triples(angles_rad)
    if triples is None:
        return axis.bin
    reach = max(_LEAST_REACH, data.shape[-1] * _REACH)
    best = axis.bin
    for step in (1.0, 0.25, _STEP):
        candidates = best + np.arange(-reach, reach + step / 2, step)
        best = float(candidates[np.argmin([_roughness(data, triples, c) for c in candidates])])
        reach = step
    return best


@dataclass(frozen=True, eq=False)
class _Triples:
    """Views that are next to each other in a half turn, three at a time.

    Parameters
    ----------
    views : int (n, 3)
    mirrored : bool (n, 3)
        Which of them were taken from the other side: some of three, not all.
    weights : float32 (n, 1)
        Of the third where the second is interpolated.
    """

    views: np.ndarray
    mirrored: np.ndarray
    weights: np.ndarray


def _triples(angles_rad: np.ndarray) -> _Triples | None:
    """Neighbours that are close enough; None without any."""
    n = len(angles_rad)
    turns = np.floor(angles_rad / math.pi).astype(int)
    within = angles_rad - turns * math.pi
    order = np.argsort(within, kind="stable")
    # Beyond both ends of the half turn its views go on, mirrored.
    places = np.arange(n)[:, None] + [-1, 0, 1]
    views, beyond = order[places % n], places // n
    at = within[views] + beyond * math.pi
    mirrored = (turns[views] + beyond) % 2 == 1
    width = at[:, 2] - at[:, 0]
    kept = np.flatnonzero((mirrored != mirrored[:, :1]).any(axis=1) & (width > 0) & (width <= 2 * _WIDEST))
    if not len(kept):
        return None
    kept = kept[:: -(-len(kept) // _N_TRIPLES)]
    weights = (at[kept, 1] - at[kept, 0]) / width[kept]
    return _Triples(views[kept], mirrored[kept], weights[:, None].astype(np.float32))


def _roughness(data: np.ndarray, triples: _Triples, centre: float) -> float:
    """How far views are from what lies between their neighbours, on the part of the detector that both sides see."""
    n = data.shape[-1]
    reach = min(centre, n - 1 - centre)
    kept = np.arange(math.ceil(centre - reach), math.floor(centre + reach) + 1)
    mirrored = 2 * centre - kept
    left = np.clip(np.floor(mirrored).astype(int), 0, n - 2)
    part = (mirrored - left).astype(np.float32)
    first, middle, last = (
        np.where(
            triples.mirrored[:, k, None],
            data[:, triples.views[:, k]][..., left] * (1 - part) + data[:, triples.views[:, k]][..., left + 1] * part,
            data[:, triples.views[:, k]][..., kept],
        )
        for k in range(3)
    )
    difference = middle - first * (1 - triples.weights) - last * triples.weights
    return float(np.mean(difference.astype(np.float64) ** 2))
