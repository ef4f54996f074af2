"""Projections of slices that are not square: those of a square with zeros around them, transposed exactly."""

from __future__ import annotations

import numpy as np
import pytest

import kernels
from engine.operators import Radon
from engine.operators.radon import centre_of_rotation

#: Sides of images, odd and even, and the square's side.
SHAPES = [(9, 12, 12), (12, 9, 12), (7, 10, 10), (1, 8, 8), (8, 8, 11), (11, 6, 11), (5, 9, 12)]
every_shape = pytest.mark.parametrize(("rows", "columns", "n"), SHAPES)


def operator_of(rows: int, columns: int, n: int, offset: float = 0.4) -> Radon:
    angles = [0.0, 0.5, 1.3, 2.9]
    return Radon(kernels.ParallelGeometry(n, angles, n_bins=21, bin_spacing=0.9, bin_offset=offset), (rows, columns))


def inner(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


@every_shape
def test_the_adjoint_is_the_transpose(xp, to_numpy, rows, columns, n):
    operator, generator = operator_of(rows, columns, n), np.random.default_rng(0)
    x = generator.standard_normal((3, rows, columns), np.float32)
    projected = to_numpy(operator.apply(xp.asarray(x)))
    for y in (generator.standard_normal(projected.shape, np.float32), projected):
        back = operator.adjoint(xp.asarray(y))
        assert back.shape == x.shape
        assert back.flags.c_contiguous
        # Both sides use the same weights: rounding of float32 sums is left.
        gap = abs(inner(projected, y) - inner(x, to_numpy(back)))
        assert gap <= 1e-6 * np.linalg.norm(projected) * np.linalg.norm(y)


@every_shape
def test_it_is_the_square_one_of_the_padded_image(rows, columns, n):
    operator, generator = operator_of(rows, columns, n), np.random.default_rng(1)
    square = Radon(operator.geometry)
    x = generator.standard_normal((2, rows, columns), np.float32)
    above, left = n // 2 - rows // 2, n // 2 - columns // 2
    padded = np.zeros((2, n, n), np.float32)
    padded[:, above : above + rows, left : left + columns] = x
    y = operator.apply(x)
    np.testing.assert_array_equal(y, square.apply(padded))
    window = slice(None), slice(above, above + rows), slice(left, left + columns)
    np.testing.assert_array_equal(operator.adjoint(y), square.adjoint(y)[window])
    np.testing.assert_array_equal(operator.classical(y), square.classical(y)[window])


def test_square_slices_are_projected_as_before():
    geometry = kernels.ParallelGeometry.from_views(10, 6)
    x = np.random.default_rng(2).standard_normal((2, 10, 10), np.float32)
    for operator in (Radon(geometry), Radon(geometry, (10, 10))):
        y = operator.apply(x)
        np.testing.assert_array_equal(y, kernels.radon_forward(x, geometry))
        np.testing.assert_array_equal(operator.adjoint(y), kernels.radon_adjoint(y, geometry))
        np.testing.assert_array_equal(operator.classical(y), kernels.radon_fbp(y, geometry))


@every_shape
def test_a_pixel_is_seen_where_the_centre_of_rotation_says(rows, columns, n):
    geometry = kernels.ParallelGeometry(n, [0.0, np.pi / 2], n_bins=21)
    row, column = centre_of_rotation(geometry, (rows, columns))
    # The middle is at most half a pixel off the image's.
    assert max(abs(row - (rows - 1) / 2), abs(column - (columns - 1) / 2)) <= 0.5
    x = np.zeros((1, rows, columns), np.float32)
    x[0, rows - 1, 0] = 1
    seen = Radon(geometry, (rows, columns)).apply(x)[0]
    # Linear interpolation keeps the centre of mass.
    at_0, at_90 = seen @ (np.arange(21) - 10) / seen.sum(axis=1)
    # At angle 0 bins count along the columns, at a quarter turn from the last row to the first.
    assert at_0 == pytest.approx(0 - column, abs=1e-5)
    assert at_90 == pytest.approx(row - (rows - 1), abs=1e-5)


@pytest.mark.parametrize(
    ("geometry", "shape"),
    [
        (kernels.ParallelGeometry.from_views(8, 3), (8, 9)),
        (kernels.ParallelGeometry.from_views(8, 3), (9, 8)),
        (kernels.ParallelGeometry.from_views(8, 3), (0, 8)),
        (kernels.FanGeometry((8, 9), [0.0], 30.0, 20.0, 20), (8, 8)),
    ],
)
def test_slices_that_do_not_fit_are_refused(geometry, shape):
    with pytest.raises(ValueError, match=r"^slice_shape: expected "):
        Radon(geometry, shape)


def test_a_fan_takes_its_own_slices():
    geometry = kernels.FanGeometry((8, 9), [0.3, 2.0], 30.0, 20.0, 20)
    x = np.random.default_rng(3).standard_normal((1, 8, 9), np.float32)
    np.testing.assert_array_equal(Radon(geometry, (8, 9)).apply(x), kernels.radon_forward(x, geometry))
    assert centre_of_rotation(geometry, (8, 9)) == (3.5, 4.0)
