"""Where the slices of a volume are: all of them here, or some of them on every rank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

from engine.volume import Plane
from kernels.arrays import library_of

Shape = tuple[int, int, int]


class Decomposition(ABC):
    """How a volume is shared out: of every plane's slices each rank has some.

    Every rank makes the same calls in the same order. What is computed slice by slice, or from the numbers of all
    slices, is the same in every decomposition, bit for bit.
    """

    #: Whether this process writes results.
    is_root = True

    @abstractmethod
    def own(self, plane: Plane) -> slice:
        """The slices of the plane's whole stack that are here."""

    @abstractmethod
    def between(self, slices: Any, one: Plane, other: Plane) -> Any:
        """The slices of another plane that are here: an exchange, in which all ranks take part."""

    @abstractmethod
    def all_gather(self, numbers: Any, plane: Plane) -> Any:
        """Per-slice values of the slices here, (n_own, ...), as those of all slices of the plane, (n, ...)."""

    @abstractmethod
    def largest(self, number: float) -> float:
        """The largest of all ranks' numbers."""

    @abstractmethod
    def gather(self, slices: Any, plane: Plane) -> Any:
        """The whole volume (d0, d1, d2) on the root, NumPy's or CuPy's; None elsewhere."""

    @abstractmethod
    def scatter(self, volume: Any, plane: Plane) -> Any:
        """Of a whole volume that every rank has, the slices of a plane that are here, C-contiguous."""


@final
class Undivided(Decomposition):
    """One process has it all."""

    def own(self, plane: Plane) -> slice:
        return slice(None)

    def between(self, slices: Any, one: Plane, other: Plane) -> Any:
        return slices if one == other else turned(slices, one, other)

    def all_gather(self, numbers: Any, plane: Plane) -> Any:
        return numbers

    def largest(self, number: float) -> float:
        return number

    def gather(self, slices: Any, plane: Plane) -> Any:
        return plane.volume_of(slices)

    def scatter(self, volume: Any, plane: Plane) -> Any:
        return plane.slices_of(volume)


def turned(slices: Any, one: Plane, other: Plane) -> Any:
    """A stack of all slices of one plane as that of another, C-contiguous, in one copy."""
    # Each axis of the other stack is that axis of this one which runs along the same axis of the volume.
    axes = [one.axes.index(axis) for axis in other.axes]
    return library_of(slices=slices).ascontiguousarray(slices.transpose(axes))


#: The decomposition of a single process.
UNDIVIDED = Undivided()
