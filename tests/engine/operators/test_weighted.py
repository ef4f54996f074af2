"""An operator whose samples are weighed: algebra, and what it is worth where photons are few."""

from __future__ import annotations

import numpy as np
import pytest

from engine.operators import Radon, Weighted
from engine.operators.linear_operator import LinearOperator
from engine.operators.proximal import ConjugateGradients
from engine.problems.noise_level import estimated
from tests.engine.io.discs import line_integrals, parallel

GEOMETRY = parallel(n=32, n_views=24)
INNER = Radon(GEOMETRY)
GENERATOR = np.random.default_rng(0)
ROOTS = (0.1 + GENERATOR.random((3, *INNER.data_shape))).astype(np.float32)


@pytest.fixture
def operator() -> LinearOperator:
    return Weighted(INNER, ROOTS)


def test_the_adjoint_is_the_transpose(operator):
    x = GENERATOR.standard_normal((3, 32, 32)).astype(np.float32)
    y = GENERATOR.standard_normal((3, *INNER.data_shape)).astype(np.float32)
    seen, back = operator.apply(x).astype(np.float64), operator.adjoint(y).astype(np.float64)
    assert np.vdot(seen, y) == pytest.approx(np.vdot(x, back), rel=1e-5)
    np.testing.assert_array_equal(operator.apply(x), INNER.apply(x) * ROOTS)


def test_a_part_of_the_stack_has_its_own_weights(operator):
    x = GENERATOR.standard_normal((3, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(operator.at(slice(1, 3)).apply(x[1:]), operator.apply(x)[1:])
    with pytest.raises(ValueError, match="slices"):
        operator.apply(x[:2])


def test_the_classical_image_is_that_of_the_samples_themselves(operator):
    y = line_integrals(GEOMETRY, n_slices=3)
    np.testing.assert_allclose(operator.classical(y * ROOTS), INNER.classical(y), atol=1e-6)


def test_the_norm_is_that_of_the_heaviest_slice():
    roots = ROOTS.copy()
    roots[1] *= 3
    alone = Weighted(INNER, roots[1:2]).as_scipy(1)
    largest = np.linalg.norm(alone @ np.eye(32 * 32, dtype=np.float32), 2)
    assert Weighted(INNER, roots).norm(50) == pytest.approx(largest, rel=1e-3)
    assert Weighted(INNER, np.ones_like(roots)).norm() == pytest.approx(INNER.norm(), rel=1e-6)


@pytest.mark.parametrize("roots", [ROOTS[:, 1:], ROOTS.astype(np.float64), 0 * ROOTS, np.inf * ROOTS, -ROOTS])
def test_weights_that_are_none_are_refused(roots):
    with pytest.raises(ValueError, match="roots: expected"):
        Weighted(INNER, roots)


def counts_of(i0: float) -> tuple[np.ndarray, np.ndarray]:
    """Photons behind discs that let between all and a hundredth of them through."""
    bones = (0.15, 0.0, -0.5, 0.5), (0.15, 0.0, 0.5, 0.5)
    integrals = line_integrals(GEOMETRY, ((0.8, 0.0, 0.0, 0.04), *bones), n_slices=3)
    return np.maximum(np.random.default_rng(1).poisson(i0 * np.exp(-integrals)), 1), integrals


def test_weights_of_counts_keep_the_noise_of_starved_rays_out():
    counts, exact = counts_of(100.0)
    y, weights = -np.log(counts / 100).astype(np.float32), (counts / counts.mean()).astype(np.float32)
    start = np.zeros((3, 32, 32), np.float32)
    truth, _ = ConjugateGradients(INNER, exact, 100)(start, 0.01)

    def error(operator: LinearOperator, data: np.ndarray) -> float:
        # Hardly damped: what is left is noise.
        return float(np.linalg.norm(ConjugateGradients(operator, data, 60)(start, 0.01)[0] - truth))

    equal, weighed = error(INNER, y), error(Weighted(INNER, np.sqrt(weights)), y * np.sqrt(weights))
    assert weighed < 0.7 * equal


def test_the_noise_of_weighed_counts_is_the_same_everywhere():
    counts, exact = counts_of(4000.0)
    roots = np.sqrt(counts).astype(np.float32)
    noise = (-np.log(counts / 4000) - exact) * roots
    assert noise[counts > 2000].std() == pytest.approx(1, abs=0.1)
    assert noise[counts < 1000].std() == pytest.approx(1, abs=0.1)
    wide = Radon(parallel(n=32, n_views=24, n_bins=64))
    y = GENERATOR.standard_normal((3, *wide.data_shape)).astype(np.float32)
    assert estimated(Weighted(wide, np.ones_like(y)), y) == pytest.approx(1, abs=0.1)
