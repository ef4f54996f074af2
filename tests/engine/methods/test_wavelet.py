"""Sparse wavelets: the solver against its optimality, shifts against none."""

from __future__ import annotations

from itertools import repeat

import numpy as np
import pytest
import sigpy

from engine.methods import solve
from engine.methods.least_squares import solve_least_squares
from engine.methods.wavelet import levels_of, shifts_of, sparse_coefficients
from engine.problems.tasks import Measurement, simulate
from engine.sampling import Settings
from engine.sampling.problem import InverseProblem
from engine.volume import Plane

AXIAL = Plane.parse("axial")


def smooth(shape: tuple[int, int, int]) -> np.ndarray:
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    volume = np.exp(-4 * sum(a * a for a in axes)) + (abs(axes[0]) < 0.4) * (abs(axes[1]) < 0.6)
    return volume.astype(np.float32)


def task_of(shape: tuple[int, int, int], acceleration: float = 3) -> InverseProblem:
    return simulate("csmri", smooth(shape), AXIAL, Measurement(acceleration=acceleration))


def test_the_minimum_is_found_where_the_transform_is_orthogonal():
    """Coefficients of the negative gradient are w times the signs of those of x, or less where these are zero."""
    shape, weight = (8, 8, 8), 3e-2
    task = task_of(shape)
    first = np.ones(shape, np.float32)
    prox = sparse_coefficients(sigpy, shape, weight, "haar", repeat((0, 0, 0)))
    found = solve_least_squares(task, first, Settings(), sigpy, proxg=prox, alpha=1.0, max_iter=500).volume
    operator, y = task.measured()
    x, transform = AXIAL.slices_of(found), sigpy.linop.Wavelet(shape, wave_name="haar")
    gradient = operator.adjoint(operator.apply(x) - y) / np.float32(operator.norm() ** 2)
    signs, coefficients = -transform(gradient) / weight, transform(x)
    assert abs(signs).max() <= 1 + 1e-2
    is_large = abs(coefficients) > 1e-3
    assert 5 < is_large.sum() < is_large.size / 2
    np.testing.assert_allclose(signs[is_large], np.sign(coefficients[is_large]), atol=1e-2)


def test_shifts_are_undone():
    """With nothing shrunk, nothing changes, wherever the transform's grid lies."""
    shape = (9, 8, 10)
    prox = sparse_coefficients(sigpy, shape, 0.0, "db4", shifts_of(shape))
    x = smooth(shape)
    for _ in range(3):
        np.testing.assert_allclose(prox(1.0, x), x, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 64, 48), (8, 33, 64), (14, 64, 16)])
def test_short_axes_do_not_keep_long_ones_from_their_levels(shape):
    """A constant is a few coefficients along every axis that is transformed, and as many as voxels along others."""
    prox = sparse_coefficients(sigpy, shape, 1.0, "db4", shifts_of(shape))
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    # The identity would leave |noise| − 1; a transform spreads what survives.
    alone = np.sign(noise) * np.maximum(abs(noise) - 1, 0)
    assert np.linalg.norm(prox(1.0, noise) - alone) > 0.5 * np.linalg.norm(alone)
    axes = [axis for axis, n in enumerate(shape) if n >= 14]
    assert [axis for axis, level in enumerate(levels_of(shape, "db4")) if level] == axes
    # Two levels in the plane bring a smooth picture into a sixteenth of the coefficients: most of it survives.
    smooth_picture = np.broadcast_to(10 * np.hanning(shape[1])[:, None] * np.hanning(shape[2]), shape).astype("f4")
    kept = prox(0.5, smooth_picture)
    assert np.linalg.norm(kept - smooth_picture) < 0.1 * np.linalg.norm(smooth_picture)


def test_stacks_of_few_slices_are_restored():
    volume = np.ascontiguousarray(np.moveaxis(smooth((16, 48, 48))[6:10], 0, -1))
    task = simulate("csmri", volume, AXIAL, Measurement(acceleration=3))
    found, zero_filled = (solve(method, task, (), Settings()).volume for method in ("wavelet", "classical"))
    assert np.linalg.norm(found - volume) < 0.5 * np.linalg.norm(zero_filled - volume)


def test_shifts_are_always_the_same_and_all_different():
    one, other = ([next(shifts) for _ in range(20)] for shifts in (shifts_of((7, 8, 9)), shifts_of((7, 8, 9))))
    assert one == other
    assert len(set(one)) > 15
    assert all(0 <= step < n for shift in one for step, n in zip(shift, (7, 8, 9), strict=True))


@pytest.mark.parametrize("shape", [(16, 16, 16), (15, 17, 13)])
def test_a_smooth_volume_is_restored(shape):
    def error(method: str) -> float:
        return float(np.linalg.norm(solve(method, task_of(shape), (), Settings()).volume - smooth(shape)))

    assert error("wavelet") < 0.7 * error("classical")


def test_units_do_not_change_what_is_found():
    shape = (16, 16, 16)
    # A power of two changes no rounding, which shifts would carry far in places where nothing is measured.
    large = simulate("csmri", 128 * smooth(shape), AXIAL, Measurement(acceleration=3))
    one, other = (solve("wavelet", task, (), Settings()).volume for task in (task_of(shape), large))
    np.testing.assert_array_equal(other / 128, one)
