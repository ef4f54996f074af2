"""Times rows side by side in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def alternate(rows: dict[str, Callable[[], object]], repeats: int, warmup: int = 2) -> dict[str, list[float]]:
    """Run every row in turn, `repeats` times, so that what slows the machine for a while slows all of them.

    Returns
    -------
    dict of str to list of float
        Seconds of every timed call.
    """
    for row in rows.values():
        for _ in range(warmup):
            row()
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats):
        for name, row in rows.items():
            started = time.perf_counter()
            row()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median, quartiles and minimum, in the values' unit."""
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": median, "quartile_1": low, "quartile_3": high, "minimum": min(values), "n": len(values)}
