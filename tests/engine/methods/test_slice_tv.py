"""Data consistency with total variation across slices, against dense algebra, and the samplers that use it."""

from __future__ import annotations

import numpy as np
import pytest

from engine.methods.dds import Dds
from engine.methods.diffusion_mbir import DiffusionMbir
from engine.methods.slice_tv import SliceTv, jumps_adjoint, jumps_of, no_splitting, shrink
from engine.operators import MaskedFourier, ThickSlices
from engine.parallel.stack import Stack
from engine.sampling.noise import CounterNoise, Phase
from engine.sampling.posterior_mean import PosteriorMean, Prior
from engine.sampling.predictor_corrector import PredictorCorrector
from engine.sampling.problem import InverseProblem
from engine.sampling.sampler import State
from engine.sampling.schedule import Levels, Schedule
from engine.volume import Plane
from tests.engine.sampling.test_sampler import Gaussian

AXIAL = Plane.parse("axial")
N, H, W = 5, 4, 4
#: float32 in a few dozen operations on numbers of order one.
ROUNDING = 1e-5


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def thick(weight: float = 0.1, rho: float = 0.3, n_conjugate: int = 100, n: int = N) -> SliceTv:
    operator = ThickSlices((H, W), 2, 1)
    return SliceTv(operator, operator.apply(normal(n, H, W, seed=7)), weight, rho, n_conjugate, operator.norm())


def dense(linear, shape: tuple[int, ...]) -> np.ndarray:
    """The matrix of a linear function of arrays."""
    units = np.eye(int(np.prod(shape)), dtype=np.float32).reshape(-1, *shape)
    return np.stack([linear(unit).ravel() for unit in units], axis=1).astype(np.float64)


def parts(y: np.ndarray) -> np.ndarray:
    """Real and imaginary parts."""
    return np.stack([y.real, y.imag])


def objective(tv: SliceTv, x: np.ndarray) -> float:
    fidelity = tv.operator.apply(x) - tv.measurement
    return 0.5 * float((abs(fidelity) ** 2).sum()) / tv.norm**2 + tv.weight * float(abs(jumps_of(x)).sum())


@pytest.mark.parametrize("n", [1, 2, 5])
def test_jumps_and_their_transpose(n):
    x, jumps = normal(n, H, W), normal(n - 1, H, W, seed=1)
    np.testing.assert_array_equal(jumps_of(x), np.diff(x, axis=0))
    assert np.vdot(jumps_of(x), jumps) == pytest.approx(np.vdot(x, jumps_adjoint(jumps)), abs=1e-4)


def test_shrinking():
    x = np.array([-3, -1, -0.5, 0, 0.5, 1, 3], np.float32)
    np.testing.assert_array_equal(shrink(x, 1.0), np.array([-2, 0, 0, 0, 0, 0, 2], np.float32))


def test_one_iteration_is_that_of_admm():
    """With as many conjugate gradients as unknowns, x solves the linear system; z and u follow from it."""
    # Weights of samples that differ, and none is zero: the linear system has one solution.
    operator = MaskedFourier(1 + normal(H, W, seed=5).clip(-0.7, 0.7))
    y = operator.apply(normal(N, H, W, seed=7))
    tv = SliceTv(operator, y, 0.1, 0.3, 100, operator.norm())
    x, z, u = normal(N, H, W), normal(N - 1, H, W, seed=1), normal(N - 1, H, W, seed=2)
    a, d = dense(lambda s: parts(operator.apply(s)) / tv.norm, x.shape), dense(jumps_of, x.shape)
    known = a.T @ parts(y).ravel() / tv.norm + tv.rho * d.T @ (z - u).ravel()
    expected = np.linalg.solve(a.T @ a + tv.rho * d.T @ d, known)
    before = x.copy(), z.copy(), u.copy()
    moved, splitting, residual = tv(x, {"z": z, "u": u})
    # Conjugate gradients stop at 1e-6 of their first residual, and the system's condition number is some tens.
    np.testing.assert_allclose(moved.ravel(), expected, atol=1e-4)
    jumps = jumps_of(moved) + u
    np.testing.assert_allclose(splitting["z"], shrink(jumps, tv.weight / tv.rho), atol=ROUNDING)
    np.testing.assert_allclose(splitting["u"], jumps - splitting["z"], atol=ROUNDING)
    assert float(residual) == pytest.approx(np.linalg.norm(tv.operator.apply(x) - tv.measurement), rel=1e-5)
    for old, new in zip(before, (x, z, u), strict=True):
        np.testing.assert_array_equal(old, new)


def test_iterations_find_the_minimum():
    """The minimum's optimality: −Aᵀ(A x − y)/‖A‖² = w Dᵀ s with |s| ≤ 1, and s the sign of D x where that is not 0."""
    tv = thick(weight=0.05, n_conjugate=15)
    x, splitting = np.zeros((N, H, W), np.float32), no_splitting(np.zeros((N, H, W), np.float32))
    first = objective(tv, x)
    for _ in range(200):
        x, splitting, _ = tv(x, splitting)
    assert objective(tv, x) < 0.5 * first
    # u is the multiplier: ρu lies in w ∂‖z‖₁.
    signs = tv.rho * splitting["u"] / tv.weight
    assert abs(signs).max() <= 1 + 1e-3
    gradient = tv.operator.adjoint(tv.operator.apply(x) - tv.measurement) / np.float32(tv.norm**2)
    np.testing.assert_allclose(gradient, -tv.weight * jumps_adjoint(signs), atol=1e-3)
    large = abs(splitting["z"]) > 1e-2
    assert large.any() and not large.all()
    np.testing.assert_allclose(signs[large], np.sign(splitting["z"][large]), atol=1e-3)
    # Away from a minimum of a convex function it rises.
    assert all(objective(tv, x + 1e-2 * normal(N, H, W, seed=i)) > objective(tv, x) for i in range(5))


def test_a_single_slice_has_no_jumps():
    tv = thick(n=1, n_conjugate=5)
    x, splitting, _ = tv(normal(1, H, W), no_splitting(normal(1, H, W)))
    np.testing.assert_allclose(tv.operator.apply(x), tv.measurement, atol=ROUNDING)
    assert splitting["z"].shape == (0, H, W)


def test_what_agrees_already_stays():
    """No direction is left to walk along, and none is made of rounding."""
    tv = thick(weight=0.0)
    x = np.ones((N, H, W), np.float32)
    tv = SliceTv(tv.operator, tv.operator.apply(x), 0.0, tv.rho, 5, tv.norm)
    moved, _, residual = tv(x, no_splitting(x))
    np.testing.assert_allclose(moved, x, atol=1e-6)
    assert float(residual) == pytest.approx(0, abs=1e-6)


# --- the samplers


def complete(weight: float = 0.0) -> tuple[np.ndarray, SliceTv]:
    """A volume, and what compares with all of its samples."""
    truth = normal(N, 8, 8, seed=3)
    operator = MaskedFourier(np.ones((8, 8), np.float32))
    return truth, SliceTv.of(
        InverseProblem(AXIAL, AXIAL.volume_shape(truth.shape), operator, operator.apply(truth)), weight, 1e-6, 5
    )


def samplers(tv: SliceTv, n_steps: int = 3) -> dict[str, Dds | DiffusionMbir]:
    prior, noise = Prior(Gaussian(0.3), AXIAL), CounterNoise(0)
    posterior_mean = PosteriorMean((prior,), np.zeros(n_steps, int), (1.0,))
    inner = PredictorCorrector(posterior_mean, Schedule(0.01, 0.3, n_steps), noise)
    return {
        "dds": Dds(prior, tv, Levels(0.01, 0.3, n_steps), noise),
        "diffusionmbir": DiffusionMbir(inner, tv),
    }


def start(shape: tuple[int, int, int]) -> State:
    x = normal(*shape, seed=4)
    return State(Stack(x, AXIAL, AXIAL.volume_shape(x.shape)), memory=no_splitting(x))


@pytest.mark.parametrize("name", ["dds", "diffusionmbir"])
def test_complete_data_without_total_variation_are_the_result(name):
    truth, tv = complete()
    sampler, state = samplers(tv)[name], start(truth.shape)
    for _ in range(3):
        state = sampler.step(state)
    np.testing.assert_allclose(state.x.data, truth, atol=1e-4)


def test_a_step_of_dds_is_its_formula():
    tv = thick()
    sampler, state = samplers(tv)["dds"], start((N, H, W))
    x = state.x.data
    sigma, after = sampler.sigmas[:2]
    x0 = np.float32(0.3**2 / (0.3**2 + sigma**2)) * x
    moved, splitting, _ = tv(x0, state.memory)
    z = CounterNoise(0).draw(0, Phase.PREDICTOR, AXIAL, state.x.shape)
    part = 0.85 * np.sqrt(1 - (after / sigma) ** 2)
    expected = moved + after * (np.sqrt(1 - part**2) * (x - x0) / sigma + part * z)
    found = sampler.step(state)
    np.testing.assert_allclose(found.x.data, expected, atol=ROUNDING)
    np.testing.assert_array_equal(found.memory["u"], splitting["u"])
    assert found.step == 1 and state.step == 0


def test_a_step_of_diffusionmbir_is_a_samples_step_moved():
    tv = thick()
    sampler, state = samplers(tv)["diffusionmbir"], start((N, H, W))
    inner = sampler.prior
    for is_last in (False, False, True):
        noisy = PredictorCorrector(
            inner.posterior_mean, inner.schedule, inner.noise, inner.group, inner.snr, predictor_noise=not is_last
        )
        expected, splitting, _ = tv(noisy.step(state).x.data, state.memory)
        state = sampler.step(state)
        np.testing.assert_array_equal(state.x.data, expected)
        np.testing.assert_array_equal(state.memory["z"], splitting["z"])


@pytest.mark.parametrize("name", ["dds", "diffusionmbir"])
def test_weight_brings_slices_together(name):
    def variation(weight: float) -> float:
        operator = ThickSlices((8, 8), 4, 1)
        task = InverseProblem(AXIAL, (8, 8, N), operator, operator.apply(normal(N, 8, 8, seed=3)))
        sampler, state = samplers(SliceTv.of(task, weight, 0.1, 5), 6)[name], start((N, 8, 8))
        for _ in range(6):
            state = sampler.step(state)
        return float(abs(jumps_of(state.x.data)).sum())

    assert variation(0.1) < 0.8 * variation(0.0)
