"""The geometry of a parallel-beam projection: one image size, one detector, a list of angles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from kernels.checks import check_integer

_LARGEST_IMAGE = 65536


@dataclass(frozen=True)
class ParallelGeometry:
    """An n x n image, m = ceil(sqrt(2) n) detector bins, and one angle a view; immutable and hashable.

    The image lies in an m x m lattice so that its pixel n // 2 falls on the lattice's pixel (n + pad) // 2, where
    pad = m - n.
    Lattice and detector share their centre (m - 1) / 2: where pad is odd, the image is half a pixel off it.

    Parameters
    ----------
    n : int
        Rows and columns of the image, 1 ... 65536.
    angles_rad : sequence of float
        Direction of the detector axis of each view, in radians, counter-clockwise from the column axis in an image with
        row 0 on top. Stored as a tuple of Python floats.

    Raises
    ------
    TypeError
        `n` is not an integer.
    ValueError
        `n` out of range; no angle, or one that is not finite.
    """

    n: int
    angles_rad: tuple[float, ...]

    def __init__(self, n: int, angles_rad: Sequence[float] | npt.NDArray[np.float64]) -> None:
        object.__setattr__(self, "n", check_integer("n", n, 1, _LARGEST_IMAGE + 1))
        angles = np.asarray(angles_rad, dtype=np.float64)
        if angles.ndim != 1 or angles.size == 0 or not np.isfinite(angles).all():
            raise ValueError(
                f"angles_rad: expected (n_views,) finite angles, at least one, got {angles.shape}; pass a flat list"
            )
        object.__setattr__(self, "angles_rad", tuple(angles.tolist()))

    @classmethod
    def from_views(cls, n: int, n_views: int) -> ParallelGeometry:
        """Spread `n_views` angles evenly over [0, 180) degrees, the first at 0."""
        n_views = check_integer("n_views", n_views, 1, 1 << 20)
        return cls(n, np.deg2rad(np.linspace(0.0, 180.0, n_views, endpoint=False)))

    @property
    def n_views(self) -> int:
        """Number of angles."""
        return len(self.angles_rad)

    @property
    def n_bins(self) -> int:
        """Detector bins m = ceil(sqrt(2) n), in integers: sqrt(2) n is never a whole number."""
        return math.isqrt(2 * self.n * self.n) + 1

    @property
    def pad_before(self) -> int:
        """Lattice rows above the image, and columns left of it."""
        pad = self.n_bins - self.n
        return (self.n + pad) // 2 - self.n // 2

    @cached_property
    def cos_sin(self) -> npt.NDArray[np.float64]:
        """Cosine and sine of every angle, float64 (n_views, 2), read-only."""
        table = np.stack([np.cos(self.angles_rad), np.sin(self.angles_rad)], axis=1)
        table.flags.writeable = False
        return table
