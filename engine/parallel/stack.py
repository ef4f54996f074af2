"""Slices of one plane of a volume: the value that samplers compute with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

from engine.parallel.decomposition import UNDIVIDED, Decomposition, Shape
from engine.volume import Plane


@final
@dataclass(frozen=True)
class Stack:
    """Those slices of a volume that are here, cut along one plane.

    Parameters
    ----------
    data : float32 (n_own, n_rows, n_columns), C-contiguous, NumPy or CuPy
    plane : Plane
    shape : (int, int, int)
        Of the whole volume.
    decomposition : Decomposition
        Where its other slices are.
    """

    data: Any
    plane: Plane
    shape: Shape
    decomposition: Decomposition = UNDIVIDED

    @classmethod
    def scattered(cls, volume: Any, plane: Plane, decomposition: Decomposition = UNDIVIDED) -> Stack:
        """Of a whole volume (d0, d1, d2) that every rank has."""
        return cls(decomposition.scatter(volume, plane), plane, tuple(volume.shape), decomposition)

    def gathered(self) -> Any:
        """The whole volume (d0, d1, d2) on the root; None elsewhere. All ranks take part."""
        return self.decomposition.gather(self.data, self.plane)

    def to(self, plane: Plane) -> Stack:
        """The same volume in slices of another plane. All ranks take part."""
        if plane == self.plane:
            return self
        return replace(self, data=self.decomposition.between(self.data, self.plane, plane), plane=plane)

    def of(self, data: Any) -> Stack:
        """Other values of the same slices."""
        return replace(self, data=data)

    @property
    def n_slices(self) -> int:
        """Of the whole volume in this plane."""
        return self.plane.shape_of(self.shape)[0]

    def groups(self, size: int) -> list[slice]:
        """Cut all slices into ⌈n/size⌉ consecutive groups of nearly equal length, longer ones first."""
        n = self.n_slices
        n_groups = -(-n // size)
        short, n_longer = divmod(n, n_groups)
        stops = [(i + 1) * short + min(i + 1, n_longer) for i in range(n_groups)]
        return [slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]

    @property
    def entries(self) -> tuple[slice, slice, slice]:
        """The slices, rows and columns of the plane's whole stack that are here."""
        return self.decomposition.own(self.plane), slice(None), slice(None)

    def all_gather(self, numbers: Any) -> Any:
        """Per-slice values of the slices here, (n_own, ...), as those of all slices, (n, ...)."""
        return self.decomposition.all_gather(numbers, self.plane)

    def own(self, numbers: Any) -> Any:
        """Per-slice values of all slices, (n, ...), as those of the slices here."""
        return numbers[self.decomposition.own(self.plane)]
