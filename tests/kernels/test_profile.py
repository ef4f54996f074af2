"""Weighted sums over runs of an axis against their float64 twin, on every array library."""

from __future__ import annotations

import numpy as np
import pytest

import kernels
from kernels import reference


def blocks(n_in: int, factor: int) -> np.ndarray:
    """Weights of n_in // factor blocks that reach into their neighbours; the rest is seen by the last, if at all."""
    rng = np.random.default_rng(n_in)
    matrix = np.zeros((n_in // factor, n_in))
    for row in range(len(matrix)):
        run = slice(max(0, row * factor - 1), (row + 1) * factor + 1)
        matrix[row, run] = rng.random(matrix[row, run].size) + 0.1
    return matrix


MATRICES = {
    "one": np.ones((1, 1)),
    "blocks": blocks(11, 3),
    "wide": blocks(300, 7),
    "a-row-of-zeros": np.array([[0.0, 0, 0], [0, 2, 0]]),
    "a-zero-inside": np.array([[1.0, 0, 3], [0, 0, -2]]),
    "dense": np.arange(1.0, 21).reshape(4, 5),
}


@pytest.fixture(params=MATRICES.values(), ids=MATRICES.keys())
def bands(request) -> kernels.Bands:
    return kernels.Bands(request.param)


@pytest.mark.parametrize("others", [(3, 1), (2, 70)], ids=str)
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "transpose"])
def test_equals_twin(xp, to_numpy, bands, axis, others, transposed):
    if transposed:
        bands = bands.transposed
    shape = [others[0], others[1], others[1]]
    shape[axis] = bands.matrix.shape[1]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    got = kernels.banded_sum(xp.asarray(x), bands, axis)
    assert got.dtype == np.float32
    expected = reference.banded_sum(x, bands, axis)
    assert got.shape == expected.shape
    # Sums of up to nine float32 products.
    np.testing.assert_allclose(to_numpy(got), expected, rtol=1e-5, atol=1e-5)


def test_transposed_twice_is_the_same(bands):
    np.testing.assert_array_equal(bands.transposed.transposed.matrix, bands.matrix)
    np.testing.assert_array_equal(bands.transposed.matrix, bands.matrix.T)


@pytest.mark.parametrize("axis", [1, 2])
def test_threads_do_not_change_a_bit(axis):
    bands = kernels.Bands(blocks(300, 7))
    x = np.random.default_rng(1).standard_normal((5, 300, 300)).astype(np.float32)
    before = kernels.get_threads()
    try:
        kernels.set_threads(1)
        one = kernels.banded_sum(x, bands, axis)
        kernels.set_threads(5)
        np.testing.assert_array_equal(kernels.banded_sum(x, bands, axis), one)
    finally:
        kernels.set_threads(before)


def test_not_a_number_stays_within_its_runs(xp, to_numpy):
    bands = kernels.Bands([[1.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    x = np.zeros((1, 1, 4), np.float32)
    x[0, 0, 2] = np.nan
    np.testing.assert_array_equal(
        np.isnan(to_numpy(kernels.banded_sum(xp.asarray(x), bands, 2)))[0, 0], [False, True, False]
    )


@pytest.mark.parametrize("axis", [1, 2])
def test_empty_stacks_have_empty_results(xp, axis):
    bands = kernels.Bands(blocks(6, 3))
    shape = (2, 6) if axis == 1 else (6, 2)
    assert kernels.banded_sum(xp.zeros((0, 6, 6), np.float32), bands, axis).shape == (0, *shape)


def test_wrong_arguments_are_refused():
    bands = kernels.Bands(blocks(6, 3))
    good = np.zeros((2, 5, 6), np.float32)
    for x, axis, error, message in [
        (good[0], 2, ValueError, r"x: expected \(n, rows, 6\) float32, got \(5, 6\) float32; the matrix has 6 columns"),
        (good, 1, ValueError, r"x: expected \(n, 6, columns\)"),
        (good, 0, ValueError, "axis: expected an integer in 1 ... 2, got 0"),
        (good.astype(np.float64), 2, TypeError, "x: expected"),
        (good[:, ::-1], 2, ValueError, "x: expected .*C-contiguous"),
        (good.tolist(), 2, TypeError, "x: expected"),
    ]:
        with pytest.raises(error, match=message):
            kernels.banded_sum(x, bands, axis)
    for matrix in (np.zeros(3), np.zeros((0, 3)), np.zeros((3, 0)), np.array([[np.nan]])):
        with pytest.raises(ValueError, match=r"^matrix: expected finite \(n_out, n_in\), got"):
            kernels.Bands(matrix)
