"""Filters of single lines against their float64 twin, on every array library."""

from __future__ import annotations

import numpy as np
import pytest

import kernels
from kernels import reference


def filters_of(shape: tuple[int, int, int], axis: int, n_out: int, n_taps: int = 4) -> kernels.LineFilters:
    """Random weights; first taps that begin before, in and after a line, in runs and singly."""
    rng = np.random.default_rng(axis)
    n_lines = int(np.prod(shape)) // shape[axis]
    firsts = np.repeat(rng.integers(-shape[axis] - 2, shape[axis] + 3, n_lines), 3)[:n_lines]
    return kernels.LineFilters(rng.standard_normal((n_lines, n_taps)), firsts, shape[axis], n_out)


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 6, 300), (7, 1, 3)], ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "transpose"])
def test_equals_twin(xp, to_numpy, shape, axis, transposed):
    filters = filters_of(shape, axis, n_out=6)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    if transposed:
        filters = filters.transposed
        x = np.resize(x, [6 if i == axis else n for i, n in enumerate(shape)])
    got = kernels.filter_lines(xp.asarray(x), filters, axis)
    assert got.dtype == np.float32
    expected = reference.filter_lines(x, filters, axis)
    assert got.shape == expected.shape
    np.testing.assert_allclose(to_numpy(got), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_transpose_is_exact(axis):
    shape = (5, 6, 7)
    filters, rng = filters_of(shape, axis, n_out=8), np.random.default_rng(2)
    x = rng.standard_normal(shape).astype(np.float32)
    y = rng.standard_normal([8 if i == axis else n for i, n in enumerate(shape)]).astype(np.float32)
    seen, back = kernels.filter_lines(x, filters, axis), kernels.filter_lines(y, filters.transposed, axis)
    assert np.vdot(seen, y) == pytest.approx(np.vdot(x, back), rel=1e-4)
    again = filters.transposed.transposed
    np.testing.assert_array_equal(again.weights, filters.weights)
    np.testing.assert_array_equal(again.firsts, filters.firsts)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_threads_do_not_change_a_bit(axis):
    shape = (40, 50, 600)
    filters = filters_of(shape, axis, n_out=shape[axis], n_taps=8)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    with kernels.threads_here(1):
        one = kernels.filter_lines(x, filters, axis)
    with kernels.threads_here(5):
        np.testing.assert_array_equal(kernels.filter_lines(x, filters, axis), one)


def test_wrong_arguments_are_refused():
    filters = filters_of((2, 5, 6), 2, n_out=6)
    good = np.zeros((2, 5, 6), np.float32)
    for x, axis, error, message in [
        (good[0], 2, ValueError, r"x: expected \(n0, n1, 6\) float32, got \(5, 6\)"),
        (good, 1, ValueError, r"x: expected \(n0, 6, n2\)"),
        (good, 3, ValueError, "axis: expected an integer in 0 ... 2, got 3"),
        (good[:1].copy(), 2, ValueError, "x: expected 10 lines along axis 2, one a filter, got 5"),
        (good.astype(np.float64), 2, TypeError, "x: expected"),
        (good[:, ::-1], 2, ValueError, "x: expected .*C-contiguous"),
    ]:
        with pytest.raises(error, match=message):
            kernels.filter_lines(x, filters, axis)
    for weights, firsts, n_out, message in [
        (np.zeros(3), np.zeros(3), 1, "weights: expected finite"),
        (np.full((3, 1), np.nan), np.zeros(3), 1, "weights: expected finite"),
        (np.zeros((3, 1)), np.zeros(2), 1, r"firsts: expected \(3,\)"),
        (np.zeros((3, 1)), np.zeros(3), 0, "n_in, n_out: expected at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            kernels.LineFilters(weights, firsts, 4, n_out)
