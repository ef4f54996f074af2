"""A volume turned by shears: the products are rotations, the transposes exact, the result that of long splines."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from engine import demo
from engine.operators.shears import Resampling, affine_shears, linear_shears

SHAPE = (20, 24, 28)
MIDDLE = (np.array(SHAPE) - 1) / 2


def rotation(*degrees: float) -> np.ndarray:
    return Rotation.from_rotvec(np.radians(degrees)).as_matrix()


def about_middle(matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return MIDDLE - matrix @ MIDDLE + shift


def smooth(seed: int = 0) -> np.ndarray:
    """Nothing near the border, and no detail finer than a few voxels."""
    inner = np.pad(np.random.default_rng(seed).standard_normal([n - 12 for n in SHAPE]), 6)
    return ndimage.gaussian_filter(inner, 1.5).astype(np.float32)


@pytest.mark.parametrize("degrees", [0.01, 3, 30, 44])
@pytest.mark.parametrize(
    "direction", [(1, 1, 1), (1, -2, 0.5), (0, 0, 1), (1, 0, 0), (1, 1, 0), (1, 1e-8, -1e-9)], ids=str
)
def test_shears_make_a_rotation(degrees, direction):
    matrix = rotation(*(degrees * np.array(direction) / np.linalg.norm(direction)))
    shears = linear_shears(matrix)
    assert len(shears) <= 4
    np.testing.assert_allclose(reduce(np.matmul, [one.matrix for one in shears]), matrix, atol=1e-8)
    # No shear moves further than the rotation itself.
    assert max(np.abs(one.slopes).max() for one in shears) <= np.radians(degrees) * (1 + 1e-6)


def test_shears_make_a_motion():
    matrix, shift, point = rotation(3, -2, 5), np.array([1.5, -0.3, 7.0]), np.array([3.0, 1.0, 4.0])
    moved = point
    for one in reversed(affine_shears(matrix, shift)):
        moved = one.matrix @ moved
        moved[one.axis] += one.shift
    np.testing.assert_allclose(moved, matrix @ point + shift, atol=1e-8)


def test_half_a_turn_is_refused():
    with pytest.raises(ValueError, match="less than a quarter turn"):
        linear_shears(np.diag([1.0, -1.0, -1.0]))


@pytest.mark.parametrize("degrees", [(2, -1.5, 1.7), (0, 0, 25), (0, 0, 0)], ids=str)
def test_the_result_is_that_of_splines(xp, to_numpy, degrees):
    matrix, x = rotation(*degrees), smooth()
    shift = about_middle(matrix, np.array([1.3, -0.6, 0.25]))
    moved = Resampling(SHAPE, matrix, shift, tuple((0, n) for n in SHAPE))
    got = np.zeros(SHAPE, np.float32)
    got[tuple(slice(*ends) for ends in moved.box)] = to_numpy(moved.apply(xp.asarray(x), xp))
    expected = ndimage.affine_transform(x, matrix, shift, order=5)
    assert np.abs(got - expected).max() < 0.01 * np.abs(x).max()


def test_the_transpose_is_exact(xp, to_numpy):
    matrix = rotation(4, -3, 6)
    # A box that reaches beyond the volume on one side, and sees a part of it on the other.
    moved = Resampling(SHAPE, matrix, about_middle(matrix, np.zeros(3)), ((-5, 12), (3, 40), (0, 9)))
    rng = np.random.default_rng(1)
    x = rng.standard_normal(SHAPE).astype(np.float32)
    y = rng.standard_normal([high - low for low, high in moved.box]).astype(np.float32)
    seen = to_numpy(moved.apply(xp.asarray(x), xp)).astype(np.float64)
    back = to_numpy(moved.adjoint(xp.asarray(y), xp)).astype(np.float64)
    assert back.shape == SHAPE
    assert np.vdot(seen, y) == pytest.approx(np.vdot(x, back), rel=1e-5)


def test_whole_voxels_are_copied():
    moved, x = Resampling(SHAPE, np.eye(3), np.array([2.0, 0.0, -3.0]), ((0, 5), (0, 5), (4, 9))), smooth()
    assert moved.is_copy
    np.testing.assert_array_equal(moved.apply(x, np), x[2:7, 0:5, 1:6])


def test_there_and_back_is_sharper_than_by_cubic_splines():
    head = demo.volume().data
    matrix, middle = rotation(2, -1.5, 1.7), (np.array(head.shape) - 1) / 2
    shift = middle - matrix @ middle + (1.3, -2.2, 0.7)
    moved = Resampling(head.shape, matrix, shift, tuple((0, n) for n in head.shape))
    # A rotation's transpose is its inverse.
    ours = moved.adjoint(moved.apply(head, np), np)
    there = ndimage.affine_transform(head, matrix, shift, order=3)
    theirs = ndimage.affine_transform(there, matrix.T, -matrix.T @ shift, order=3)
    inner = (slice(8, -8),) * 3
    assert np.square(ours - head)[inner].mean() < np.square(theirs - head)[inner].mean()


def test_a_box_beside_the_volume_is_refused():
    with pytest.raises(ValueError, match="box: expected one that sees the volume"):
        Resampling(SHAPE, np.eye(3), np.array([100.0, 0.0, 0.0]), ((0, 5), (0, 5), (0, 5)))
