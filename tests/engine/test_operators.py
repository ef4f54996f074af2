"""Measurement operators: linear, transposed exactly, right where the answer is known, and strict about their input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import kernels
from engine.operators import LinearOperator, MaskedFourier, Radon, ThickSlices


def fourier(shape: tuple[int, int]) -> MaskedFourier:
    return MaskedFourier((np.random.default_rng(1).random(shape) < 0.4).astype(np.float32))


def radon(n: int, n_views: int) -> Radon:
    return Radon(kernels.ParallelGeometry.from_views(n, n_views))


BUILDERS: dict[str, Callable[[], LinearOperator]] = {
    "fourier-8x8": lambda: fourier((8, 8)),
    "fourier-9x7": lambda: fourier((9, 7)),
    "fourier-6x11": lambda: fourier((6, 11)),
    "fourier-all": lambda: MaskedFourier(np.ones((7, 8), np.float32)),
    "radon-8": lambda: radon(8, 5),
    "radon-9": lambda: radon(9, 7),
    "radon-one-view": lambda: radon(8, 1),
    "thick-rows": lambda: ThickSlices((12, 5), 3, axis=1),
    "thick-rows-rest": lambda: ThickSlices((11, 6), 4, axis=1),
    "thick-columns": lambda: ThickSlices((5, 12), 4, axis=2),
    "thick-columns-rest": lambda: ThickSlices((7, 11), 2, axis=2),
    "thick-one-block": lambda: ThickSlices((4, 9), 9, axis=2),
}
N_SLICES = 3


@pytest.fixture(params=BUILDERS.values(), ids=BUILDERS.keys())
def operator(request) -> LinearOperator:
    return request.param()


def random_x(operator: LinearOperator, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N_SLICES, *operator.slice_shape)).astype(np.float32)


def random_y(operator: LinearOperator, seed: int = 0) -> np.ndarray:
    generator, shape = np.random.default_rng(seed + 100), (N_SLICES, *operator.data_shape)
    y = generator.standard_normal(shape)
    if operator.data_dtype == np.complex64:
        y = y + 1j * generator.standard_normal(shape)
    return y.astype(operator.data_dtype)


def inner(a: np.ndarray, b: np.ndarray) -> float:
    """Re⟨a, b⟩, summed in double precision so that only the operator's own rounding is seen."""
    return float(np.vdot(a.astype(np.complex128), b.astype(np.complex128)).real)


def norm(a: np.ndarray) -> float:
    return float(np.sqrt(inner(a, a)))


def test_is_linear(operator):
    a, b = np.float32(0.75), np.float32(-3.0)
    one, other = random_x(operator, 1), random_x(operator, 2)
    mixed, parts = operator.apply(a * one + b * other), (a * operator.apply(one), b * operator.apply(other))
    # A few roundings of float32 (6e-8) on each side.
    assert norm(mixed - parts[0] - parts[1]) <= 1e-6 * (norm(parts[0]) + norm(parts[1]))


@pytest.mark.parametrize("seed", range(5))
def test_adjoint_is_the_transpose_for_random_pairs(operator, seed):
    x, y = random_x(operator, seed), random_y(operator, seed)
    ax = operator.apply(x)
    # Sums of up to a few hundred float32 terms, whose roundings of 6e-8 mostly cancel.
    assert abs(inner(ax, y) - inner(x, operator.adjoint(y))) <= 1e-6 * norm(ax) * norm(y)


def test_adjoint_is_the_transpose_for_y_equal_to_ax(operator):
    x = random_x(operator)
    ax = operator.apply(x)
    # Here nothing cancels by chance: a wrong scale shows in full. The tolerance is that of random pairs.
    assert abs(inner(ax, ax) - inner(x, operator.adjoint(ax))) <= 1e-6 * norm(ax) ** 2


def test_adjoint_is_the_transposed_matrix(operator):
    n = int(np.prod(operator.slice_shape))
    basis = np.eye(n, dtype=np.float32).reshape(n, *operator.slice_shape)
    matrix = operator.apply(basis).reshape(n, -1).T.astype(np.complex128)
    y = random_y(operator)
    expected = (matrix.conj().T @ y.reshape(N_SLICES, -1).T.astype(np.complex128)).real.T
    assert norm(operator.adjoint(y).reshape(N_SLICES, -1) - expected) <= 1e-6 * norm(expected)


def test_norm_is_the_largest_singular_value(operator):
    n = int(np.prod(operator.slice_shape))
    matrix = operator.apply(np.eye(n, dtype=np.float32).reshape(n, *operator.slice_shape)).reshape(n, -1).T
    # Of a real image: real and imaginary parts of the data count alike.
    largest = np.linalg.svd(np.concatenate([matrix.real, matrix.imag]), compute_uv=False)[0]
    # Twenty power iterations: the error falls with the square of the ratio of the two largest values, to a per cent
    # for the smallest projections here and to rounding for the others.
    assert operator.norm() == pytest.approx(largest, rel=1e-2)


def test_norm_does_not_rely_on_the_centre_of_k_space():
    mask = np.zeros((6, 8), np.float32)
    mask[1, 2] = 1
    # One sample takes half of each of the two conjugate frequencies.
    assert MaskedFourier(mask).norm() == pytest.approx(np.sqrt(48 / 2), rel=1e-5)


def test_measures_every_slice_by_itself(operator):
    x, y = random_x(operator), random_y(operator)
    for i in range(N_SLICES):
        one = slice(i, i + 1)
        # Transforms of several slices may be grouped differently: a rounding or two of float32.
        np.testing.assert_allclose(operator.apply(x)[one], operator.apply(x[one]), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(operator.adjoint(y)[one], operator.adjoint(y[one]), rtol=1e-6, atol=1e-6)


def test_types_and_shapes_are_as_declared(operator):
    y, x = operator.apply(random_x(operator)), operator.adjoint(random_y(operator))
    assert (y.shape, y.dtype) == ((N_SLICES, *operator.data_shape), operator.data_dtype)
    assert (x.shape, x.dtype) == ((N_SLICES, *operator.slice_shape), np.float32)
    shown = operator.classical(y)
    assert (shown.shape, shown.dtype) == (x.shape, np.float32)


def test_layout_in_memory_does_not_matter(operator):
    x, y = random_x(operator), random_y(operator)
    # Sums along another stride may add in another order: a rounding or two of float32 values of order one (y: ten).
    np.testing.assert_allclose(operator.apply(np.asfortranarray(x)), operator.apply(x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(operator.adjoint(np.asfortranarray(y)), operator.adjoint(y), rtol=1e-6, atol=1e-6)


def test_apply_refuses_another_rank_shape_or_type(operator):
    x = random_x(operator)
    message = r"^x: expected \(n, \d+, \d+\) float32, got .*; give one entry a slice"
    for wrong in (x[0], x[None], x[:, 1:], x[:, :, :-1], x.astype(np.float64), x.astype(np.complex64)):
        with pytest.raises(ValueError, match=message):
            operator.apply(wrong)


def test_adjoint_refuses_another_rank_shape_or_type(operator):
    y = random_y(operator)
    other = np.float32 if operator.data_dtype == np.complex64 else np.complex64
    longer = np.concatenate([y, y], axis=-1)
    for wrong in (y[0], y[None], longer, y.real.astype(np.float64), y.real.astype(other)):
        with pytest.raises(ValueError, match=r"^y: expected \(n, .*\) (float32|complex64), got .*; give one entry"):
            operator.adjoint(wrong)


# --- Fourier


@pytest.mark.parametrize(("h", "w"), [(32, 32), (33, 24), (24, 31)])
def test_transform_of_a_gaussian_is_a_gaussian(h, w):
    s = 2.0
    rows, columns = np.arange(h) - h // 2, np.arange(w) - w // 2
    x = np.exp(-(rows[:, None] ** 2 + columns**2) / (2 * s**2)).astype(np.float32)
    y = MaskedFourier(np.ones((h, w), np.float32)).apply(x[None])[0]
    u, v = rows[:, None] / h, columns / w
    # The image's centre is h // 2, w // 2 pixels from the transform's origin.
    shift = np.exp(-2j * np.pi * (u * (h // 2) + v * (w // 2)))
    expected = 2 * np.pi * s**2 * np.exp(-2 * (np.pi * s) ** 2 * (u**2 + v**2)) * shift
    # Relative to the peak: what the border cuts off is 2e-8, aliasing 3e-9, float32 a few 1e-7.
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * 2 * np.pi * s**2)


@pytest.mark.parametrize("shape", [(8, 8), (7, 10), (9, 5)])
def test_zero_frequency_lies_at_half_the_sides(shape):
    y = MaskedFourier(np.ones(shape, np.float32)).apply(np.ones((1, *shape), np.float32))[0]
    expected = np.zeros(shape)
    expected[shape[0] // 2, shape[1] // 2] = shape[0] * shape[1]
    np.testing.assert_allclose(y, expected, atol=1e-5)  # float32 at values up to 80


def test_only_masked_samples_are_measured():
    operator = fourier((9, 8))
    everything = MaskedFourier(np.ones((9, 8), np.float32))
    x = random_x(operator)
    sampled = operator.mask == 1
    np.testing.assert_array_equal(operator.apply(x)[:, ~sampled], 0)
    np.testing.assert_array_equal(operator.apply(x)[:, sampled], everything.apply(x)[:, sampled])


def test_zero_filled_image_is_the_image_where_everything_is_sampled():
    operator = MaskedFourier(np.ones((9, 8), np.float32))
    x = random_x(operator)
    np.testing.assert_allclose(operator.classical(operator.apply(x)), x, atol=1e-6)  # values of 3, float32 rounding


def test_zero_filled_image_is_the_inverse_transform_of_the_samples():
    operator = fourier((9, 8))
    y = operator.apply(random_x(operator))
    expected = np.fft.ifft2(np.fft.ifftshift(y, axes=(1, 2)), axes=(1, 2)).real
    np.testing.assert_allclose(operator.classical(y), expected, atol=1e-6)


# --- parallel beams


def test_filtered_back_projection_of_a_disc_is_roughly_the_disc():
    n, radius = 64, 20.0
    # Lattice and detector share their centre, as `kernels.ParallelGeometry` says; the disc need not.
    rows, columns = np.meshgrid(np.arange(n) - 30.0, np.arange(n) - 34.0, indexing="ij")
    distance = np.hypot(rows, columns)
    disc = (distance < radius).astype(np.float32)
    operator = radon(n, 120)
    image = operator.classical(operator.apply(disc[None]))[0]
    inside, outside = image[distance < radius - 2], image[distance > radius + 2]
    # 120 views of 64 pixels leave streaks of a few per cent, and no more offset than the filter's first sample makes.
    assert inside.mean() == pytest.approx(1, abs=0.02)
    assert np.sqrt(((inside - 1) ** 2).mean()) < 0.05
    assert abs(outside.mean()) < 0.02
    assert np.sqrt((outside**2).mean()) < 0.05


# --- thick slices


@pytest.mark.parametrize(("axis", "factor"), [(1, 3), (1, 4), (2, 2), (2, 5)])
def test_thick_slices_are_block_means(axis, factor):
    operator = ThickSlices((11, 13), factor, axis)
    x = random_x(operator)
    y = operator.apply(x)
    n_blocks = x.shape[axis] // factor
    assert y.shape[axis] == n_blocks
    for block in range(n_blocks):
        members = np.arange(block * factor, (block + 1) * factor)
        np.testing.assert_allclose(
            y.take(block, axis=axis),
            x.take(members, axis=axis).astype(np.float64).mean(axis=axis),
            atol=1e-6,  # sums of up to five float32 values of order one
        )


@pytest.mark.parametrize("axis", [1, 2])
def test_repeated_slices_fill_their_blocks_and_leave_the_rest_zero(axis):
    factor = 4
    operator = ThickSlices((11, 10), factor, axis)
    y = operator.apply(random_x(operator))
    shown = operator.classical(y)
    for i in range(operator.slice_shape[axis - 1]):
        found = shown.take(i, axis=axis)
        expected = y.take(i // factor, axis=axis) if i < operator.n_covered else np.zeros_like(found)
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(operator.apply(shown), y, atol=1e-6)  # the mean of equal values, rounded


@pytest.mark.parametrize("axis", [1, 2])
def test_first_of_block_is_a_view_of_every_blocks_first_member(axis):
    operator = ThickSlices((11, 10), 3, axis)
    x = random_x(operator)
    first = operator.first_of_block(x)
    assert first.shape == operator.apply(x).shape
    np.testing.assert_array_equal(first, x.take(range(0, operator.n_covered, 3), axis=axis))
    first[...] = 7
    assert (x == 7).sum() == first.size
