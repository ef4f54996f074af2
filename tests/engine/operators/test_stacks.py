"""Stacks of thick slices anywhere in a volume: where samples lie in the world, what they weigh, and the transpose."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from engine.operators import Stacks, ThickSlices
from engine.operators.proximal import JointConjugateGradients
from engine.operators.thick_stack import StackGeometry, ThickStack

SHAPE = (24, 20, 28)


def along(axis: int, factor: int, shape=SHAPE, thickness: float | None = None, profile: str = "box") -> StackGeometry:
    """A stack on the volume's own grid."""
    size = [n // factor if i == axis else n for i, n in enumerate(shape)]
    to_grid = np.eye(4)
    to_grid[axis, axis], to_grid[axis, 3] = factor, (factor - 1) / 2
    return StackGeometry(tuple(size), to_grid, axis, thickness or factor, profile)


def turned(geometry: StackGeometry, *degrees: float, shift=(0.0, 0.0, 0.0)) -> StackGeometry:
    """The same, turned about the volume's middle."""
    middle, motion = (np.array(SHAPE) - 1) / 2, np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec(np.radians(degrees)).as_matrix()
    motion[:3, 3] = middle - motion[:3, :3] @ middle + shift
    return StackGeometry(geometry.shape, motion @ geometry.to_grid, geometry.slice_axis, geometry.thickness)


GEOMETRIES = {
    "aligned": along(2, 4),
    "across": along(0, 3),
    "turned": turned(along(1, 5), 3, -2, 4, shift=(0.5, 1.2, -0.7)),
    "oblique": turned(along(2, 4), 40, 10, 0),
    "gap": along(0, 4, thickness=2.5),
}


def normal(shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("profile", "gap"), [("box", 0), ("box", 1.5), ("gaussian", 0)])
@pytest.mark.parametrize("axis", [1, 2])
def test_on_the_grid_it_is_thick_slices(axis, profile, gap):
    x, one = normal(SHAPE), ThickStack(SHAPE, along(axis, 4, thickness=4 - gap, profile=profile))
    expected = ThickSlices(SHAPE[1:], 4, axis, profile, gap).apply(x)
    assert one.is_aligned
    np.testing.assert_allclose(one.apply(x), expected, atol=1e-6)


def test_axes_in_any_order_and_direction():
    """A stack whose array lies otherwise in memory has the same samples."""
    x, plain = normal(SHAPE), along(2, 4)
    order, flips = (2, 0, 1), (True, False, True)
    to_grid = plain.to_grid.copy()
    for axis, flip in enumerate(flips):
        if flip:
            to_grid[:3, 3] += to_grid[:3, axis] * (plain.shape[axis] - 1)
            to_grid[:3, axis] *= -1
    to_grid = to_grid[:, [*order, 3]]
    other = StackGeometry(tuple(plain.shape[i] for i in order), to_grid, 0, 4)
    expected = np.flip(ThickStack(SHAPE, plain).apply(x), [i for i, flip in enumerate(flips) if flip]).transpose(order)
    got = ThickStack(SHAPE, other)
    np.testing.assert_allclose(got.apply(x), expected, atol=1e-6)
    y = normal(other.shape, 1)
    assert np.vdot(got.apply(x), y) == pytest.approx(np.vdot(x, got.adjoint(y)), rel=1e-4)


def test_samples_lie_where_their_affine_says():
    """Of 200 random geometries: what is linear in the world is seen with its value at the middle of each sample."""
    rng, n_seen, shape = np.random.default_rng(0), 0, (48, 44, 52)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    for _ in range(200):
        slope, axis = rng.standard_normal(3), int(rng.integers(3))
        x = (grid @ slope + 3).astype(np.float32)
        pitch = rng.uniform(0.7, 1.6, 3)
        pitch[axis] = rng.uniform(1.5, 5)
        matrix = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix() * rng.choice([-1, 1], 3) * pitch
        size = rng.integers(6, 10, 3)
        to_grid = np.eye(4)
        to_grid[:3, :3] = matrix
        to_grid[:3, 3] = (np.array(shape) - 1) / 2 - matrix @ ((size - 1) / 2) + rng.uniform(-1, 1, 3)
        one = ThickStack(shape, StackGeometry(tuple(size), to_grid, axis, pitch[axis] * rng.uniform(0.5, 1.1)))
        places = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1) @ matrix.T + to_grid[:3, 3]
        # Far from the border, beyond which there are zeros.
        deep = ((places > 17) & (places < np.array(shape) - 18)).all(axis=-1)
        assert one.is_inside[deep].all()
        off = np.abs(one.apply(x) - (places @ slope + 3)) / np.abs(slope).sum()
        # Pixels that are all but as wide as voxels count as them; the first and last samples end with whole voxels.
        middle = np.zeros(size, bool)
        middle[2:-2, 2:-2, 2:-2] = True
        n_seen += int((deep & middle).sum())
        assert off[deep & middle].max(initial=0) < 0.02
        assert off[deep].max(initial=0) < 0.15
    assert n_seen > 1000


@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_transpose_is_exact(xp, to_numpy, name):
    operator = Stacks(SHAPE, [GEOMETRIES["aligned"], GEOMETRIES[name]])
    x, y = normal(SHAPE), normal(operator.n_samples, 1)
    seen = to_numpy(operator.apply(xp.asarray(x))).astype(np.float64)
    back = to_numpy(operator.adjoint(xp.asarray(y))).astype(np.float64)
    assert np.vdot(seen, y) == pytest.approx(np.vdot(x, back), rel=1e-4)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_constant_stays_one(name):
    one = ThickStack(SHAPE, GEOMETRIES[name])
    seen = one.apply(np.full(SHAPE, 2, np.float32))
    assert one.is_inside.mean() > 0.2
    np.testing.assert_allclose(seen[one.is_inside], 2, atol=0.05)
    operator = Stacks(SHAPE, [GEOMETRIES["aligned"], GEOMETRIES[name]])
    constant = operator.classical(operator.apply(np.full(SHAPE, 2, np.float32)))
    inner = constant[8:-8, 8:-8, 8:-8]
    np.testing.assert_allclose(inner, 2, atol=0.1)


def test_joint_conjugate_gradients_solve_the_normal_equations(xp, to_numpy):
    shape = (6, 5, 8)
    operator = Stacks(shape, [along(2, 4, shape), along(0, 3, shape)])
    z, y, rho = normal(shape), normal(operator.n_samples, 1), 0.05
    rows = np.stack([operator.apply(unit.reshape(shape)) for unit in np.eye(z.size, dtype=np.float32)], axis=1)
    normal_matrix = rows.T @ rows + rho * np.eye(z.size)
    expected = np.linalg.solve(normal_matrix, rows.T @ y + rho * z.ravel()).reshape(shape)
    got, squared = JointConjugateGradients(operator, xp.asarray(y), 30)(xp.asarray(z), rho)
    np.testing.assert_allclose(to_numpy(got), expected, atol=1e-4)
    assert float(to_numpy(squared)[0]) == pytest.approx(((operator.apply(z) - y) ** 2).sum(), rel=1e-4)
    assert operator.squared_residual(z, y) == pytest.approx(float(to_numpy(squared)[0]), rel=1e-4)
    assert operator.norm() == pytest.approx(np.linalg.norm(rows, 2), rel=1e-3)


def test_samples_that_see_more_than_the_volume_count_for_nothing():
    beyond = along(2, 4)
    to_grid = beyond.to_grid.copy()
    to_grid[0, 3] -= 4
    operator = Stacks(SHAPE, [StackGeometry(beyond.shape, to_grid, 2, 4)])
    seen = operator.parts_of(operator.joined([np.ones(beyond.shape, np.float32)]))[0]
    np.testing.assert_array_equal(seen[:4], 0)
    np.testing.assert_array_equal(seen[4:], 1)


def test_skewed_axes_are_refused():
    to_grid = np.eye(4)
    to_grid[0, 1] = 0.2
    with pytest.raises(ValueError, match="perpendicular axes"):
        ThickStack(SHAPE, StackGeometry((5, 5, 5), to_grid, 2, 1))


def test_wrong_arrays_are_refused():
    operator = Stacks(SHAPE, [along(2, 4)])
    with pytest.raises(ValueError, match="x: expected 24 slices along axis 0"):
        operator.apply(np.zeros((3, 20, 28), np.float32))
    with pytest.raises(ValueError, match="y: expected 3360 samples"):
        operator.adjoint(np.zeros(5, np.float32))
    with pytest.raises(ValueError, match="rho: expected at least 0"):
        operator.proximal(np.zeros(3360, np.float32))(np.zeros(SHAPE, np.float32), -1.0)
