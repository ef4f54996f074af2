"""Which slices of a stack a method is tried on before it does them all."""

from __future__ import annotations

import numpy as np


def fullest(content: np.ndarray, n: int) -> np.ndarray:
    """Numbers of a few slices, evenly apart among those that hold at least half as much as any.

    Parameters
    ----------
    content : float (n_slices,)
        Tissue or signal, not negative.
    n : int
        Slices at most.

    Returns
    -------
    int (at most n,)
        Ascending; none where there is no content.
    """
    full = np.flatnonzero((content > 0) & (content >= 0.5 * content.max(initial=0)))
    places = np.linspace(0, max(0, len(full) - 1), min(n, len(full))).round().astype(int)
    return full[np.unique(places)]


def middle(n: int, n_most: int) -> slice:
    """At most so many consecutive slices from the middle of n."""
    few = min(n, n_most)
    return slice((n - few) // 2, (n - few) // 2 + few)
