"""Measurement operators: linear, transposed exactly, right where the answer is known, and strict about their input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import kernels
from engine.operators import CoilFourier, LinearOperator, MaskedFourier, Radon, ThickSlices
from engine.operators.thick_slices import profile_weights


def fourier(shape: tuple[int, int]) -> MaskedFourier:
    return MaskedFourier((np.random.default_rng(1).random(shape) < 0.4).astype(np.float32))


def weighted(shape: tuple[int, int], image_dtype: type = np.float32) -> MaskedFourier:
    """Weights between 0 and 2 instead of zeros and ones."""
    return MaskedFourier(2 * np.random.default_rng(2).random(shape).astype(np.float32), image_dtype)


def coils(shape: tuple[int, int], n_slices: int | None = None, image_dtype: type = np.float32) -> CoilFourier:
    generator = np.random.default_rng(3)
    sizes = (3, *shape) if n_slices is None else (n_slices, 3, *shape)
    maps = generator.standard_normal(sizes) + 1j * generator.standard_normal(sizes)
    mask = (generator.random(shape) < 0.6).astype(np.float32)
    return CoilFourier(mask, maps.astype(np.complex64), image_dtype)


def radon(n: int, n_views: int) -> Radon:
    return Radon(kernels.ParallelGeometry.from_views(n, n_views))


BUILDERS: dict[str, Callable[[], LinearOperator]] = {
    "fourier-8x8": lambda: fourier((8, 8)),
    "fourier-9x7": lambda: fourier((9, 7)),
    "fourier-6x11": lambda: fourier((6, 11)),
    "fourier-all": lambda: MaskedFourier(np.ones((7, 8), np.float32)),
    "fourier-1x1": lambda: MaskedFourier(np.ones((1, 1), np.float32)),
    "fourier-1x6": lambda: weighted((1, 6)),
    "fourier-7x1": lambda: weighted((7, 1)),
    "fourier-weighted": lambda: weighted((10, 9)),
    "fourier-complex": lambda: weighted((7, 8), np.complex64),
    "coils-9x8": lambda: coils((9, 8)),
    "coils-1x1": lambda: coils((1, 1)),
    "coils-complex": lambda: coils((6, 7), image_dtype=np.complex64),
    "coils-of-every-slice": lambda: coils((6, 5), N_SLICES),
    "coils-of-every-slice-complex": lambda: coils((5, 6), N_SLICES, np.complex64),
    "radon-8": lambda: radon(8, 5),
    "radon-9": lambda: radon(9, 7),
    "radon-one-view": lambda: radon(8, 1),
    "radon-fan": lambda: Radon(kernels.FanGeometry((9, 12), [0.2, 2.0, 4.0], 20.0, 10.0, 25, bin_offset=0.6)),
    "radon-curved": lambda: Radon(kernels.FanGeometry((8, 8), [0.2, 2.0], 20.0, 10.0, 25, curved=True)),
    "thick-rows": lambda: ThickSlices((12, 5), 3, axis=1),
    "thick-rows-rest": lambda: ThickSlices((11, 6), 4, axis=1),
    "thick-columns": lambda: ThickSlices((5, 12), 4, axis=2),
    "thick-columns-rest": lambda: ThickSlices((7, 11), 2, axis=2),
    "thick-one-block": lambda: ThickSlices((4, 9), 9, axis=2),
    "thick-gap": lambda: ThickSlices((5, 13), 4, axis=2, gap=1.5),
    "thick-gaussian-rows": lambda: ThickSlices((14, 6), 3, axis=1, profile="gaussian"),
    "thick-gaussian-columns": lambda: ThickSlices((6, 17), 4, axis=2, profile="gaussian", gap=1.0),
}
N_SLICES = 3


@pytest.fixture(params=BUILDERS.values(), ids=BUILDERS.keys())
def operator(request) -> LinearOperator:
    return request.param()


def random_x(operator: LinearOperator, seed: int = 0) -> np.ndarray:
    generator, shape = np.random.default_rng(seed), (N_SLICES, *operator.slice_shape)
    x = generator.standard_normal(shape)
    if operator.image_dtype == np.complex64:
        x = x + 1j * generator.standard_normal(shape)
    return x.astype(operator.image_dtype)


def dense(operator: LinearOperator) -> np.ndarray:
    """The operator of the first slice as a real float64 matrix: real and imaginary parts count alike, one above the
    other, on both sides."""
    n = int(np.prod(operator.slice_shape))
    basis = np.eye(n, dtype=operator.image_dtype).reshape(n, 1, *operator.slice_shape)
    directions = [basis, 1j * basis] if operator.image_dtype == np.complex64 else [basis]
    one = operator.at(slice(0, 1))
    columns = [one.apply(x.astype(operator.image_dtype)).ravel() for part in directions for x in part]
    matrix = np.stack(columns, axis=1).astype(np.complex128)
    return np.concatenate([matrix.real, matrix.imag])


def flat(y: np.ndarray) -> np.ndarray:
    """Entries of a stack as float64 rows, imaginary parts, zero for real numbers, behind the real ones."""
    y = y.reshape(len(y), -1).astype(np.complex128)
    return np.concatenate([y.real, y.imag], axis=1)


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
    y, matrix = random_y(operator)[:1], dense(operator)
    expected = flat(y) @ matrix
    got = flat(operator.at(slice(0, 1)).adjoint(y))[:, : matrix.shape[1]]
    assert norm(got - expected) <= 1e-6 * norm(expected)


def test_norm_is_the_largest_singular_value(operator):
    largest = np.linalg.svd(dense(operator), compute_uv=False)[0]
    # Twenty power iterations: the error falls with the square of the ratio of the two largest values, to a per cent
    # or two for the smallest problems here and to rounding for the others.
    assert operator.at(slice(0, 1)).norm() == pytest.approx(largest, rel=2e-2)
    every = [operator.at(slice(i, i + 1)).norm() for i in range(N_SLICES)]
    assert operator.norm() == max(every)


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
        part = operator.at(one)
        np.testing.assert_allclose(operator.apply(x)[one], part.apply(x[one]), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(operator.adjoint(y)[one], part.adjoint(y[one]), rtol=1e-6, atol=1e-6)


def test_types_and_shapes_are_as_declared(operator):
    y, x = operator.apply(random_x(operator)), operator.adjoint(random_y(operator))
    assert (y.shape, y.dtype) == ((N_SLICES, *operator.data_shape), operator.data_dtype)
    assert (x.shape, x.dtype) == ((N_SLICES, *operator.slice_shape), operator.image_dtype)
    shown = operator.classical(y)
    assert (shown.shape, shown.dtype) == (x.shape, operator.image_dtype)


def test_layout_in_memory_does_not_matter(operator):
    x, y = random_x(operator), random_y(operator)
    # Sums along another stride may add in another order: a rounding or two of float32 values of order one (y: ten).
    np.testing.assert_allclose(operator.apply(np.asfortranarray(x)), operator.apply(x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(operator.adjoint(np.asfortranarray(y)), operator.adjoint(y), rtol=1e-6, atol=1e-6)


def refused(message: str, call: Callable[[np.ndarray], object], wrong: np.ndarray) -> None:
    with pytest.raises(ValueError) as caught:
        call(wrong)
    assert str(caught.value) == message


def test_apply_names_the_axis_that_differs(operator):
    x, apply = random_x(operator), operator.apply
    for axis, name in ((1, "row"), (2, "column")):
        n = operator.slice_shape[axis - 1]
        longer = np.concatenate([x, x], axis)
        message = (
            f"x: expected {n} {name}{'s' if n > 1 else ''} along axis {axis}, got {2 * n} in the shape {longer.shape}; "
            f"build the operator for its {name}s, or give what belongs to this one"
        )
        refused(message, apply, longer)
    for wrong in (x[0], x[None]):
        message = (
            f"x: expected 3 axes (slices, rows, columns), got {wrong.ndim} in the shape {wrong.shape}; give one "
            "entry a slice, in the layout of the plane that is measured"
        )
        refused(message, apply, wrong)
    if operator.slice_shape[0] != operator.slice_shape[1]:
        with pytest.raises(
            ValueError, match=r"^x: expected \d+ rows? .* and .*; put its axes into the order slices, rows"
        ):
            apply(x.swapaxes(1, 2))


#: What each axis of a measurement counts, by the first word of an operator's name in `BUILDERS`.
DATA_AXES = {
    "fourier": ["k-space rows", "k-space columns"],
    "coils": ["coils", "k-space rows", "k-space columns"],
    "radon": ["views", "detector bins"],
    "thick-rows": ["thick slices", "columns"],
    "thick-columns": ["rows", "thick slices"],
}


@pytest.mark.parametrize("name", BUILDERS)
def test_adjoint_names_the_axis_that_differs(name):
    operator = BUILDERS[name]()
    y = random_y(operator)
    known = [axes for start, axes in DATA_AXES.items() if name.startswith(start)]
    axes = known[0] if known else list(operator.data_axes)
    assert list(operator.data_axes) == axes
    # Whoever takes a measurement refuses it in the same words.
    takers = {"y": (operator.adjoint, operator.classical), "measurement": (operator.fidelity, operator.proximal)}
    for argument, calls in takers.items():
        for call in calls:
            for axis, counted in enumerate(axes, start=1):
                n = y.shape[axis]
                longer = np.concatenate([y, y], axis)
                message = (
                    f"{argument}: expected {n} {counted if n > 1 else counted[:-1]} along axis {axis}, got {2 * n} "
                    f"in the shape {longer.shape}; build the operator for its {counted}, or give what belongs to this "
                    "one"
                )
                refused(message, call, longer)
            for wrong in (y[0], y[None]):
                message = (
                    f"{argument}: expected {y.ndim} axes (slices, {', '.join(axes)}), got {wrong.ndim} in the shape "
                    f"{wrong.shape}; give one entry a slice, in the layout of the plane that is measured"
                )
                refused(message, call, wrong)


def test_several_axes_that_differ_are_all_named():
    message = (
        "y: expected 36 views along axis 1 and 91 detector bins along axis 2, got 40 and 64 in the shape (2, 40, 64); "
        "build the operator for its views and detector bins, or give what belongs to this one"
    )
    refused(message, radon(64, 36).adjoint, np.zeros((2, 40, 64), np.float32))
    message = (
        "y: expected 36 views along axis 1 and 91 detector bins along axis 2, got 91 and 36 in the shape (2, 91, 36); "
        "put its axes into the order slices, views, detector bins"
    )
    refused(message, radon(64, 36).adjoint, np.zeros((2, 91, 36), np.float32))


def test_another_number_of_slices_is_named():
    operator = coils((6, 5), N_SLICES)
    y = random_y(operator)
    message = (
        "y: expected 3 slices along axis 0, got 2 in the shape (2, 3, 6, 5); give one entry for each slice that is "
        "measured"
    )
    refused(message, operator.adjoint, y[:2])
    fidelity = operator.fidelity(y)
    with pytest.raises(ValueError, match=r"^noise: expected 3 slices along axis 0, got 2 "):
        fidelity(random_x(operator), slice(0, 3), y[:2])


def test_another_type_is_refused_with_the_way_out(operator):
    x, y = random_x(operator), random_y(operator)
    for argument, call, right in (("x", operator.apply, x), ("y", operator.adjoint, y)):
        for other in (np.float64, np.complex128, np.int16, np.float32, np.complex64):
            if right.dtype == other:
                continue
            wrong = right.real.astype(other)
            loses_part = wrong.dtype.kind == "c" and right.dtype.kind != "c"
            remedy = (
                "take its real part if it has no other" if loses_part else f"convert it with .astype('{right.dtype}')"
            )
            refused(f"{argument}: expected {right.dtype}, got {wrong.dtype}; {remedy}", call, wrong)


def test_what_is_no_array_is_refused(operator):
    for wrong in (None, 1.0, random_x(operator).tolist()):
        for call in (operator.apply, operator.adjoint, operator.classical):
            with pytest.raises(TypeError, match=r"^[xy]: expected (numpy\.ndarray or cupy\.ndarray|an array), got"):
                call(wrong)


def test_a_stack_of_none_gives_one_of_none(operator):
    part = operator.at(slice(0, 0))
    x, y = random_x(operator)[:0], random_y(operator)[:0]
    assert (part.apply(x).shape, part.apply(x).dtype) == (y.shape, y.dtype)
    for got in (part.adjoint(y), part.classical(y)):
        assert (got.shape, got.dtype) == (x.shape, x.dtype)


def test_what_is_no_number_stays_none_in_its_slice(operator):
    x = random_x(operator)
    x[1] = np.nan
    y = operator.apply(x)
    # A detector sees nothing at its ends.
    assert np.isnan(y[1]).any()
    assert np.isfinite(y[[0, 2]]).all()
    back = operator.adjoint(y)
    assert np.isnan(back[1]).any()
    assert np.isfinite(back[[0, 2]]).all()


def test_slices_without_pixels_are_refused():
    with pytest.raises(ValueError, match=r"^slice_shape: expected at least one row and column, got \(0, 4\); "):
        ThickSlices((0, 4), 2, axis=2)


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


@pytest.mark.parametrize("image_dtype", [np.float32, np.complex64])
@pytest.mark.parametrize("shape", [(9, 8), (6, 5), (1, 1)])
def test_zero_filled_image_undoes_weights(shape, image_dtype):
    operator = weighted(shape, image_dtype)
    assert operator.mask.all()
    x = random_x(operator)
    # The smallest weight of these, 0.003, brings nothing up that was not rounded after it.
    np.testing.assert_allclose(operator.classical(operator.apply(x)), x, atol=2e-6)


@pytest.mark.parametrize("build", [lambda: weighted((8, 7)), lambda: coils((8, 7))])
def test_real_images_are_complex_ones_without_an_imaginary_part(build):
    real = build()
    arguments = (real.mask, real.maps) if isinstance(real, CoilFourier) else (real.mask,)
    general = type(real)(*arguments, np.complex64)
    x, y = random_x(real), random_y(real)
    assert norm(real.apply(x) - general.apply(x.astype(np.complex64))) <= 1e-6 * norm(real.apply(x))
    assert norm(real.adjoint(y) - general.adjoint(y).real) <= 1e-6 * norm(real.adjoint(y))


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.ones(3, np.float32), ValueError, r"mask: expected \(h, w\) of real weights, at least one, got \(3,\)"),
        (np.ones((0, 3), np.float32), ValueError, r"mask: expected \(h, w\) of real weights, at least one"),
        (np.ones((2, 3), np.complex64), ValueError, r"mask: expected .* complex64; pass one weight"),
        (-np.ones((2, 3), np.float32), ValueError, "mask: expected finite weights of at least 0"),
        (np.full((2, 3), np.nan, np.float32), ValueError, "mask: expected finite weights of at least 0"),
        ([[1.0]], TypeError, "mask: expected numpy"),
    ],
)
def test_masks_without_sense_are_refused(mask, error, message):
    with pytest.raises(error, match=f"^{message}"):
        MaskedFourier(mask)
    with pytest.raises(error, match=f"^{message}"):
        CoilFourier(mask, np.ones((1, 2, 3), np.complex64))


def test_image_types_without_sense_are_refused():
    with pytest.raises(ValueError, match=r"^image_dtype: expected float32 or complex64, got float64; choose one"):
        MaskedFourier(np.ones((2, 3), np.float32), np.float64)


# --- coils


def test_one_coil_that_sees_everything_alike_is_none():
    mask = fourier((9, 8)).mask
    one = CoilFourier(mask, np.ones((1, 9, 8), np.complex64))
    x = random_x(one)
    np.testing.assert_allclose(one.apply(x)[:, 0], MaskedFourier(mask).apply(x), rtol=1e-5, atol=1e-5)


def test_every_coil_measures_the_image_times_its_map():
    operator = coils((7, 6), N_SLICES)
    x, single = random_x(operator), MaskedFourier(operator.mask, np.complex64)
    for c in range(3):
        expected = single.apply(operator.maps[:, c] * x)
        assert norm(operator.apply(x)[:, c] - expected) <= 1e-6 * norm(expected)


@pytest.mark.parametrize("image_dtype", [np.float32, np.complex64])
def test_combined_image_is_the_image_where_everything_is_sampled_and_seen(image_dtype):
    maps = coils((8, 9)).maps.copy()
    maps[:, 2, 3] = 0
    operator = CoilFourier(np.full((8, 9), 0.5, np.float32), maps, image_dtype)
    x = random_x(operator)
    expected = x.copy()
    # No coil sees this pixel: nothing is known of it.
    expected[:, 2, 3] = 0
    np.testing.assert_allclose(operator.classical(operator.apply(x)), expected, atol=5e-6)  # float32 at values of ten


def test_coils_of_every_slice_fit_their_stack_only():
    operator = coils((4, 5), N_SLICES)
    with pytest.raises(
        ValueError, match=r"^x: expected 3 slices along axis 0, got 2 in the shape \(2, 4, 5\); give one"
    ):
        operator.apply(random_x(operator)[:2])
    part = operator.at(slice(1, 3))
    np.testing.assert_array_equal(part.maps, operator.maps[1:])
    assert part.apply(random_x(operator)[1:]).shape == (2, 3, 4, 5)
    assert coils((4, 5)).at(slice(1, 3)).n_slices is None


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.ones((2, 3), np.complex64), "maps: expected"),
        (np.ones((1, 3, 2), np.complex64), "maps: expected"),
        (np.ones((0, 2, 3), np.complex64), "maps: expected"),
        (np.ones((1, 2, 3), np.float32), "maps: expected"),
        (np.full((1, 2, 3), np.inf, np.complex64), "maps: expected finite values"),
    ],
)
def test_maps_without_sense_are_refused(maps, message):
    with pytest.raises(ValueError, match=f"^{message}.*; "):
        CoilFourier(np.ones((2, 3), np.float32), maps)


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
    shown = operator.repeated(y)
    for i in range(operator.slice_shape[axis - 1]):
        found = shown.take(i, axis=axis)
        expected = y.take(i // factor, axis=axis) if i < operator.n_covered else np.zeros_like(found)
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(operator.apply(shown), y, atol=1e-6)  # the mean of equal values, rounded


@pytest.mark.parametrize("axis", [1, 2])
def test_first_entries_are_every_blocks_first_member(axis):
    operator = ThickSlices((11, 10), 3, axis)
    x = random_x(operator)
    first = x[operator.first_entries]
    assert first.shape == operator.apply(x).shape
    np.testing.assert_array_equal(first, x.take(range(0, operator.n_covered, 3), axis=axis))
    first[...] = 7
    assert (x == 7).sum() == first.size


@pytest.mark.parametrize("gap", [0.0, 0.5, 2.0, 3.5])
@pytest.mark.parametrize("profile", ["box", "gaussian"])
@pytest.mark.parametrize(("n", "factor"), [(16, 4), (19, 5), (9, 9)])
def test_constants_stay_constant(n, factor, profile, gap):
    operator = ThickSlices((3, n), factor, 2, profile, gap)
    thick = operator.apply(np.full((2, 3, n), 7, np.float32))
    np.testing.assert_allclose(thick, 7, rtol=1e-6)  # sums of float32 weights


@pytest.mark.parametrize("gap", [0.0, 1.0, 2.5])
def test_box_edges_weight_partly(gap):
    weights = profile_weights(15, 5, "box", gap)
    thickness = 5 - gap
    for block in range(3):
        low, high = 5 * block + gap / 2, 5 * (block + 1) - gap / 2
        for j in range(15):
            covered = max(0.0, min(j + 1, high) - max(j, low))
            assert weights[block, j] == pytest.approx(covered / thickness, abs=1e-12)


@pytest.mark.parametrize(("factor", "gap"), [(4, 0.0), (5, 2.0), (8, 0.5)])
def test_gaussian_profile_has_the_thickness_as_its_full_width(factor, gap):
    n, thickness = 20 * factor, factor - gap
    weights = profile_weights(n, factor, "gaussian", gap)
    middle = weights[10]
    centres = np.arange(n) + 0.5 - 10.5 * factor
    # The moments of a normal distribution, of whose mass the cut leaves 99.96 %, over bins of width one: 1/12 each.
    sigma = thickness / np.sqrt(8 * np.log(2))
    assert (middle * centres).sum() == pytest.approx(0, abs=1e-12)
    assert (middle * centres**2).sum() == pytest.approx(sigma**2 + 1 / 12, rel=0.01)
    assert (middle[abs(centres) > 1.5 * thickness + 0.5] == 0).all()
    # It reaches into its neighbours, and the first one over the end.
    assert middle[10 * factor - 1] > 0
    assert weights[0].sum() == pytest.approx(1)


def test_thin_gaussian_slices_see_their_centre_only():
    # A profile far narrower than a thin slice: nothing underflows to no weight at all.
    np.testing.assert_allclose(profile_weights(6, 3, "gaussian", 3 - 1e-9)[:, 1::3], np.eye(2))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"axis": 0}, "axis"),
        ({"factor": 0}, "factor"),
        ({"factor": 9}, "factor"),
        ({"profile": "sinc"}, "profile"),
        ({"gap": -0.1}, "gap"),
        ({"gap": 4.0}, "gap"),
        ({"gap": float("nan")}, "gap"),
    ],
)
def test_thick_slices_without_sense_are_refused(options, name):
    with pytest.raises(ValueError, match=f"^{name}: expected .*, got .*; "):
        ThickSlices((5, 8), **{"factor": 4, "axis": 2, **options})
