"""Which points of k-space a simulated scan measures."""

from __future__ import annotations

import math

import numpy as np

from engine.errors import InputError

#: Largest accepted relative distance between the acceleration asked for and the one of a whole number of points.
_TOLERANCE = 0.02
#: Halvings of the interval of slopes; the last one changes the number of points by less than one in a thousand.
_N_BISECTIONS = 12


def poisson_disc(shape: tuple[int, int], acceleration: float, seed: int, centre_fraction: float = 0.06) -> np.ndarray:
    """Draw a variable-density Poisson-disc sampling mask.

    The achieved acceleration, all points over sampled ones, is within 2 % of `acceleration`. A point's radius, in
    pixels, is a slope times its distance from DC in units of half the sides. Points of radius at most 1 are all
    sampled; no two others are closer than the smaller of their radii, so density falls outwards. The same arguments
    give the same mask on every platform.

    Parameters
    ----------
    shape : tuple of 2 int
        (rows, columns) of k-space.
    acceleration : float
        At least 1; at 1 the mask is all ones.
    seed : int
        Not negative.
    centre_fraction : float
        Diameters of the fully sampled ellipse around DC over the sides of k-space, in [0, 1). DC is always sampled.

    Returns
    -------
    float32 (rows, columns)
        1 where sampled, 0 elsewhere; DC at (rows // 2, columns // 2).

    Raises
    ------
    InputError
        An argument outside its range, an acceleration that the centre does not allow, or a k-space so small that no
        number of points comes within 2 %.

    Notes
    -----
    Dart throwing (Cook 1986) on the grid: points come in random order, and each one taken forbids the disc around it.
    Throwing ends at the wanted number of points. Bisection finds the largest slope at which so many fit, so that
    the points fill their space when throwing ends.
    """
    _check(shape, acceleration, seed, centre_fraction)
    rows, columns = shape
    distance = _distance(rows, columns)
    centre = distance <= centre_fraction
    n_points = rows * columns
    n_wanted = round(n_points / acceleration)
    n_centre = int(centre.sum())
    if n_wanted < n_centre:
        raise InputError(
            "acceleration",
            f"at most {n_points / n_centre:.4g}, which the fully sampled centre allows",
            f"{acceleration:g}",
            "lower it or centre_fraction",
        )
    if abs(n_points / n_wanted / acceleration - 1) > _TOLERANCE:
        raise InputError(
            "shape",
            f"enough points for an acceleration within 2 % of {acceleration:g}",
            f"{rows} x {columns}, where {n_wanted} points give {n_points / n_wanted:.4g}",
            "enlarge k-space or ask for that acceleration",
        )
    if n_wanted == n_points:
        return np.ones(shape, dtype=np.float32)
    return _densest(distance, centre, seed, n_wanted)


def _check(shape: tuple[int, int], acceleration: float, seed: int, centre_fraction: float) -> None:
    if len(shape) != 2 or min(shape) < 1:
        raise InputError("shape", "(rows, columns), both positive", shape, "give the size of one slice")
    if not (math.isfinite(acceleration) and acceleration >= 1):
        raise InputError("acceleration", "a number of at least 1", acceleration, "ask for 1 to sample all")
    if seed < 0:
        raise InputError("seed", "an integer of at least 0", seed, "drop the sign")
    if not 0 <= centre_fraction < 1:
        raise InputError("centre_fraction", "a number in [0, 1)", centre_fraction, "the usual value is 0.06")


def _distance(rows: int, columns: int) -> np.ndarray:
    """Distance from DC, in units of half the sides: 1 where the inscribed ellipse touches the border."""
    row = (np.arange(rows) - rows // 2) / (rows / 2)
    column = (np.arange(columns) - columns // 2) / (columns / 2)
    return np.asarray(np.sqrt(row[:, None] ** 2 + column[None, :] ** 2))


def _densest(distance: np.ndarray, centre: np.ndarray, seed: int, n_wanted: int) -> np.ndarray:
    """Throw with the largest slope at which `n_wanted` points fit."""
    # NumPy promises that a bit generator's raw stream stays the same, but not what Generator makes of it.
    order = np.argsort(np.random.PCG64(seed).random_raw(distance.size), kind="stable")
    # At the lower end every radius is at most 1, so all points fit; at the upper end the discs are as large as k-space.
    low, high = 1 / distance.max(), 2.0 * max(distance.shape)
    best = None
    for _ in range(_N_BISECTIONS):
        slope = math.sqrt(low * high)
        mask = _throw(slope * distance, centre, order, n_wanted)
        if mask is None:
            high = slope
        else:
            low, best = slope, mask
    if best is None:
        best = _throw(low * distance, centre, order, n_wanted)
        assert best is not None
    return best


def _throw(radius: np.ndarray, centre: np.ndarray, order: np.ndarray, n_wanted: int) -> np.ndarray | None:
    """Take points in `order` unless forbidden, each forbidding its disc; None if fewer than `n_wanted` fit."""
    rows, columns = radius.shape
    # Squared distances on the grid are integers: below a radius squared is below that number rounded up.
    limit = np.ceil(radius**2).astype(np.int64)
    # What is fully sampled goes first, from DC outwards: neither a neighbour's disc nor the end leaves a hole in it.
    full = (centre | (limit <= 1)).ravel()[order]
    core = order[full]
    order = np.concatenate([core[np.argsort(radius.ravel()[core], kind="stable")], order[~full]])

    # The margin holds discs that cross the border. Single look-ups in a bytearray cost a third of NumPy's.
    margin = min(math.ceil(float(radius.max())), max(rows, columns))
    width = columns + 2 * margin
    cells = bytearray((rows + 2 * margin) * width)
    forbidden = np.frombuffer(cells, dtype=bool).reshape(-1, width)
    discs = _Discs(margin)

    row, column = np.divmod(order, columns)
    cell_of = (row + margin) * width + column + margin
    n_full = int(full.sum())
    taken: list[int] = []
    for i, (cell, bound) in enumerate(zip(cell_of.tolist(), limit.ravel()[order].tolist(), strict=True)):
        if cells[cell] and i >= n_full:
            continue
        taken.append(i)
        if len(taken) == n_wanted:
            mask = np.zeros(rows * columns, dtype=np.float32)
            mask[order[taken]] = 1
            return mask.reshape(rows, columns)
        if bound > 1:
            disc = discs[bound]
            reach = len(disc) // 2
            top, left = cell // width - reach, cell % width - reach
            forbidden[top : top + 2 * reach + 1, left : left + 2 * reach + 1] |= disc
    return None


class _Discs(dict[int, np.ndarray]):
    """Grid points whose squared distance from the middle is below the key, cut off at `reach` pixels."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self._reach = reach

    def __missing__(self, limit: int) -> np.ndarray:
        reach = min(math.isqrt(limit - 1), self._reach)
        offset = np.arange(-reach, reach + 1)
        self[limit] = offset[:, None] ** 2 + offset[None, :] ** 2 < limit
        return self[limit]
