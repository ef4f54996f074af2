"""Misfits against the formulas they stand for, on every array library."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import kernels
from engine.operators import CoilFourier, LinearOperator, MaskedFourier, Radon, ThickSlices, transforms
from engine.operators.data_fidelity import PlainFidelity
from engine.parallel.stack import Stack
from engine.sampling.denoiser import Denoiser
from engine.sampling.dps import Dps
from engine.volume import Plane

N = 5


def complex_normal(seed, shape):
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(shape) + 1j * generator.standard_normal(shape)).astype(np.complex64)


def fourier(xp, shape, image_dtype=np.float32):
    return MaskedFourier(xp.asarray(np.random.default_rng(1).random(shape).astype(np.float32)), image_dtype)


def coils(xp, shape, n_slices=(), image_dtype=np.float32):
    mask = (np.random.default_rng(1).random(shape) < 0.6).astype(np.float32)
    mask[0, 0] = 1
    return CoilFourier(xp.asarray(mask), xp.asarray(complex_normal(2, (*n_slices, 3, *shape))), image_dtype)


BUILDERS = {
    "fourier-even": lambda xp: fourier(xp, (8, 6)),
    "fourier-odd": lambda xp: fourier(xp, (7, 9)),
    "fourier-even-odd": lambda xp: fourier(xp, (10, 5)),
    "fourier-two-columns": lambda xp: fourier(xp, (5, 2)),
    "fourier-one-column": lambda xp: fourier(xp, (6, 1)),
    "fourier-one-row": lambda xp: fourier(xp, (1, 7)),
    "fourier-1x1": lambda xp: fourier(xp, (1, 1)),
    "fourier-large": lambda xp: fourier(xp, (210, 180)),
    "fourier-complex": lambda xp: fourier(xp, (8, 7), np.complex64),
    "fourier-complex-1x1": lambda xp: fourier(xp, (1, 1), np.complex64),
    "coils": lambda xp: coils(xp, (8, 7)),
    "coils-of-every-slice": lambda xp: coils(xp, (5, 6), (N,)),
    "coils-complex": lambda xp: coils(xp, (6, 6), (N,), np.complex64),
    "radon": lambda xp: Radon(kernels.ParallelGeometry.from_views(8, 5)),
    "thick": lambda xp: ThickSlices((6, 11), 3, axis=2),
    "thick-gaussian": lambda xp: ThickSlices((11, 6), 4, axis=1, profile="gaussian", gap=0.5),
}


@pytest.fixture(params=BUILDERS.values(), ids=BUILDERS.keys())
def operator(request, xp) -> LinearOperator:
    return request.param(xp)


def image(xp, operator, seed):
    x = complex_normal(seed, (N, *operator.slice_shape))
    return xp.asarray(x if operator.image_dtype == np.complex64 else np.ascontiguousarray(x.real))


def data(xp, operator, seed):
    y = complex_normal(seed, (N, *operator.data_shape))
    return xp.asarray(y if operator.data_dtype == np.complex64 else np.ascontiguousarray(y.real))


def norms(y):
    return (np.abs(y.reshape(len(y), -1).astype(np.complex128)) ** 2).sum(axis=1)


@pytest.mark.parametrize("noisy", [False, True], ids=["plain", "noise"])
@pytest.mark.parametrize("scale", [1.0, 0.7])
@pytest.mark.parametrize("which", [slice(0, N), slice(1, 3), slice(4, None)], ids=str)
def test_data_fidelity_is_that_of_apply_and_adjoint(xp, to_numpy, operator, which, scale, noisy):
    x, y, e = image(xp, operator, 1), data(xp, operator, 2), data(xp, operator, 3) if noisy else None
    part = None if e is None else e[which]
    before = [to_numpy(array).copy() for array in (x, y)]
    gradient, squared, plain = operator.fidelity(y, scale)(x[which], which, part)
    for array, copy in zip((x, y), before, strict=True):
        np.testing.assert_array_equal(to_numpy(array), copy)

    here = operator.at(slice(*which.indices(N)))
    difference = here.apply(x[which]) - y[which]
    residual = np.float32(scale) * difference - (0 if part is None else part)
    expected = to_numpy(np.float32(scale) * here.adjoint(residual))
    assert gradient.dtype == operator.image_dtype
    assert isinstance(gradient, xp.ndarray)
    # A few float32 roundings of 6e-8 on either side.
    assert np.linalg.norm(to_numpy(gradient) - expected) <= 1e-6 * np.linalg.norm(expected)
    for got, of in ((squared, residual), (plain, difference)):
        assert (got.shape, got.dtype) == ((len(expected),), np.float64)
        np.testing.assert_allclose(to_numpy(got), norms(to_numpy(of)), rtol=1e-6)


@pytest.mark.parametrize("noisy", [False, True], ids=["plain", "noise"])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_parts_of_a_stack_make_the_whole(operator, xp, to_numpy, monkeypatch, n_threads, noisy):
    x, y, e = image(xp, operator, 1), data(xp, operator, 2), data(xp, operator, 3) if noisy else None
    part = None if e is None else e[1:]
    whole = operator.fidelity(y, 0.7)(x[1:], slice(1, N), part)
    # One slice at a time in k-space, as where a slice fills the cache by itself.
    monkeypatch.setattr(transforms, "_CACHED_BYTES", 1)
    with kernels.threads_here(n_threads):
        cut = operator.fidelity(y, 0.7)(x[1:], slice(1, N), part)
    for one, other in zip(cut, whole, strict=True):
        # A transform of one slice may be rounded otherwise than one of several.
        assert np.linalg.norm(to_numpy(one) - to_numpy(other)) <= 1e-6 * np.linalg.norm(to_numpy(other))


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())
def test_operators_do_the_same_in_every_library(build, xp, to_numpy):
    here, there = build(np), build(xp)
    x, y = image(np, here, 1), data(np, here, 2)
    for name, given in (("apply", x), ("adjoint", y), ("classical", y)):
        got = getattr(there, name)(xp.asarray(given))
        assert isinstance(got, xp.ndarray)
        expected = getattr(here, name)(given)
        assert got.dtype == expected.dtype
        # Sums of floats in another order.
        assert np.linalg.norm(to_numpy(got) - expected) <= 1e-6 * np.linalg.norm(expected), name
    assert there.norm() == pytest.approx(here.norm(), rel=1e-5)


def test_gradient_is_half_that_of_the_squared_norm(xp, to_numpy, operator):
    """Of ‖A x − y‖², in the direction d: a quadratic, of which central differences are exact."""
    x, y, d = (image(xp, operator, 1), data(xp, operator, 2), image(xp, operator, 3))
    fidelity = operator.fidelity(y)

    def total(where):
        return float(to_numpy(fidelity(where, slice(0, N))[1]).sum())

    slope = (total(x + d) - total(x - d)) / 4
    gradient = to_numpy(fidelity(x, slice(0, N))[0]).astype(np.complex128)
    inner = np.vdot(gradient, to_numpy(d)).real
    assert abs(inner - slope) <= 1e-6 * np.linalg.norm(gradient) * np.linalg.norm(to_numpy(d))


def test_its_own_measurement_leaves_nothing(xp, to_numpy, operator):
    x = image(xp, operator, 1)
    gradient, squared, plain = operator.fidelity(operator.apply(x), 1.5)(x, slice(0, N))
    np.testing.assert_array_equal(to_numpy(plain), 0)
    np.testing.assert_array_equal(to_numpy(squared), 0)
    # Where k and −k lie in one half, one may be rounded otherwise than the other.
    assert np.linalg.norm(to_numpy(gradient)) <= 1e-6 * np.linalg.norm(to_numpy(operator.adjoint(operator.apply(x))))


def test_pieces_are_those_of_the_whole(xp, to_numpy, operator):
    x, fidelity = image(xp, operator, 1), operator.fidelity(data(xp, operator, 2), 0.7)
    whole = [to_numpy(array) for array in fidelity(x, slice(0, N))]
    for start in range(N):
        one = slice(start, start + 1)
        for part, of in zip(fidelity(x[one], one), whole, strict=True):
            # Transforms of several slices are grouped otherwise: a rounding or two.
            np.testing.assert_allclose(to_numpy(part), of[one], rtol=1e-5, atol=1e-6 * np.abs(of).max())


def test_threads_may_share_a_misfit():
    operator = fourier(np, (33, 40))
    x, y = image(np, operator, 1), data(np, operator, 2)
    fidelity, found = operator.fidelity(y), {}

    def work(i):
        for _ in range(20):
            found[i] = fidelity(x[i : i + 1], slice(i, i + 1))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(N)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(N):
        for got, expected in zip(found[i], fidelity(x[i : i + 1], slice(i, i + 1)), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_a_stack_of_none_has_no_misfit(xp, operator):
    x, y = image(xp, operator, 1), data(xp, operator, 2)
    gradient, squared, plain = operator.fidelity(y)(x[:0], slice(2, 2))
    assert gradient.shape == (0, *operator.slice_shape)
    assert squared.shape == plain.shape == (0,)


def test_not_a_number_reaches_its_slice_only(xp, to_numpy, operator):
    x = image(xp, operator, 1)
    x[1] = np.nan
    gradient, squared, plain = (to_numpy(a) for a in operator.fidelity(data(xp, operator, 2))(x, slice(0, N)))
    assert np.isnan(gradient[1]).any()
    assert np.isfinite(np.delete(gradient, 1, axis=0)).all()
    for values in (squared, plain):
        np.testing.assert_array_equal(np.isnan(values), np.arange(N) == 1)


def test_wrong_arguments_are_refused(operator, xp):
    if xp is not np:
        pytest.skip("the checks are the same")
    x, y = image(np, operator, 1), data(np, operator, 2)
    fidelity = operator.fidelity(y)
    for wrong, which, message in [
        (x[:2], slice(0, 3), r"^x0: expected one slice for each of slice\(0, 3, None\) of 5, got"),
        (x[:3], slice(0, 5, 2), "^x0: expected one slice for each of"),
        (x[:2].real.astype(np.float64), slice(0, 2), r"^x0: expected (float32|complex64), got float64; convert"),
        (x[:, :, :, None], slice(0, N), r"^x0: expected 3 axes \(slices, rows, columns\), got 4 "),
    ]:
        with pytest.raises(ValueError, match=message):
            fidelity(wrong, which)
    with pytest.raises(ValueError, match=r"^noise: expected"):
        fidelity(x[:2], slice(0, 2), y[:1])
    with pytest.raises(ValueError, match=r"^noise: expected"):
        fidelity(x, slice(0, N), y[..., None])
    with pytest.raises(ValueError, match=r"^measurement: expected"):
        operator.fidelity(y[..., None])
    with pytest.raises(TypeError, match=r"^x0: expected"):
        fidelity(x.tolist(), slice(0, N))


def test_libraries_do_not_mix(xp, operator):
    if xp is np:
        pytest.skip("one library only")
    x, y = image(xp, operator, 1), data(xp, operator, 2)
    with pytest.raises(TypeError, match=r"^x0: expected cupy\.ndarray like the measurement, got numpy\.ndarray; make"):
        operator.fidelity(y)(np.array(x.get()), slice(0, N))
    with pytest.raises(TypeError, match=r"^noise: expected"):
        operator.fidelity(y)(x, slice(0, N), y.get())
    if operator.library is not None:
        with pytest.raises(TypeError, match=r"^x: expected cupy\.ndarray like what the operator was built from"):
            operator.apply(x.get())


def test_every_operator_has_a_misfit_from_its_own_methods(operator, xp, to_numpy):
    """The general path serves any operator: the fused ones agree with it."""
    x, y = image(xp, operator, 1), data(xp, operator, 2)
    general = PlainFidelity(operator, y, 0.7)(x, slice(0, N), y)
    fused = operator.fidelity(y, 0.7)(x, slice(0, N), y)
    for one, other in zip(general, fused, strict=True):
        one, other = to_numpy(one), to_numpy(other)
        assert np.linalg.norm(one - other) <= 1e-6 * np.linalg.norm(other)


def test_dps_stays_in_its_library(xp, to_numpy):
    class Identity(Denoiser):
        def _denoise(self, x, sigma):
            return x

        def _vjp(self, x, sigma, cotangent):
            pieces = [slice(0, 2), slice(2, N)]
            return x, xp.concatenate([cotangent(x[piece], piece) for piece in pieces])

    operator = fourier(xp, (8, 6))
    x, y = image(np, operator, 1), data(np, operator, 2)
    # In the pieces that the guidance sees: a batch of another size may be rounded otherwise.
    measured = np.concatenate([to_numpy(operator.apply(xp.asarray(x[p]))) for p in (slice(0, 2), slice(2, N))])
    y[4] = measured[4]
    plane = Plane((0, 1, 2))
    stack = Stack(xp.asarray(x), plane, plane.volume_shape(x.shape))
    groups = stack.groups(1)
    guidance = Dps(operator, xp.asarray(y), 0.3, scale=1.5, stable=True, group=1)
    x0, pullback, weights, residual = guidance(Identity(), stack, 1.0)
    for array, dtype in ((x0, np.float32), (pullback, np.float32), (weights, np.float32), (residual, np.float64)):
        assert isinstance(array, xp.ndarray)
        assert array.dtype == dtype
    difference = measured - y
    lengths = [1.5 * np.sqrt(norms(difference)[group].sum()) for group in groups]
    expected = [min(0.3 / length, guidance.limit) if length else 0 for length in lengths]
    np.testing.assert_allclose(to_numpy(weights), expected, rtol=1e-6)
    assert to_numpy(weights)[4] == 0
    assert residual.shape == ()
    assert float(residual) == pytest.approx(np.sqrt(norms(difference).sum()), rel=1e-6)
