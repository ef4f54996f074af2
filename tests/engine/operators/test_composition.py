"""A new operator in a few lines, composed with the project's own: everything else follows from apply and adjoint."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg

from engine.operators import LinearOperator, MaskedFourier, ThickSlices

H, W, N = 8, 6, 3


class BiasField(LinearOperator):
    """Multiplication of every slice with a smooth field, as of a receive coil.

    Parameters
    ----------
    field : float32 (h, w)
    """

    def __init__(self, field):
        super().__init__(field.shape, field.shape, np.float32)
        self.field = field

    def _apply(self, x):
        return x * self.field

    def _adjoint(self, y):
        return y * self.field


@pytest.fixture(scope="module")
def bias() -> BiasField:
    rows, columns = np.meshgrid(np.linspace(-1, 1, H), np.linspace(-1, 1, W), indexing="ij")
    return BiasField((1 + 0.4 * rows - 0.2 * columns**2).astype(np.float32))


@pytest.fixture(scope="module", params=["fourier", "thick"])
def outer(request) -> LinearOperator:
    mask = (np.random.default_rng(1).random((H, W)) < 0.6).astype(np.float32)
    return MaskedFourier(mask) if request.param == "fourier" else ThickSlices((H, W), 2, 1)


def normal(shape, dtype, seed):
    z = np.random.default_rng(seed).standard_normal((2, N, *shape)).astype(np.float32)
    return z[0] + 1j * z[1] if np.dtype(dtype).kind == "c" else z[0]


def test_a_composition_applies_one_after_the_other(outer, bias):
    both, x = outer @ bias, normal((H, W), np.float32, 0)
    np.testing.assert_array_equal(both.apply(x), outer.apply(bias.field * x))
    assert both.data_axes == outer.data_axes


def test_its_adjoint_is_the_exact_transpose(outer, bias):
    both = outer @ bias
    x, y = normal(both.slice_shape, np.float32, 0), normal(both.data_shape, both.data_dtype, 1)
    # Sums of some hundred products in float32.
    assert np.vdot(y, both.apply(x)).real == pytest.approx(np.vdot(both.H(y), x).real, rel=1e-4, abs=1e-3)
    np.testing.assert_allclose(both.gram(x), both.H(both.apply(x)))


def test_the_proximal_map_finds_the_biased_image(bias):
    both, truth = MaskedFourier(np.ones((H, W), np.float32)) @ bias, normal((H, W), np.float32, 2)
    x, squared = both.proximal(both.apply(truth))(np.zeros_like(truth), 0.0)
    # Five conjugate gradients, for a field of 0.4 to 1.4.
    assert np.linalg.norm(x - truth) < 0.1 * np.linalg.norm(truth)
    np.testing.assert_allclose(squared, np.sum(abs(both.apply(truth)) ** 2, axis=(1, 2)), rtol=1e-5)


def test_the_classical_reconstruction_is_of_the_size_of_the_image(bias):
    truth = np.ones((N, H, W), np.float32)
    assert bias.classical(bias.apply(truth)).max() == pytest.approx(1, rel=0.01)


def test_scipy_solves_with_it(outer, bias):
    both, truth = outer @ bias, normal((H, W), np.float32, 3)
    matrix = both.as_scipy(N)
    y = both.apply(truth).ravel()
    solution = scipy.sparse.linalg.lsqr(matrix, y, atol=1e-10, btol=1e-10)[0]
    # Whatever lies in the null space stays zero; the rest explains the data, to float32.
    assert np.linalg.norm(matrix.matvec(solution.real) - y) < 1e-3 * np.linalg.norm(y)


def test_operators_that_do_not_fit_are_refused(bias):
    with pytest.raises(ValueError, match=r"^inner: expected an operator whose data are images \(6, 8\)"):
        MaskedFourier(np.ones((W, H), np.float32)) @ bias
