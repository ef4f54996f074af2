"""Where the slices of a volume are: all of them here, or some of them on every rank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

from engine.volume import Plane
from kernels.arrays import library_of

Shape = tuple[int, int, int]


class Decomposition(ABC):
    """What a sampler asks of a volume that it may only hold a part of.

    A *part* is what a state holds between steps; a *stack* is slices of one plane, those that are worked on here. Every
    rank makes the same calls in the same order. What is computed slice by slice, or from the numbers of all slices, is
    the same in every layout, bit for bit.
    """

    #: Whether this process writes results.
    is_root = True

    @abstractmethod
    def whole_shape(self, part: Any) -> Shape:
        """Shape of the volume that a part belongs to."""

    @abstractmethod
    def own(self, plane: Plane) -> slice:
        """Which slices of the plane's whole stack are here."""

    @final
    def entries(self, plane: Plane) -> tuple[slice, slice, slice]:
        """The same as entries of a stack, see `engine.sampling.noise`."""
        return self.own(plane), slice(None), slice(None)

    @abstractmethod
    def slices_of(self, part: Any, plane: Plane) -> Any:
        """The stack of a part, C-contiguous, new memory unless the part is that stack already."""

    @abstractmethod
    def volume_of(self, stack: Any, plane: Plane) -> Any:
        """The part that `slices_of` would cut into `stack`."""

    @abstractmethod
    def between(self, stack: Any, one: Plane, other: Plane) -> Any:
        """The same volume in slices of another plane."""

    @abstractmethod
    def all_of(self, numbers: Any, plane: Plane) -> Any:
        """Numbers of the slices here, (n_own, ...), as those of all slices of the plane, (n, ...)."""

    @abstractmethod
    def largest(self, number: float) -> float:
        """The largest of all ranks' numbers."""

    @abstractmethod
    def gathered(self, part: Any) -> Any:
        """The whole volume on the root, NumPy or CuPy as the part; elsewhere the part itself."""

    @abstractmethod
    def part_of(self, volume: Any) -> Any:
        """The part of a whole volume that every rank has."""


@final
class Undivided(Decomposition):
    """One process has it all: a part is the volume."""

    def whole_shape(self, part: Any) -> Shape:
        shape: Shape = part.shape
        return shape

    def own(self, plane: Plane) -> slice:
        return slice(None)

    def slices_of(self, part: Any, plane: Plane) -> Any:
        return plane.slices_of(part)

    def volume_of(self, stack: Any, plane: Plane) -> Any:
        return plane.volume_of(stack)

    def between(self, stack: Any, one: Plane, other: Plane) -> Any:
        return stack if one == other else turned(stack, one, other)

    def all_of(self, numbers: Any, plane: Plane) -> Any:
        return numbers

    def largest(self, number: float) -> float:
        return number

    def gathered(self, part: Any) -> Any:
        return part

    def part_of(self, volume: Any) -> Any:
        return volume


def turned(stack: Any, one: Plane, other: Plane) -> Any:
    """A stack of all slices of one plane as that of another, C-contiguous, in one copy."""
    # Each axis of the other stack is that axis of this one which runs along the same axis of the volume.
    axes = [one.axes.index(axis) for axis in other.axes]
    return library_of(stack=stack).ascontiguousarray(stack.transpose(axes))


#: The layout of a single process.
UNDIVIDED = Undivided()
