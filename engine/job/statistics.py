"""Mean and standard deviation of samples, one after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Statistics:
    """Running moments of volumes.

    Parameters
    ----------
    n : int
        Samples so far.
    mean : float64 (d0, d1, d2) or None
        Their mean; None of none.
    squares : float64 (d0, d1, d2) or None
        The sum of squared deviations from it.
    seconds : float
        Wall time of their sampling.

    Source: Welford, Note on a method for calculating corrected sums of squares and products, 1962.
    """

    n: int = 0
    mean: np.ndarray | None = None
    squares: np.ndarray | None = None
    seconds: float = 0.0

    def with_sample(self, volume: np.ndarray, seconds: float = 0.0) -> Statistics:
        """The same with one more sample, float32 (d0, d1, d2)."""
        x = volume.astype(np.float64)
        if self.mean is None or self.squares is None:
            return Statistics(1, x, np.zeros_like(x), seconds)
        n = self.n + 1
        mean = self.mean + (x - self.mean) / n
        return Statistics(n, mean, self.squares + (x - self.mean) * (x - mean), self.seconds + seconds)

    @property
    def deviation(self) -> np.ndarray | None:
        """float32 (d0, d1, d2): the samples' standard deviation, n − 1 in the denominator; None of fewer than two."""
        if self.squares is None or self.n < 2:
            return None
        return np.sqrt(self.squares / (self.n - 1)).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """For a file."""
        return {} if self.mean is None or self.squares is None else {"mean": self.mean, "squares": self.squares}

    @classmethod
    def from_arrays(cls, n: int, arrays: Mapping[str, np.ndarray], seconds: float) -> Statistics:
        """From `arrays`; KeyError where they are missing."""
        return cls(n, arrays["mean"], arrays["squares"], seconds) if n else cls()
