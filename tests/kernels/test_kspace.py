"""Residuals in k-space and sums over coils against their float64 twins, on every array library."""

from __future__ import annotations

import numpy as np
import pytest

import kernels
from kernels import reference

N = 3
#: Sides that are odd, even, one, a vector's length, and beyond one partial sum of either machine.
SIDES = [(1, 1), (1, 2), (2, 1), (3, 1), (4, 4), (5, 7), (6, 5), (9, 34), (33, 64), (200, 330)]


def complex_normal(rng, shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def problem(h, w, *, half, noise, copies=1):
    """Spectrum, measurement, weights and noise as the kernels take them, NumPy."""
    rng = np.random.default_rng(h * 1000 + w)
    weight = rng.random((h, w)).astype(np.float32)
    y, e = (complex_normal(rng, (N, copies, h, w)) for _ in range(2))
    if not half:
        return complex_normal(rng, (N, copies, h, w)), y, weight, e if noise else None
    spectrum = np.fft.rfft2(rng.standard_normal((N, h, w))).astype(np.complex64)
    e = kernels.half_of(e[:, 0]) if noise else None
    return spectrum, kernels.half_of(y[:, 0]), kernels.half_of(weight), e


def close(got, expected, tolerance=1e-6):
    # float32 rounds every product and sum, 6e-8 each.
    assert np.linalg.norm(got - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("noise", [False, True], ids=["plain", "noise"])
@pytest.mark.parametrize(("h", "w"), SIDES)
@pytest.mark.parametrize("copies", [1, 3])
def test_full_residual_equals_twin(xp, to_numpy, h, w, copies, noise):
    f, y, weight, e = problem(h, w, half=False, noise=noise, copies=copies)
    got = xp.array(f)
    norms = kernels.kspace_residual(got, xp.asarray(y), xp.asarray(weight), 1.5, e if e is None else xp.asarray(e))
    expected = reference.kspace_residual(f, y, weight, 1.5, e)
    close(to_numpy(got), f)
    for mine, theirs in zip(norms, expected, strict=True):
        assert mine.dtype == np.float64
        np.testing.assert_allclose(to_numpy(mine), theirs, rtol=1e-6)


@pytest.mark.parametrize("noise", [False, True], ids=["plain", "noise"])
@pytest.mark.parametrize(("h", "w"), SIDES)
def test_half_residual_equals_twin(xp, to_numpy, h, w, noise):
    f, y, weight, e = problem(h, w, half=True, noise=noise)
    got = xp.array(f)
    norms = kernels.kspace_residual_half(
        got, w, xp.asarray(y), xp.asarray(weight), 0.7, e if e is None else xp.asarray(e)
    )
    expected = reference.kspace_residual_half(f, w, y, weight, 0.7, e)
    close(to_numpy(got), f)
    for mine, theirs in zip(norms, expected, strict=True):
        np.testing.assert_allclose(to_numpy(mine), theirs, rtol=1e-6)


@pytest.mark.parametrize(("h", "w"), SIDES)
def test_what_half_a_residual_leaves_is_hermitian(xp, to_numpy, h, w):
    f, y, weight, _ = problem(h, w, half=True, noise=False)
    got = xp.array(f)
    kernels.kspace_residual_half(got, w, xp.asarray(y), xp.asarray(weight))
    left = to_numpy(got)
    for column in {0} | ({w // 2} if w % 2 == 0 else set()):
        # Exactly: CUDA's real inverse transform is defined for nothing else.
        np.testing.assert_array_equal(left[:, :, column], np.roll(left[:, ::-1, column], 1, axis=1).conj())


def test_halves_have_every_sample_once(xp, to_numpy):
    for h, w in SIDES[:-1]:
        full = np.arange(1, h * w + 1, dtype=np.float32).reshape(h, w)
        pairs = to_numpy(kernels.half_of(xp.asarray(full)))
        assert sorted(pairs[pairs != 0]) == sorted(full.ravel())
        np.testing.assert_array_equal(reference._whole(pairs, w).real, full)


@pytest.mark.parametrize("half", [False, True])
def test_sums_do_not_depend_on_threads_nor_on_neighbours(half):
    def residual(which=slice(None)):
        f, y, weight, e = problem(200, 330, half=half, noise=True)
        f, y, e = f[which].copy(), y[which], e[which]
        if half:
            return f, *kernels.kspace_residual_half(f, 330, y, weight, 1.5, e)
        return f, *kernels.kspace_residual(f, y, weight, 1.5, e)

    before = kernels.get_threads()
    try:
        kernels.set_threads(1)
        one = residual()
        kernels.set_threads(5)
        for array, same in zip(one, residual(), strict=True):
            np.testing.assert_array_equal(array, same)
        for array, same in zip(one, residual(slice(1, 2)), strict=True):
            np.testing.assert_array_equal(array[1:2], same)
    finally:
        kernels.set_threads(before)


@pytest.mark.parametrize("real", [True, False], ids=["real", "complex"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per-slice"])
@pytest.mark.parametrize(("h", "w"), [(1, 1), (5, 7), (181, 190)])
def test_coils_equal_twins(xp, to_numpy, h, w, shared, real):
    rng, coils = np.random.default_rng(0), 4
    maps = complex_normal(rng, (coils, h, w) if shared else (N, coils, h, w))
    x = rng.standard_normal((N, h, w)).astype(np.float32) if real else complex_normal(rng, (N, h, w))
    expanded = kernels.coil_expand(xp.asarray(x), xp.asarray(maps))
    assert expanded.dtype == np.complex64
    close(to_numpy(expanded), reference.coil_expand(x, maps))
    z = complex_normal(rng, (N, coils, h, w))
    combined = kernels.coil_combine(xp.asarray(z), xp.asarray(maps), real)
    assert combined.dtype == x.dtype
    close(to_numpy(combined), reference.coil_combine(z, maps, real))


def test_empty_stacks_have_empty_results(xp):
    f, y, weight = (
        xp.zeros((0, 2, 4, 5), np.complex64),
        xp.zeros((0, 2, 4, 5), np.complex64),
        xp.ones((4, 5), np.float32),
    )
    for norm in kernels.kspace_residual(f, y, weight):
        assert norm.shape == (0,)
    half = kernels.half_of(y[:, 0])
    for norm in kernels.kspace_residual_half(f[:, 0, :, :3].copy(), 5, half, kernels.half_of(weight)):
        assert norm.shape == (0,)
    maps = xp.ones((2, 4, 5), np.complex64)
    assert kernels.coil_expand(xp.zeros((0, 4, 5), np.float32), maps).shape == (0, 2, 4, 5)
    assert kernels.coil_combine(f, maps, True).shape == (0, 4, 5)


def test_not_a_number_stays_one_and_stays_in_its_slice(xp, to_numpy):
    f, y, weight, _ = problem(5, 6, half=True, noise=False)
    f[1, 2, 1] = np.nan
    got = xp.array(f)
    scaled, plain = kernels.kspace_residual_half(got, 6, xp.asarray(y), xp.asarray(weight))
    for norm in (scaled, plain):
        np.testing.assert_array_equal(np.isnan(to_numpy(norm)), [False, True, False])
    left = np.isnan(to_numpy(got))
    assert left[1, 2, 1]
    assert left.sum() == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda a: {**a, "spectrum": a["spectrum"][0]},
            ValueError,
            r"spectrum: expected \(n, rows, 4\) complex64",
        ),
        (
            lambda a: {**a, "spectrum": a["spectrum"].astype(np.complex128)},
            TypeError,
            "spectrum: .*convert it",
        ),
        (lambda a: {**a, "spectrum": a["spectrum"][:, :, ::-1]}, ValueError, "spectrum: expected .*C-contiguous"),
        (lambda a: {**a, "n_full": 8}, ValueError, r"spectrum: expected \(n, rows, 5\).*of 8 columns"),
        (lambda a: {**a, "n_full": 6.0}, TypeError, "n_full: expected an integer"),
        (lambda a: {**a, "measured": a["measured"][:, 0]}, ValueError, r"measured: .* pass kernels.half_of\("),
        (lambda a: {**a, "weight": a["weight"][0]}, ValueError, r"weight: expected \(2, 5, 4\) float32"),
        (lambda a: {**a, "noise": a["measured"][1:]}, ValueError, "noise: expected"),
        (lambda a: {**a, "noise": 0.5}, TypeError, "noise: expected numpy.ndarray or cupy.ndarray, got float"),
    ],
)
def test_wrong_arguments_are_refused(change, error, message):
    f, y, weight, _ = problem(5, 6, half=True, noise=False)
    arguments = change({"spectrum": f, "n_full": 6, "measured": y, "weight": weight})
    with pytest.raises(error, match=message):
        kernels.kspace_residual_half(**arguments)


def test_wrong_coils_are_refused():
    x, maps = np.zeros((2, 4, 5), np.float32), np.zeros((3, 4, 5), np.complex64)
    for wrong, message in [
        (maps[:, :3], r"maps: expected \(coils, 4, 5\) complex64"),
        (np.zeros((3, 3, 4, 5), np.complex64), r"maps: expected \(2, coils, 4, 5\)"),
        (maps[0], r"maps: expected \(coils, 4, 5\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            kernels.coil_expand(x, wrong)
    with pytest.raises(ValueError, match="maps: expected 2 coils as in coils, got 3; pass"):
        kernels.coil_combine(np.zeros((2, 2, 4, 5), np.complex64), maps, True)
    with pytest.raises(TypeError, match=r"images: expected .* float32, got .* float64"):
        kernels.coil_expand(x.astype(np.float64), maps)
    with pytest.raises(ValueError, match="full: expected"):
        kernels.half_of(np.zeros((3, 0), np.float32))


def test_libraries_do_not_mix(xp):
    if xp is np:
        pytest.skip("one library only")
    f, y, weight, _ = problem(5, 6, half=False, noise=False)
    with pytest.raises(TypeError, match=r"measured: expected cupy\.ndarray like spectrum, got numpy\.ndarray"):
        kernels.kspace_residual(xp.asarray(f), y, xp.asarray(weight))
