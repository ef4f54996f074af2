"""The sampler's arithmetic against its formulas, in every array library."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

import kernels
from kernels import NoiseKey, reference

SHAPES = [(1, 1, 1), (3, 5, 7), (16, 4, 16), (21, 33, 19), (5, 1, 300)]
#: Voxels that neighbours along columns, rows and slices share blocks of, none share, and of odd sizes.
STRIDES = [(400, 20, 1), (400, 1, 20), (1, 400, 20), (1, 403, 21), (3000, 60, 3), (1, 1, 1)]


def stacks(shape, n=3, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(n)]


def numbers(n, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(n).astype(np.float32) for _ in range(3)]


@pytest.fixture
def threads():
    """Sets the number of threads; puts it back."""
    before = kernels.get_threads()
    yield kernels.set_threads
    kernels.set_threads(before)


# --- the update


@pytest.mark.parametrize("kind", ["none", "stored", "keyed"])
@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("shape", [*SHAPES, (0, 3, 4), (2, 0, 3)])
def test_update_equals_twin(xp, to_numpy, shape, kind, guided):
    x, x0, pullback = stacks(shape)
    a, b, weight = numbers(len(x))
    key = NoiseKey(3, 4, 1, (shape[1] * shape[2], shape[2], 1), 2)
    z = {"none": None, "stored": kernels.philox_slices(key, shape), "keyed": key}[kind]
    expected = reference.sampler_update(
        # Keyed noise is the stored one, to the bit: the twin's own differs by a rounding.
        x,
        x0,
        None if z is None else kernels.philox_slices(key, shape),
        a,
        b,
        pullback if guided else None,
        weight if guided else None,
    )
    noise = xp.asarray(z) if isinstance(z, np.ndarray) else z
    got = kernels.sampler_update(
        xp.asarray(x),
        xp.asarray(x0),
        noise,
        xp.asarray(a),
        xp.asarray(b),
        xp.asarray(pullback) if guided else None,
        xp.asarray(weight) if guided else None,
    )
    assert isinstance(got, xp.ndarray)
    assert got.shape == shape
    assert got.dtype == np.float32
    # Exactly: all round every product and sum to float32 in the same order.
    np.testing.assert_array_equal(to_numpy(got), expected)


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("shape", SHAPES)
def test_keyed_noise_is_that_of_the_drawn_stack(xp, to_numpy, shape, strides):
    x, x0 = (xp.asarray(v) for v in stacks(shape, 2))
    for start in (0, 5, (1 << 40) + 3):
        key = NoiseKey(9, 0, 2, strides, start)
        z = kernels.philox_slices(key, shape, xp)
        stored = kernels.sampler_update(x, x0, z, 0.3, 0.7)
        np.testing.assert_array_equal(to_numpy(kernels.sampler_update(x, x0, key, 0.3, 0.7)), to_numpy(stored))
        # Sums in another order: float64 rounding of a few hundred terms.
        np.testing.assert_allclose(
            to_numpy(kernels.score_norms(x, x0, key)), to_numpy(kernels.score_norms(x, x0, z)), rtol=1e-12
        )


def test_numbers_serve_all_slices(xp, to_numpy):
    x, x0, z = (xp.asarray(v) for v in stacks((4, 3, 5)))
    each = [xp.full(4, value, np.float32) for value in (0.25, 1.5)]
    np.testing.assert_array_equal(
        to_numpy(kernels.sampler_update(x, x0, z, 0.25, 1.5)), to_numpy(kernels.sampler_update(x, x0, z, *each))
    )


@pytest.mark.parametrize("target", range(4))
def test_out_may_be_an_input(xp, to_numpy, target):
    inputs = [xp.asarray(v) for v in stacks((5, 10, 20), 4)]
    x, x0, z, pullback = inputs
    a, b, weight = (xp.asarray(v) for v in numbers(5))
    expected = to_numpy(kernels.sampler_update(x, x0, z, a, b, pullback, weight))
    got = kernels.sampler_update(x, x0, z, a, b, pullback, weight, out=inputs[target])
    assert got is inputs[target]
    np.testing.assert_array_equal(to_numpy(got), expected)


def test_inputs_are_left_alone(xp, to_numpy):
    inputs = stacks((5, 3, 10), 4) + numbers(5)
    x, x0, z, pullback, a, b, weight = arrays = [xp.asarray(v.copy()) for v in inputs]
    kernels.sampler_update(x, x0, z, a, b, pullback, weight)
    kernels.score_norms(x, x0, z)
    for array, before in zip(arrays, inputs, strict=True):
        np.testing.assert_array_equal(to_numpy(array), before)


def test_nan_stays_where_it_is(xp, to_numpy):
    x, x0 = stacks((4, 6, 8), 2)
    x[1, 2, 3] = np.nan
    x0[2, 0, 0] = np.inf
    x, x0 = xp.asarray(x), xp.asarray(x0)
    key = NoiseKey(0, 0, 0, (1, 32, 4))
    got = to_numpy(kernels.sampler_update(x, x0, key, 0.5, 0.5))
    assert np.isnan(got[1, 2, 3])
    assert np.isinf(got[2, 0, 0])
    assert np.isfinite(got).sum() == got.size - 2
    norms = to_numpy(kernels.score_norms(x, x0, key))
    assert np.isnan(norms[1, 0])
    assert np.isinf(norms[2, 0])
    assert np.isfinite(norms[[0, 3]]).all()
    # Only the group that holds it.
    a, b = kernels.langevin_steps(xp.asarray(norms[:2]), [slice(0, 1), slice(1, 2)], 0.16, 2.0)
    np.testing.assert_array_equal(np.isnan(to_numpy(a)), [False, True])
    np.testing.assert_array_equal(np.isnan(to_numpy(b)), [False, True])


# --- norms and step sizes


@pytest.mark.parametrize("shape", [*SHAPES, (2, 40, 41)])
@pytest.mark.parametrize("strides", [(1, 403, 21), (2000, 50, 1), (2000, 1, 50), None])
def test_norms_equal_twin(xp, to_numpy, shape, strides):
    x, x0, z = stacks(shape)
    if strides is not None:
        z = reference.philox_slices(NoiseKey(1, 2, 0, strides), shape)
    noise = xp.asarray(z) if strides is None else NoiseKey(1, 2, 0, strides)
    got = kernels.score_norms(xp.asarray(x), xp.asarray(x0), noise)
    assert isinstance(got, xp.ndarray)
    assert got.shape == (shape[0], 2)
    assert got.dtype == np.float64
    # Squares of float32 are exact in float64, which leaves the sums' rounding; the twin's noise is 1e-6 off.
    expected = reference.score_norms(x, x0, z)
    np.testing.assert_allclose(to_numpy(got)[:, 0], expected[:, 0], rtol=1e-13)
    atol = 0 if strides is None else 1e-6 * np.abs(z).sum(axis=(1, 2)).max() * 2
    np.testing.assert_allclose(to_numpy(got)[:, 1], expected[:, 1], rtol=1e-13, atol=atol)


def test_empty_stacks_have_defined_results(xp, to_numpy):
    key = NoiseKey(0, 0, 0, (1, 2, 3))
    none, hollow = xp.zeros((0, 4, 4), np.float32), xp.zeros((3, 0, 4), np.float32)
    assert kernels.score_norms(none, none, key).shape == (0, 2)
    np.testing.assert_array_equal(to_numpy(kernels.score_norms(hollow, hollow, key)), np.zeros((3, 2)))
    a, b = kernels.langevin_steps(xp.zeros((0, 2)), [], 0.16, 1.0)
    assert a.shape == b.shape == (0,)
    assert kernels.sampler_update(none, none, key, a, b).shape == (0, 4, 4)
    assert kernels.philox_slices(key, (0, 4, 4), xp).shape == (0, 4, 4)


@pytest.mark.parametrize(("n", "size"), [(1, 1), (7, 3), (64, 6), (600, 2)])
@pytest.mark.parametrize("sigma", [0.01, 1.0, 378.0])
def test_steps_equal_twin(xp, to_numpy, n, size, sigma):
    norms = np.random.default_rng(2).random((n, 2)) * [sigma**4, 4096]
    groups = [slice(i, min(i + size, n)) for i in range(0, n, size)]
    got = kernels.langevin_steps(xp.asarray(norms), groups, 0.16, sigma)
    for one, expected in zip(got, reference.langevin_steps(norms, groups, 0.16, sigma), strict=True):
        assert isinstance(one, xp.ndarray)
        assert one.dtype == np.float32
        # Computed in float64: the last bit of float32 may differ.
        np.testing.assert_allclose(to_numpy(one), expected, rtol=2e-7)


def test_steps_are_those_of_the_published_formula(xp, to_numpy):
    x, x0, z = stacks((5, 6, 7))
    sigma, snr, groups = 3.0, 0.16, [slice(0, 3), slice(3, 5)]
    score = (x0.astype(np.float64) - x) / sigma**2
    a, b = kernels.langevin_steps(kernels.score_norms(*map(xp.asarray, (x, x0, z))), groups, snr, sigma)
    for g in groups:
        mean_score, mean_noise = (np.mean([np.linalg.norm(v) for v in stack[g]]) for stack in (score, z))
        epsilon = 2 * (snr * mean_noise / mean_score) ** 2
        np.testing.assert_allclose(to_numpy(a)[g] * sigma**2, epsilon, rtol=1e-6)
        np.testing.assert_allclose(to_numpy(b)[g], np.sqrt(2 * epsilon), rtol=1e-6)


def test_a_group_without_a_score_stays_where_it_is(xp, to_numpy):
    x, _, z = (xp.asarray(v) for v in stacks((4, 3, 3)))
    moving = x.copy()
    moving[3] += 1
    a, b = kernels.langevin_steps(kernels.score_norms(x, moving, z), [slice(0, 2), slice(2, 4)], 0.16, 1.0)
    np.testing.assert_array_equal(to_numpy(a)[:2], 0)
    np.testing.assert_array_equal(to_numpy(b)[:2], 0)
    assert (to_numpy(a)[2:] > 0).all()
    np.testing.assert_array_equal(to_numpy(kernels.sampler_update(x, moving, z, a, b))[:2], to_numpy(x)[:2])


# --- how it is computed has no influence


@pytest.mark.parametrize("axes", list(permutations((0, 1, 2))))
def test_results_do_not_depend_on_threads(threads, axes):
    shape = tuple((37, 40, 43)[axis] for axis in axes)
    key = NoiseKey(1, 1, 0, tuple((40 * 43, 43, 1)[axis] for axis in axes))
    x, x0 = stacks(shape, 2)
    found = []
    for n in (1, 2, 7):
        threads(n)
        updated = kernels.sampler_update(x, x0, key, 0.5, 0.5)
        found.append([kernels.score_norms(x, x0, key), updated, kernels.philox_slices(key, shape)])
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


# --- refusals


def test_out_must_be_writeable_and_apart():
    memory = np.zeros(2 * 3 * 4 + 1, np.float32)
    shifted, out = memory[1:].reshape(2, 3, 4), memory[:-1].reshape(2, 3, 4)
    x = np.zeros((2, 3, 4), np.float32)
    for arguments in ((shifted, x, None, 1.0), (x, shifted, None, 1.0), (x, x, shifted, 1.0, 1.0)):
        with pytest.raises(ValueError, match="out: expected an input itself or separate memory"):
            kernels.sampler_update(*arguments, out=out)
    with pytest.raises(ValueError, match="out: expected an input itself or separate memory"):
        kernels.sampler_update(x, x, None, 1.0, 1.0, shifted, np.zeros(2, np.float32), out=out)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="out: expected a writeable array"):
        kernels.sampler_update(x, x, None, 1.0, out=x)


GOOD = np.zeros((2, 3, 4), np.float32)
EACH = np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": GOOD[0]}, ValueError, r"x: expected \(n, h, w\) float32, got \(3, 4\)"),
        ({"x": GOOD.astype(np.float64)}, TypeError, r"x: expected \(n, h, w\) float32, got .* float64"),
        ({"x": GOOD.tolist()}, TypeError, "x: expected numpy.ndarray or cupy.ndarray, got list"),
        ({"x0": GOOD[:1]}, ValueError, r"x0: expected \(2, 3, 4\) float32, got \(1, 3, 4\)"),
        ({"x0": np.asfortranarray(GOOD)}, ValueError, "x0: .*C-contiguous"),
        ({"noise": GOOD[:, :2]}, ValueError, r"noise: expected \(2, 3, 4\) float32"),
        ({"noise": 3.0}, TypeError, "noise: expected numpy.ndarray or cupy.ndarray, got float"),
        ({"noise": NoiseKey(0, 0, 0, (1 << 62, 1 << 62, 1))}, ValueError, "noise: expected voxels below 2"),
        ({"a": np.zeros(3, np.float32)}, ValueError, r"a: expected \(2,\) float32, got \(3,\)"),
        ({"a": np.zeros(2)}, TypeError, r"a: expected \(2,\) float32, got \(2,\) float64"),
        ({"b": None}, TypeError, r"b: expected \(2,\) float32 as numpy.ndarray, got NoneType"),
        ({"pullback": GOOD[..., None]}, ValueError, r"pullback: expected \(2, 3, 4\) float32"),
        ({"weight": None}, TypeError, r"weight: expected \(2,\) float32 as numpy.ndarray, got NoneType"),
        ({"out": np.zeros((2, 3, 4))}, TypeError, r"out: expected \(2, 3, 4\) float32"),
    ],
)
def test_update_refuses(change, error, message):
    good = {"x": GOOD, "x0": GOOD, "noise": GOOD, "a": EACH, "b": EACH, "pullback": GOOD, "weight": EACH, "out": None}
    with pytest.raises(error, match=message):
        kernels.sampler_update(**{**good, **change})


def test_libraries_may_not_be_mixed(xp):
    if xp is np:
        pytest.skip("a mixture needs a second library")
    for change in ({"x0": GOOD}, {"noise": GOOD}, {"a": EACH}, {"weight": EACH}, {"out": GOOD.copy()}):
        stack, each = xp.zeros((2, 3, 4), np.float32), xp.zeros(2, np.float32)
        good = {"x": stack, "x0": stack, "noise": stack, "a": each, "b": each, "pullback": stack, "weight": each}
        with pytest.raises(TypeError, match=f"{next(iter(change))}: expected .*ndarray like x, got numpy.ndarray"):
            kernels.sampler_update(**{**good, **change})


def test_norms_refuse():
    with pytest.raises(TypeError, match="noise: expected a NoiseKey or an array, got None"):
        kernels.score_norms(GOOD, GOOD, None)
    with pytest.raises(ValueError, match=r"x0: expected \(2, 3, 4\)"):
        kernels.score_norms(GOOD, GOOD[:, :1], GOOD)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([slice(0, 2)], "groups: expected them to cover 4 slices, got 2"),
        ([slice(0, 2), slice(3, 4)], "groups: expected one that begins at 2"),
        ([slice(0, 4), slice(4, 4)], "groups: expected one that begins at 4"),
        ([slice(0, 4, 2)], "groups: expected one that begins at 0"),
        ([slice(0, 5)], "groups: expected them to cover 4 slices, got 5"),
    ],
)
def test_steps_refuse_groups_that_do_not_cover(groups, message):
    with pytest.raises(ValueError, match=message):
        kernels.langevin_steps(np.ones((4, 2)), groups, 0.16, 1.0)


def test_steps_refuse_other_arguments():
    with pytest.raises(TypeError, match=r"norms: expected \(n, 2\) float64, got \(4, 2\) float32"):
        kernels.langevin_steps(np.ones((4, 2), np.float32), [slice(0, 4)], 0.16, 1.0)
    for sigma in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="sigma: expected a positive number"):
            kernels.langevin_steps(np.ones((4, 2)), [slice(0, 4)], 0.16, sigma)
