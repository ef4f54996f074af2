"""A volume turned and moved by shears along its axes: exact transposes, and the sharpness of long filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

import kernels
from kernels import LineFilters

#: Half of the taps of a windowed sinc. Hann's window keeps what is linear as it is, which Lanczos' does not. With so
#: many taps a head that is turned about three axes and back is sharper than after cubic splines.
_HALF = 6
#: Parts of a voxel by which positions may miss voxels and still count as whole: far below what a filter blurs.
_WHOLE = 1e-3
#: A product of shears that is this near to a rotation is it.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Shear:
    """p ↦ p + e_axis·(slopes·p + shift); slopes[axis] is 0."""

    axis: int
    slopes: np.ndarray
    shift: float = 0.0

    @property
    def matrix(self) -> np.ndarray:
        """Its linear part, float64 (3, 3)."""
        matrix = np.eye(3)
        matrix[self.axis] += self.slopes
        return matrix


#: First and last index + 1 along the axes.
Box = tuple[tuple[int, int], ...]


class Resampling:
    """The voxels of a volume at q ↦ R q + t, for the whole numbers q of a box; zero is outside the volume.

    R is a product of shears along one axis after the other, each of which moves whole lines, by filters of twelve taps
    whose transposes are filters too. So the adjoint is exact, and nearly the inverse. Only voxels that both ends need
    are computed in between.

    Parameters
    ----------
    shape : (int, int, int)
        Of the volume.
    rotation : float64 (3, 3)
        R, of determinant 1: a rotation by less than a quarter turn, perhaps a little skewed.
    translation : float64 (3,)
        t.
    box : tuple of 3 (int, int)
        Range of q along each axis.

    Attributes
    ----------
    box : tuple of 3 (int, int)
        The part of the box that sees anything of the volume.

    Raises
    ------
    ValueError
        A box that sees nothing of the volume, or a matrix that is no such rotation.

    Source: Cox and Jesmanowicz, Real-time 3D image registration for functional MRI, 1999 (four shears).
    """

    def __init__(self, shape: tuple[int, int, int], rotation: np.ndarray, translation: np.ndarray, box: Box):
        passes = [one for one in affine_shears(rotation, translation) if one.slopes.any() or one.shift]
        # What is needed of the results of every pass, from the last one backwards; and what of them is not zero.
        needed, seen = [box], [tuple((0, n) for n in shape)]
        for one in reversed(passes):
            needed.insert(0, _hull(needed[0], one, 1))
        for one in passes:
            seen.append(_hull(seen[-1], one, -1))
        boxes = [
            tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
            for one, other in zip(needed, seen, strict=True)
        ]
        if any(low >= high for one in boxes for low, high in one):
            raise ValueError(f"box: expected one that sees the volume of {shape}, got {box}; move it there")
        self.box, self._shape = boxes[-1], shape
        self._crop = tuple(slice(low, high) for low, high in boxes[0])
        self._passes = [
            (one.axis, _filters(one, before, after))
            for one, before, after in zip(passes, boxes[:-1], boxes[1:], strict=True)
        ]

    @property
    def is_copy(self) -> bool:
        """Whether the voxels are those of the volume, none between two of them."""
        return all(filters.weights.shape[1] == 1 for _, filters in self._passes)

    def apply(self, x: Any, library: Any) -> Any:
        """float32 (n0, n1, n2) to float32 of the size of `box`."""
        x = library.ascontiguousarray(x[self._crop])
        for axis, filters in self._passes:
            x = kernels.filter_lines(x, filters, axis)
        return x

    def adjoint(self, y: Any, library: Any) -> Any:
        """The transpose of `apply`."""
        for axis, filters in reversed(self._passes):
            y = kernels.filter_lines(y, filters.transposed, axis)
        if y.shape == self._shape:
            return y
        x = library.zeros(self._shape, np.float32)
        x[self._crop] = y
        return x


def affine_shears(rotation: np.ndarray, translation: np.ndarray) -> list[Shear]:
    """Shears whose product, the first outermost, is q ↦ R q + t.

    Raises
    ------
    ValueError
        A matrix that is no rotation by less than a quarter turn.
    """
    shears = linear_shears(rotation)
    if not shears:
        return [Shear(axis, np.zeros(3), float(shift)) for axis, shift in enumerate(translation)]
    # The shift of the first one stays zero; those of the last three, along the three axes, add up to t.
    product, columns = np.eye(3), []
    for one in shears:
        columns.append(product[:, one.axis])
        product = product @ one.matrix
    shifts = np.linalg.lstsq(np.stack(columns, axis=1), translation, rcond=None)[0]
    return [Shear(one.axis, one.slopes, float(shift)) for one, shift in zip(shears, shifts, strict=True)]


def linear_shears(rotation: np.ndarray) -> list[Shear]:
    """Shears whose product is a rotation: those of the order of axes that shears least; none for no rotation.

    Raises
    ------
    ValueError
        A matrix that is no rotation by less than a quarter turn.
    """
    if np.abs(rotation - np.eye(3)).max() < _ROUNDING:
        return []
    found = [shears for order in permutations(range(3)) if (shears := _four_shears(rotation, order))]
    if not found:
        raise ValueError(
            f"rotation: expected one by less than a quarter turn, got {rotation.tolist()}; turn axes first"
        )
    return min(found, key=lambda shears: max(np.abs(one.slopes).max() for one in shears))


def _four_shears(rotation: np.ndarray, order: Sequence[int]) -> list[Shear] | None:
    """R as shears along the axes a, c, b, a of an order (a, b, c); None where there are none, or steep ones.

    Take the shears along a off both sides of R: u from the left, w from the right. What is left has to leave a alone,
    which gives w and one equation for u; and has to be a shear along b before one along c, which gives another.
    """
    r = rotation[np.ix_(order, order)]
    equations = np.array([[r[1, 0], r[2, 0]], [r[1, 0] * r[1, 1], r[1, 0] * r[2, 1]]])
    sides = np.array([r[0, 0] - 1, r[1, 0] * r[0, 1] - r[1, 1] + 1])
    u = np.linalg.lstsq(equations, sides, rcond=1e-12)[0]
    left, right = np.eye(3), np.eye(3)
    left[0, 1:] = -u
    w = (left @ r)[0, 1:]
    right[0, 1:] = -w
    rest = left @ r @ right
    along_b = np.array([rest[1, 0], 0.0, rest[1, 2]])
    d = rest[2, 1]
    along_c = np.array([rest[2, 0] - d * along_b[0], d, 0.0])
    slopes = [np.array([0.0, *u]), along_c, along_b, np.array([0.0, *w])]
    shears = [Shear(order[axis], _in_order(values, order)) for axis, values in zip((0, 2, 1, 0), slopes, strict=True)]
    product = np.linalg.multi_dot([one.matrix for one in shears])
    is_right = np.abs(product - rotation).max() < _ROUNDING
    return shears if is_right and max(np.abs(one.slopes).max() for one in shears) < 1 else None


def _in_order(values: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Values of permuted axes as those of the axes."""
    result = np.zeros(3)
    result[list(order)] = values
    return result


def _hull(box: Box, shear: Shear, sign: int) -> Box:
    """The smallest box that holds the sheared one, or with sign −1 that before the shear, and what filters reach."""
    low = high = shear.shift
    for (first, end), slope in zip(box, shear.slopes, strict=True):
        low += min(slope * first, slope * (end - 1))
        high += max(slope * first, slope * (end - 1))
    if sign < 0:
        low, high = -high, -low
    first, end = box[shear.axis]
    along = (int(np.floor(first + low)) - _HALF, int(np.ceil(end + high)) + _HALF)
    return tuple(along if axis == shear.axis else ends for axis, ends in enumerate(box))


def _filters(shear: Shear, before: Box, after: Box) -> LineFilters:
    """The filters of a pass, for the lines of a box."""
    others = [axis for axis in range(3) if axis != shear.axis]
    rows, columns = (np.arange(*after[axis], dtype=np.float64) for axis in others)
    moves = (shear.shift + shear.slopes[others[0]] * rows[:, None] + shear.slopes[others[1]] * columns).ravel()
    (low, high), (start, stop) = before[shear.axis], after[shear.axis]
    whole = np.rint(moves)
    if np.abs(moves - whole).max() < _WHOLE:
        return LineFilters(np.ones((len(moves), 1)), whole.astype(np.int64) + start - low, high - low, stop - start)
    whole = np.floor(moves)
    at = np.arange(1 - _HALF, _HALF + 1) - (moves - whole)[:, None]
    weights = np.sinc(at) * np.cos(0.5 * np.pi * at / _HALF) ** 2
    weights /= weights.sum(axis=1, keepdims=True)
    firsts = whole.astype(np.int64) + 1 - _HALF + start - low
    return LineFilters(weights, firsts, high - low, stop - start)
