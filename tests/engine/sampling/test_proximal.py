"""Proximal steps against dense solutions of the same least squares, on every array library."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from engine.operators import CoilFourier, LinearOperator, MaskedFourier, ThickSlices
from engine.operators.proximal import ConjugateGradients
from engine.sampling.proximal import ProximalConsistency
from tests.engine.operators.test_data_fidelity import BUILDERS, N, data, image, norms

#: Small enough for a dense matrix.
SMALL = {name: build for name, build in BUILDERS.items() if "large" not in name}


@pytest.fixture(params=SMALL.values(), ids=SMALL.keys())
def operator(request, xp) -> LinearOperator:
    return request.param(xp)


def real(a: np.ndarray) -> np.ndarray:
    """Complex numbers as pairs of real ones: the transpose of a real image's operator is taken over the reals."""
    flat = np.ascontiguousarray(a).reshape(len(a), -1)
    return flat.view(np.float32).astype(np.float64) if np.iscomplexobj(a) else flat.astype(np.float64)


def dense(xp, to_numpy, operator, i) -> np.ndarray:
    """The operator of slice i as a real matrix, (data, image)."""
    one = operator.at(slice(i, i + 1))
    parts = 2 if operator.image_dtype == np.complex64 else 1
    n = parts * int(np.prod(operator.slice_shape))
    basis = np.eye(n, dtype=np.float32)
    images = basis.view(np.complex64) if parts == 2 else basis
    images = images.reshape(n, *operator.slice_shape)
    columns = [real(to_numpy(one.apply(xp.asarray(x[None]))))[0] for x in images]
    return np.stack(columns, axis=1)


def minimiser(matrix, y, z, rho):
    """argmin ½‖A x − y‖² + ½ρ‖x − z‖², for ρ = 0 the one nearest to z."""
    if rho == 0:
        return z + np.linalg.pinv(matrix, rcond=1e-6) @ (y - matrix @ z)
    gram = matrix.T @ matrix + rho * np.eye(matrix.shape[1])
    return np.linalg.solve(gram, matrix.T @ y + rho * z)


@pytest.mark.parametrize("rho", [0.0, 0.3, 100.0])
def test_proximal_step_is_the_least_squares_solution(xp, to_numpy, operator, rho):
    z, y = image(xp, operator, 1), data(xp, operator, 2)
    proximal = operator.proximal(y)
    if isinstance(proximal, ConjugateGradients):
        # As many iterations as unknowns, and some for rounding.
        proximal = ConjugateGradients(operator, y, 4 * int(np.prod(operator.slice_shape)))
    x, squared = proximal(z, rho)
    assert isinstance(x, xp.ndarray)
    assert x.dtype == operator.image_dtype
    expected = [
        minimiser(dense(xp, to_numpy, operator, i), real(to_numpy(y))[i], real(to_numpy(z))[i], rho) for i in range(N)
    ]
    # float32, in systems whose condition is some hundreds.
    np.testing.assert_allclose(real(to_numpy(x)), expected, atol=2e-3 * np.abs(expected).max())
    there = norms(to_numpy(operator.apply(z)) - to_numpy(y))
    np.testing.assert_allclose(to_numpy(squared), there, rtol=1e-4)


def test_few_iterations_lower_the_objective_step_by_step(xp, to_numpy, operator):
    z, y, rho = image(xp, operator, 1), data(xp, operator, 2), 0.1

    def objective(x):
        return norms(to_numpy(operator.apply(x)) - to_numpy(y)) + rho * norms(to_numpy(x) - to_numpy(z))

    values = [objective(z), *(objective(ConjugateGradients(operator, y, n)(z, rho)[0]) for n in (1, 2, 4))]
    for before, after in pairwise(values):
        assert (after <= before * (1 + 1e-4)).all()


def test_iterations_beyond_the_solution_change_nothing(xp, to_numpy, operator):
    """What is left of a residual is rounding then, and no direction to go in."""
    z, y = image(xp, operator, 1), data(xp, operator, 2)
    enough = 4 * int(np.prod(operator.slice_shape))
    one, other = (to_numpy(ConjugateGradients(operator, y, n)(z, 0.5)[0]) for n in (enough, enough + 50))
    np.testing.assert_allclose(other, one, atol=1e-4 * np.abs(one).max())


def test_a_consistent_estimate_stays_where_it_is(xp, to_numpy, operator):
    z = image(xp, operator, 1)
    x, squared = operator.proximal(operator.apply(z))(z, 0.0)
    np.testing.assert_allclose(to_numpy(x), to_numpy(z), atol=1e-4 * np.abs(to_numpy(z)).max())
    assert (to_numpy(squared) <= 1e-8 * norms(to_numpy(operator.apply(z))) + 1e-12).all()


def test_parts_of_a_large_stack_are_solved_alike(xp, to_numpy, operator, monkeypatch):
    z, y = image(xp, operator, 1), data(xp, operator, 2)
    whole, squared = ConjugateGradients(operator, y)(z, 0.2)
    monkeypatch.setattr("engine.operators.proximal._SAMPLES_AT_ONCE", 2 * int(np.prod(operator.data_shape)))
    parts, squared_parts = ConjugateGradients(operator, y)(z, 0.2)
    np.testing.assert_allclose(to_numpy(parts), to_numpy(whole), atol=1e-5 * np.abs(to_numpy(whole)).max())
    np.testing.assert_allclose(to_numpy(squared_parts), to_numpy(squared), rtol=1e-5)


def test_an_operator_that_sees_nothing_moves_nothing(xp, to_numpy):
    operator = MaskedFourier(xp.zeros((6, 5), np.float32))
    z = image(xp, operator, 1)
    x, _ = operator.proximal(xp.zeros((N, 6, 5), np.complex64))(z, 0.0)
    np.testing.assert_allclose(to_numpy(x), to_numpy(z), atol=1e-6)


@pytest.mark.parametrize("rho", [-1.0, float("nan")])
def test_a_negative_rho_is_refused(rho):
    operator = ThickSlices((6, 6), 2, axis=1)
    with pytest.raises(ValueError, match=r"^rho: expected at least 0"):
        operator.proximal(np.zeros((2, 3, 6), np.float32))(np.zeros((2, 6, 6), np.float32), rho)


def test_another_number_of_slices_is_refused():
    operator = ThickSlices((6, 6), 2, axis=1)
    with pytest.raises(ValueError, match=r"^z: expected 2 slices along axis 0 as in the measurement, got 3"):
        operator.proximal(np.zeros((2, 3, 6), np.float32))(np.zeros((3, 6, 6), np.float32), 0.0)
    with pytest.raises(ValueError, match=r"^measurement: expected 3 thick slices along axis 1, got 4 in the"):
        operator.proximal(np.zeros((2, 4, 6), np.float32))


# --- how much the measurement is trusted


def test_rho_is_the_ratio_of_the_two_variances():
    operator = ThickSlices((6, 6), 2, axis=1)
    y = np.zeros((2, 3, 6), np.float32)
    assert ProximalConsistency(operator, y).rho(0.1) == 0
    noisy = ProximalConsistency(operator, y, noise_level=0.02)
    # Far below the spread of intensities x̂₀ errs by σ; far above, by the spread.
    assert noisy.rho(1e-3) == pytest.approx((0.02 / 1e-3) ** 2, rel=1e-4)
    assert noisy.rho(1e3) == pytest.approx((0.02 / ProximalConsistency.SPREAD) ** 2, rel=1e-4)
    # A constant is in units of ‖A‖², here that of means of two.
    assert ProximalConsistency(operator, y, rho=0.5).rho(1.0) == pytest.approx(0.5 * 0.5, rel=1e-4)


def test_the_rule_gives_the_posterior_mean_of_a_gaussian(xp, to_numpy):
    """For a normal of known error r and noise s, no other x has a smaller mean squared error."""
    operator = ThickSlices((8, 8), 2, axis=1)
    generator = np.random.default_rng(0)
    n, sigma, s = 400, 0.05, 0.03
    truth = generator.standard_normal((n, 8, 8)).astype(np.float32)
    r = sigma * ProximalConsistency.SPREAD / np.hypot(sigma, ProximalConsistency.SPREAD)
    z = truth + (r * generator.standard_normal(truth.shape)).astype(np.float32)
    y = operator.apply(truth)
    y += (s * generator.standard_normal(y.shape)).astype(np.float32)
    consistency = ProximalConsistency(operator, xp.asarray(y), noise_level=s)
    best = consistency.rho(sigma)

    def error(rho):
        return float(((to_numpy(consistency.proximal(xp.asarray(z), rho)[0]) - truth) ** 2).mean())

    assert error(best) < min(error(0.5 * best), error(2 * best), error(0.0))


class _Plain(CoilFourier):
    """Without what its iterations divide by."""

    def normal_diagonal(self):
        return None


def test_coils_that_see_unevenly_take_no_more_iterations():
    """As where maps were not normalised, or channels mixed by their noise: a tenth is seen of some pixels."""
    rng = np.random.default_rng(0)
    gain = np.linspace(1, 10, 32)[:, None] * np.ones(32)
    maps = (rng.standard_normal((1, 4, 32, 32)) + 1j * rng.standard_normal((1, 4, 32, 32))) * gain
    maps = (maps / np.linalg.norm(maps / gain, axis=1, keepdims=True)).astype(np.complex64)
    mask = (rng.random((32, 32)) < 0.5).astype(np.float32)
    truth = rng.random((1, 32, 32), np.float32)
    start = np.zeros_like(truth)
    errors = []
    for kind in (CoilFourier, _Plain):
        operator = kind(mask, maps)
        y = operator.apply(truth)
        best, _ = ConjugateGradients(operator, y, 500)(start, 1.0)
        np.testing.assert_allclose(best, truth, atol=0.05)
        x, _ = ConjugateGradients(operator, y)(start, 1.0)
        errors.append(float(np.linalg.norm(x - best)))
    assert errors[0] < 0.2 * errors[1]
    # Normalised ones cost nothing more, and give the very same.
    even = CoilFourier(mask, (maps / gain).astype(np.complex64))
    assert even.normal_diagonal() is None
    np.testing.assert_allclose(
        CoilFourier(mask, maps).normal_diagonal()[0], mask.sum() * gain**2, rtol=1e-4, atol=0.011 * mask.sum() * 100
    )
