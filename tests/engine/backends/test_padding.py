"""Networks on slices whose sides they cannot divide: the same as on padded ones, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest

from engine.backends.bundle import Bundle
from engine.backends.onnx import OnnxDenoiser
from engine.backends.padding import PaddedDenoiser, _crop, _fold, _pad, padded_shape
from engine.operators import ThickSlices
from engine.sampling.denoiser import CotangentOf, Denoiser

DIVISOR, SIGMA = 4, 0.7
MATRICES = {n: np.random.default_rng(n).standard_normal((n, n)).astype(np.float32) for n in (4, 8, 12, 16)}


class Linear(Denoiser):
    """Mixes rows, and mixes columns: every pixel of the result depends on every one of the slice."""

    batch_size = 3

    def _denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        assert x.flags.c_contiguous
        assert x.shape[1] % DIVISOR == x.shape[2] % DIVISOR == 0
        return sigma * (MATRICES[x.shape[1]] @ x @ MATRICES[x.shape[2]])

    def _vjp(self, x: np.ndarray, sigma: float, cotangent: CotangentOf) -> tuple[np.ndarray, np.ndarray]:
        x0 = self._denoise(x, sigma)
        v = np.concatenate([cotangent(x0[i : i + 1], slice(i, i + 1)) for i in range(len(x))])
        return x0, sigma * (MATRICES[x.shape[1]].T @ v @ MATRICES[x.shape[2]].T)


def stack(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(8, 12), (7, 12), (8, 9), (5, 11), (6, 6), (10, 13)])
def test_the_adjoint_is_the_exact_transpose(shape):
    denoiser, x, v = PaddedDenoiser(Linear(), DIVISOR), stack(2, *shape), stack(3, 2, *shape)[1]
    x0, pulled = denoiser.vjp(x, SIGMA, lambda x0, which: v[which])
    np.testing.assert_array_equal(x0, denoiser.denoise(x, SIGMA))
    assert x0.shape == pulled.shape == x.shape
    # Linear: <D x, v> = <x, Dᵀ v>, up to float32 sums of some hundred products.
    left, right = np.vdot(x0.astype(float), v), np.vdot(x.astype(float), pulled)
    assert abs(left - right) <= 1e-5 * np.linalg.norm(x0) * np.linalg.norm(v)


@pytest.mark.parametrize("margins", [((0, 1), (2, 1)), ((1, 2), (0, 0)), ((3, 3), (2, 3))])
def test_mirroring_and_its_transpose_on_every_device(xp, to_numpy, margins):
    x, v = stack(2, 6, 7), stack(2, 6 + sum(margins[0]), 7 + sum(margins[1]))
    mirrored, folded = _pad(xp.asarray(x), margins), _fold(xp.asarray(v), margins)
    np.testing.assert_array_equal(to_numpy(mirrored), np.pad(x, ((0, 0), *margins), mode="reflect"))
    assert folded.flags.c_contiguous
    assert np.vdot(to_numpy(mirrored), v) == pytest.approx(np.vdot(x, to_numpy(folded)), rel=1e-5)
    np.testing.assert_array_equal(to_numpy(_crop(mirrored, margins)), x)


def test_slices_that_fit_are_handed_on():
    x = stack(2, 8, 12)
    np.testing.assert_array_equal(PaddedDenoiser(Linear(), DIVISOR).denoise(x, SIGMA), Linear().denoise(x, SIGMA))


def test_borders_mirror_what_lies_within():
    x = stack(1, 7, 12)
    whole = np.concatenate([x, x[:, 5:6]], axis=1)
    expected = Linear().denoise(whole, SIGMA)[:, :7]
    np.testing.assert_array_equal(PaddedDenoiser(Linear(), DIVISOR).denoise(x, SIGMA), expected)


def test_dps_works_through_padding():
    operator = ThickSlices((6, 9), 3, 2)
    x, y = stack(2, 6, 9), stack(4, 6, 3)[:2]
    denoiser = PaddedDenoiser(Linear(), DIVISOR)
    x0, pulled, squared, plain = denoiser.guided(x, SIGMA, operator.fidelity(y))
    residual = operator.apply(x0) - y
    np.testing.assert_allclose(plain, (residual**2).sum((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(squared, plain)
    _, expected = denoiser.vjp(x, SIGMA, lambda x0, which: operator.adjoint(operator.apply(x0) - y[which]))
    np.testing.assert_allclose(pulled, expected, rtol=1e-5, atol=1e-5)


def test_a_real_network_takes_odd_slices(tiny_bundles):
    bundle = Bundle.open(tiny_bundles["axial"].folder)
    denoiser = PaddedDenoiser(OnnxDenoiser(bundle), bundle.divisor)
    x0, pulled = denoiser.vjp(stack(2, 15, 9), SIGMA, lambda x0, which: x0)
    assert x0.shape == pulled.shape == (2, 15, 9)
    assert np.isfinite(pulled).all()
    assert pulled.any()


def test_sizes():
    assert padded_shape((64, 65), 4) == (64, 68)
    assert padded_shape((1, 3), 1) == (1, 3)


@pytest.mark.parametrize("shape", [(2, 8), (8, 2), (1, 1)])
def test_slices_too_small_to_mirror_are_refused_either_way(shape):
    denoiser, x = PaddedDenoiser(Linear(), 8), stack(1, *shape)
    with pytest.raises(ValueError, match=r"^x: expected slices that hold what padding to multiples of 8"):
        denoiser.denoise(x, SIGMA)
    with pytest.raises(ValueError, match=r"^x: expected slices that hold what padding to multiples of 8"):
        denoiser.vjp(x, SIGMA, lambda x0, which: x[which])


@pytest.mark.parametrize("least", [((1, 0), (0, 2)), ((2, 2), (3, 0)), ((0, 0), (1, 1))])
def test_the_adjoint_through_a_margin_is_the_exact_transpose(least):
    denoiser, x, v = PaddedDenoiser(Linear(), DIVISOR, least), stack(2, 8, 7), stack(3, 2, 8, 7)[1]
    x0, pulled = denoiser.vjp(x, SIGMA, lambda x0, which: v[which])
    np.testing.assert_array_equal(x0, denoiser.denoise(x, SIGMA))
    left, right = np.vdot(x0.astype(float), v), np.vdot(x.astype(float), pulled)
    assert abs(left - right) <= 1e-5 * np.linalg.norm(x0) * np.linalg.norm(v)


def test_a_margin_mirrors_at_least_what_was_asked_for():
    x = stack(1, 8, 12)
    # One row more than was asked for makes 12 of 8: below, where the odd one goes.
    mirrored = np.pad(x, ((0, 0), (3, 1), (0, 0)), mode="reflect")
    expected = Linear().denoise(np.ascontiguousarray(mirrored), SIGMA)[:, 3:11]
    np.testing.assert_array_equal(PaddedDenoiser(Linear(), DIVISOR, ((3, 0), (0, 0))).denoise(x, SIGMA), expected)
    assert padded_shape((8, 12), DIVISOR, ((3, 0), (0, 0))) == (12, 12)
