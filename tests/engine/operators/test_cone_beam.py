"""The cone beam of a stack in the layout of any plane."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

import kernels
from engine.operators import ConeBeam, WeightedVolume
from kernels import ConeGeometry

ANGLES = np.linspace(0.2, 0.2 + 2 * np.pi, 7, endpoint=False)
GEOMETRY = ConeGeometry((9, 12, 10), ANGLES, 30.0, 12.0, 11, 17, 1.3, 1.2, 0.3, -0.7)
every_order = pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)


def normal(shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def stack_of(volume: np.ndarray, order) -> np.ndarray:
    """The stack whose axes `order` are the geometry's slices, rows and columns."""
    return np.ascontiguousarray(np.moveaxis(volume, (0, 1, 2), order))


@every_order
def test_every_layout_has_the_same_projections(order):
    operator, x = ConeBeam(GEOMETRY, order), normal(GEOMETRY.shape)
    stack = stack_of(x, order)
    assert operator.shape == stack.shape
    seen = operator.apply(stack)
    np.testing.assert_array_equal(operator.projections_of(seen), kernels.cone_forward(x, GEOMETRY))
    np.testing.assert_array_equal(
        operator.classical(seen), stack_of(kernels.cone_fdk(operator.projections_of(seen), GEOMETRY), order)
    )


@every_order
def test_the_transpose_is_exact(xp, to_numpy, order):
    operator = ConeBeam(GEOMETRY, order)
    x, y = normal(operator.shape), normal(operator.n_samples, 1)
    seen = to_numpy(operator.apply(xp.asarray(x))).astype(np.float64)
    back = to_numpy(operator.adjoint(xp.asarray(y))).astype(np.float64)
    # The weights are the same bits; sums of float32 are rounded.
    assert abs(np.vdot(seen, y) - np.vdot(x, back)) <= 1e-6 * np.linalg.norm(seen) * np.linalg.norm(y)


def test_fdk_finds_a_sphere(xp, to_numpy):
    n = 24
    geometry = ConeGeometry((n, n, n), np.linspace(0, 2 * np.pi, 60, endpoint=False), 80.0, 40.0, 48, 48)
    operator = ConeBeam(geometry, (1, 0, 2))
    distance = np.sqrt(sum((axis - (n - 1) / 2) ** 2 for axis in np.indices((n, n, n))))
    sphere = np.clip(8.5 - distance, 0, 1).astype(np.float32)
    found = to_numpy(operator.classical(operator.apply(xp.asarray(sphere))))
    assert found[distance < 5].mean() == pytest.approx(1, abs=0.02)
    assert np.abs(found[distance > 10.5]).mean() < 0.03


def test_the_proximal_map_moves_towards_the_measurement():
    operator, truth = ConeBeam(GEOMETRY, (2, 0, 1)), abs(normal((12, 10, 9)))
    y = operator.apply(truth)
    moved, squared = operator.proximal(y)(np.zeros(operator.shape, np.float32), 0.0)
    assert squared[0] == pytest.approx(float((y.astype(np.float64) ** 2).sum()), rel=1e-5)
    assert operator.squared_residual(moved, y) < 0.01 * squared[0]


def test_what_is_no_permutation_is_refused():
    with pytest.raises(ValueError, match=r"^order: expected a permutation of \(0, 1, 2\), got \(0, 0, 1\); "):
        ConeBeam(GEOMETRY, (0, 0, 1))


def weighted(order=(2, 0, 1)) -> WeightedVolume:
    inner = ConeBeam(GEOMETRY, order)
    return WeightedVolume(inner, 0.1 + np.random.default_rng(5).random(inner.n_samples, np.float32))


def test_the_transpose_of_weighed_samples_is_exact():
    operator = weighted()
    x, y = normal(operator.shape), normal(operator.n_samples, 1)
    seen, back = operator.apply(x), operator.adjoint(y)
    np.testing.assert_array_equal(seen, operator.inner.apply(x) * operator.roots)
    assert abs(np.vdot(seen, y) - np.vdot(x, back)) <= 1e-5 * np.linalg.norm(seen) * np.linalg.norm(y)
    np.testing.assert_allclose(operator.classical(seen), operator.inner.classical(operator.inner.apply(x)), atol=1e-5)
    assert operator.proximal(y).n_iterations == operator.inner.n_iterations


@pytest.mark.parametrize(
    "change", [lambda roots: roots[1:], lambda roots: roots.astype(np.float64), lambda roots: roots - 1]
)
def test_roots_without_sense_are_refused(change):
    operator = weighted()
    with pytest.raises(ValueError, match=r"^roots: expected .*, got .*; "):
        WeightedVolume(operator.inner, change(operator.roots))
