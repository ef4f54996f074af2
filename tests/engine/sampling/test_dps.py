"""The guidance equals the gradient of the group norms, taken densely, for a denoiser whose Jacobian is known."""

from __future__ import annotations

import numpy as np
import pytest

import kernels
from engine.operators import LinearOperator, MaskedFourier, Radon, ThickSlices
from engine.parallel.stack import Stack
from engine.sampling.denoiser import CotangentOf, Denoiser
from engine.sampling.dps import Dps
from engine.volume import Plane

SHAPE = (6, 6)
N_PIXELS = SHAPE[0] * SHAPE[1]
N_SLICES = 5
SIGMA = 0.7


class LinearShrinkage(Denoiser):
    """x̂₀ = B x on every slice, B a known matrix without symmetry, taking `piece` slices at a time."""

    def __init__(self, piece: int = N_SLICES):
        noise = np.random.default_rng(8).standard_normal((N_PIXELS, N_PIXELS)) / N_PIXELS
        self.matrix = (0.6 * np.eye(N_PIXELS) + noise).astype(np.float32)
        self.piece = piece

    def _denoise(self, x, sigma):
        # One product a slice: a product of all would round differently for other numbers of slices.
        return np.stack([self.matrix @ image.ravel() for image in x]).reshape(x.shape)

    def _vjp(self, x, sigma, cotangent: CotangentOf):
        x0 = self._denoise(x, sigma)
        pulled = np.empty_like(x)
        for start in reversed(range(0, len(x), self.piece)):
            part = slice(start, min(start + self.piece, len(x)))
            pulled[part] = (cotangent(x0[part], part).reshape(-1, N_PIXELS) @ self.matrix).reshape(-1, *SHAPE)
        return x0, pulled


def fourier() -> MaskedFourier:
    return MaskedFourier((np.random.default_rng(2).random(SHAPE) < 0.5).astype(np.float32))


def radon() -> Radon:
    return Radon(kernels.ParallelGeometry.from_views(SHAPE[0], 4))


def thick() -> ThickSlices:
    return ThickSlices(SHAPE, 2, axis=2)


OPERATORS = {"fourier": fourier, "radon": radon, "thick": thick}


@pytest.fixture(params=OPERATORS.values(), ids=OPERATORS.keys())
def operator(request) -> LinearOperator:
    return request.param()


def of(x: np.ndarray) -> Stack:
    plane = Plane((0, 1, 2))
    return Stack(x, plane, plane.volume_shape(x.shape))


def dps(operator: LinearOperator, y: np.ndarray, *, weight: float | None = 1.0, noise=None, **options):
    """The guidance, with its gradient put together from directions and weights; `noise` is e."""
    renoise = None if noise is None else lambda *_: noise
    guidance = Dps(operator, y, weight, renoise=renoise, **options)

    def call(denoiser: Denoiser, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x0, direction, weights, residual = guidance(denoiser, of(x), SIGMA)
        assert (weights.shape, weights.dtype) == (x0.shape[:1], np.float32)
        assert (residual.shape, residual.dtype) == ((), np.float64)
        return x0, weights[:, None, None] * direction, residual

    return call


def stack(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N_SLICES, *shape)).astype(np.float32)


def dense(operator: LinearOperator) -> np.ndarray:
    """The operator as a real float64 matrix, imaginary parts below real ones."""
    basis = np.eye(N_PIXELS, dtype=np.float32).reshape(-1, *SHAPE)
    matrix = operator.apply(basis).reshape(N_PIXELS, -1).T.astype(np.complex128)
    return np.concatenate([matrix.real, matrix.imag]) if operator.data_dtype == np.complex64 else matrix.real


def flat(y: np.ndarray) -> np.ndarray:
    y = y.reshape(len(y), -1)
    return np.concatenate([y.real, y.imag], axis=1).astype(np.float64) if np.iscomplexobj(y) else y.astype(np.float64)


def sum_of_norms(x, A, B, y, scale, e, groups) -> float:
    """Σ over groups of ‖s·(A B x − y) − e‖₂ in float64."""
    residual = scale * (x.reshape(len(x), -1) @ B.T @ A.T - y) - e
    return sum(float(np.linalg.norm(residual[g])) for g in groups)


@pytest.mark.parametrize("group", [1, 2, 3, N_SLICES])
@pytest.mark.parametrize("renoised", [False, True], ids=["plain", "renoised"])
def test_gradient_is_the_finite_difference_of_the_group_norms(operator, group, renoised):
    denoiser, x, truth, weight, scale = LinearShrinkage(), stack(1), stack(2), 0.3, 1.5
    y = operator.apply(truth)
    noise = 0.3 * operator.apply(stack(3)) if renoised else None
    groups = of(x).groups(group)
    x0, gradient, residual = dps(operator, y, weight=weight, scale=scale, group=group, noise=noise)(denoiser, x)

    A, B = dense(operator), denoiser.matrix.astype(np.float64)
    e = 0.0 if noise is None else flat(noise)
    numeric = np.empty(x.shape)
    step = 1e-5
    for index in np.ndindex(*x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.astype(np.float64)
            moved[index] += sign * step
            ends.append(sum_of_norms(moved, A, B, flat(y), scale, e, groups))
        numeric[index] = weight * (ends[0] - ends[1]) / (2 * step)
    # Central differences in float64 are good to 1e-8 here; the float32 gradient to a few 1e-7.
    assert np.linalg.norm(gradient - numeric) <= 2e-6 * np.linalg.norm(numeric)
    np.testing.assert_allclose(x0, denoiser.denoise(x, SIGMA))
    plain = x.reshape(N_SLICES, -1) @ B.T @ A.T - flat(y)
    # The reported residual is neither scaled nor re-noised.
    assert residual == pytest.approx(np.linalg.norm(plain), rel=1e-5)


@pytest.mark.parametrize("piece", [1, 2, 3])
def test_gradient_does_not_depend_on_the_denoisers_batches(operator, piece):
    guidance = dps(operator, operator.apply(stack(2)), scale=0.8, group=2, noise=operator.apply(stack(3)))
    whole = guidance(LinearShrinkage(), stack(1))
    pieces = guidance(LinearShrinkage(piece), stack(1))
    # Products of other sizes may add in another order: a few roundings of float32.
    assert np.linalg.norm(pieces[1] - whole[1]) <= 1e-6 * np.linalg.norm(whole[1])
    assert pieces[2] == pytest.approx(whole[2], rel=1e-6)


def test_groups_change_only_the_length_of_each_slices_gradient():
    operator = fourier()
    y, x, denoiser = operator.apply(stack(2)), stack(1), LinearShrinkage()
    together = dps(operator, y, group=N_SLICES)(denoiser, x)[1]
    apart = dps(operator, y, group=1)(denoiser, x)[1]
    norms = np.linalg.norm(flat(operator.apply(denoiser.denoise(x, SIGMA)) - y), axis=1)
    for i in range(N_SLICES):
        np.testing.assert_allclose(apart[i] * norms[i], together[i] * np.linalg.norm(norms), rtol=1e-4, atol=1e-4)
    # Five slices of about equal residual: alone, each gradient is about √5 longer.
    assert 1.8 < np.linalg.norm(apart) / np.linalg.norm(together) < 2.7


def test_scale_is_a_factor_of_the_gradient_where_nothing_is_renoised(operator):
    y = operator.apply(stack(2))
    one, three = (dps(operator, y, scale=s, group=N_SLICES)(LinearShrinkage(), stack(1)) for s in (1.0, 3.0))
    np.testing.assert_allclose(three[1], 3 * one[1], rtol=1e-5, atol=1e-6)  # float32
    assert three[2] == one[2]


def test_noise_equal_to_the_residual_leaves_no_gradient(operator):
    denoiser, x, y = LinearShrinkage(), stack(1), operator.apply(stack(2))
    noise = np.float32(2) * (operator.apply(denoiser.denoise(x, SIGMA)) - y)
    _, gradient, residual = dps(operator, y, scale=2.0, group=2, noise=noise)(denoiser, x)
    np.testing.assert_array_equal(gradient, 0)
    assert residual > 1


def test_a_residual_of_zero_gives_a_gradient_of_zero(operator):
    denoiser, x = LinearShrinkage(), stack(1)
    y = operator.apply(denoiser.denoise(x, SIGMA))
    _, gradient, residual = dps(operator, y, group=2)(denoiser, x)
    np.testing.assert_array_equal(gradient, 0)
    assert residual == 0


def test_only_groups_without_residual_stay_where_they_are():
    operator, denoiser, x = fourier(), LinearShrinkage(), stack(1)
    y = operator.apply(denoiser.denoise(x, SIGMA))
    y[3:] += operator.apply(stack(4))[3:]
    gradient = dps(operator, y, group=3)(denoiser, x)[1]
    np.testing.assert_array_equal(gradient[:3], 0)
    assert (np.abs(gradient[3:]).max(axis=(1, 2)) > 0).all()


def test_stable_steps_are_gradient_steps_that_do_not_overshoot(operator):
    denoiser, x, y = LinearShrinkage(), stack(1), operator.apply(stack(2))
    scale = 1.5
    A, B = scale * dense(operator), denoiser.matrix.astype(np.float64)
    residual = x.reshape(N_SLICES, -1).astype(np.float64) @ B.T @ A.T - scale * flat(y)
    # Gradient descent on ‖r‖²/2 with the step that lands on the minimum along A's largest singular direction.
    expected = residual @ A @ B / np.linalg.svd(A, compute_uv=False)[0] ** 2
    far = dps(operator, y, weight=1e6, scale=scale, stable=True, group=2)(denoiser, x)[1]
    # The norm of A comes from a power iteration, good to a part in a thousand or better here; squared.
    assert np.linalg.norm(far.reshape(N_SLICES, -1) - expected) <= 1e-2 * np.linalg.norm(expected)
    near = dps(operator, y, weight=1e-3, scale=scale, stable=True, group=2)(denoiser, x)[1]
    np.testing.assert_array_equal(near, dps(operator, y, weight=1e-3, scale=scale, group=2)(denoiser, x)[1])


class Identity(Denoiser):
    """x̂₀ = x: then the step of the adaptive λ is the exact steepest descent of the residual."""

    def _denoise(self, x, sigma):
        return x.copy()

    def _vjp(self, x, sigma, cotangent: CotangentOf):
        return x.copy(), cotangent(x, slice(0, len(x)))


@pytest.mark.parametrize("renoised", [False, True], ids=["plain", "renoised"])
def test_adaptive_steps_lead_down_to_the_noise_and_no_further(operator, renoised):
    """Along the gradient a slice's residual is least at the whole step; noise shortens it by its part of the norm."""
    x, y, scale, level = stack(1), operator.apply(stack(2)), 1.5, 0.03
    noise = 0.1 * operator.apply(stack(3)) if renoised else None
    renoise = None if noise is None else lambda *_: noise
    guidance = Dps(operator, y, None, scale=scale, noise_level=level, renoise=renoise)
    _, pullback, weights, _ = guidance(Identity(), of(x), SIGMA)

    A, e = scale * dense(operator), 0.0 if noise is None else flat(noise)
    r = x.reshape(N_SLICES, -1).astype(np.float64) @ A.T - scale * flat(y) - e
    gradient = r @ A
    np.testing.assert_allclose(pullback.reshape(N_SLICES, -1), gradient, rtol=1e-3, atol=1e-4)
    n_samples = (2 if np.iscomplexobj(y) else 1) * (y.reshape(N_SLICES, -1) != 0).sum(1)
    floor = np.sqrt(n_samples * (scale * level) ** 2 + np.sum(np.square(e), axis=-1))
    norms = np.linalg.norm(r, axis=1)
    assert (floor < norms).all()
    least = (gradient**2).sum(1) / ((gradient @ A.T) ** 2).sum(1)
    np.testing.assert_allclose(weights, least * (1 - floor / norms), rtol=1e-4)


def test_an_adaptive_weight_asks_for_no_norm(operator, monkeypatch):
    """The norm takes many passes over an operator, and only the limit of a fixed λ reads it."""
    asked = []
    monkeypatch.setattr(type(operator), "norm", lambda self: asked.append(self) or 1.0)
    Dps(operator, operator.apply(stack(2)), None, stable=True)
    assert not asked
    Dps(operator, operator.apply(stack(2)), 0.5, stable=True)
    assert asked


def test_adaptive_steps_know_no_units(operator):
    """What a scanner counts in changes the residual and the gradient, but not the step."""
    steps = []
    for unit in (1e-3, 1.0, 1e4):
        y = np.asarray(np.float32(unit) * operator.apply(stack(2)))
        guidance = Dps(operator, y, None, noise_level=0.05 * unit)
        _, pullback, weights, _ = guidance(LinearShrinkage(), of(np.float32(unit) * stack(1)), SIGMA)
        steps.append(weights[:, None, None] * pullback / np.float32(unit))
    for other in steps[1:]:
        np.testing.assert_allclose(other, steps[0], rtol=1e-3, atol=1e-4)


def test_adaptive_steps_stay_where_the_residual_is_noise(operator):
    x, y = stack(1), operator.apply(stack(2))
    loud = float(np.abs(y).max()) * 10
    for measurement, level in ((y, loud), (operator.apply(x), 0.0)):
        _, pullback, weights, _ = Dps(operator, measurement, None, noise_level=level)(Identity(), of(x), SIGMA)
        np.testing.assert_array_equal(weights, 0)
        assert np.isfinite(pullback).all()


@pytest.mark.parametrize(
    "x", [np.zeros((1, N_SLICES, *SHAPE), np.float32), np.zeros(SHAPE, np.float32), np.zeros((2, *SHAPE))]
)
def test_denoisers_refuse_what_is_no_float32_stack(x):
    with pytest.raises(ValueError, match=r"^x: expected contiguous \(n, h, w\) float32, got .*; pass a stack"):
        LinearShrinkage().denoise(x, SIGMA)
    with pytest.raises(ValueError, match=r"^x: expected contiguous \(n, h, w\) float32, got .*; pass a stack"):
        LinearShrinkage().vjp(x, SIGMA, lambda x0, part: x0)
