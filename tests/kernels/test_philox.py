"""Counter-based noise: published vectors, distribution, and independence of how it is asked for."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

import kernels
from kernels import NoiseKey, reference

# Known answers published with the generator: counter, key, words.
VECTORS = [
    ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize("module", [kernels, reference])
@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
def test_published_vectors(module, counter, key, words):
    got = module.philox_bits(np.array([counter, counter], np.uint32), key)
    np.testing.assert_array_equal(got, np.array([words, words], np.uint32))


def test_words_and_normals_are_the_same_bits_in_every_library(xp, to_numpy):
    counters = np.random.default_rng(0).integers(0, 1 << 32, (1000, 4), np.uint32)
    np.testing.assert_array_equal(
        to_numpy(kernels.philox_bits(xp.asarray(counters), (5, 6))), kernels.philox_bits(counters, (5, 6))
    )
    for start in (0, 3, (1 << 34) - 5):
        np.testing.assert_array_equal(
            to_numpy(kernels.philox_normal(1, 2, 3, 10_001, start, xp)), kernels.philox_normal(1, 2, 3, 10_001, start)
        )


@pytest.mark.parametrize(
    ("seed", "step", "phase", "start"),
    [
        (0, 0, 0, 0),
        (1, 2, 1, 5),
        ((1 << 64) - 1, (1 << 32) - 1, (1 << 32) - 1, (1 << 34) - 10),
        (7, 0, 1, (1 << 62) + 3),
    ],
)
def test_native_agrees_with_twin(seed, step, phase, start):
    got = kernels.philox_normal(seed, step, phase, 4001, start=start)
    # The twin works in float64. A few float32 roundings remain, 6e-8 of the radius each; radii stay below 6 here.
    np.testing.assert_allclose(got, reference.philox_normal(seed, step, phase, 4001, start=start), rtol=0, atol=1e-6)


def test_extreme_words_stay_finite():
    # The radius is largest for word 0, at sqrt(2 * 33 * ln 2): nothing drawn may exceed it.
    z = kernels.philox_normal(3, 0, 0, 4_000_000)
    assert np.isfinite(z).all()
    assert np.abs(z).max() <= np.sqrt(2 * 33 * np.log(2)) + 1e-5


SIDES = (200, 224, 225)
N_DRAWS = int(np.prod(SIDES))  # ten million


@pytest.fixture(scope="module")
def volume():
    return kernels.philox_normal(2026, 17, 1, SIDES)


def test_moments_of_ten_million_draws(volume):
    n = N_DRAWS
    z = volume.astype(np.float64)
    squares = z * z
    # Five standard errors of each estimate; the seed is fixed, so this either holds or does not.
    variance = squares.mean()
    assert abs(z.mean()) <= 5 / np.sqrt(n)
    assert abs(variance - 1) <= 5 * np.sqrt(2 / n)
    assert abs(np.vdot(squares, z) / n) <= 5 * np.sqrt(15 / n)
    assert abs(np.vdot(squares, squares) / n / variance**2 - 3) <= 5 * np.sqrt(24 / n)


def assert_independent(one, other):
    """Neither values nor squares of two series of standard normals go together, within five standard errors."""
    one, other = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    assert abs(np.vdot(one, other) / one.size) <= 5 / np.sqrt(one.size)
    one, other = one * one - 1, other * other - 1
    # The product of centred squares has variance 4.
    assert abs(np.vdot(one, other) / one.size) <= 5 * 2 / np.sqrt(one.size)


@pytest.mark.parametrize("key", [(2027, 17, 1), (2026 + (1 << 32), 17, 1), (2026, 18, 1), (2026, 17, 2)])
def test_seeds_steps_and_phases_are_independent(volume, key):
    assert_independent(volume, kernels.philox_normal(*key, SIDES))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbouring_voxels_are_independent(volume, axis):
    along = np.moveaxis(volume, axis, 0)
    assert_independent(along[1:], along[:-1])


@pytest.mark.parametrize("lag", [2, 3, 4, 5, 8])
def test_words_of_a_block_and_of_the_next_are_independent(volume, lag):
    z = volume.ravel()[:2_000_000]
    assert_independent(z[lag:], z[:-lag])


# --- slices


@pytest.mark.parametrize("axes", list(permutations((0, 1, 2))))
@pytest.mark.parametrize("shape", [(8, 16, 32), (33, 20, 17), (5, 6, 7), (1, 1, 1), (18, 4, 50)])
def test_slices_of_every_plane_are_the_volumes(xp, to_numpy, axes, shape):
    strides = (shape[1] * shape[2], shape[2], 1)
    for start in (0, 1, 6):
        key = NoiseKey(4, 5, 2, tuple(strides[axis] for axis in axes), start)
        got = kernels.philox_slices(key, tuple(shape[axis] for axis in axes), xp)
        assert isinstance(got, xp.ndarray)
        assert got.dtype == np.float32
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(to_numpy(got), kernels.philox_normal(4, 5, 2, shape, start).transpose(axes))


@pytest.mark.parametrize("strides", [(101, 13, 3), (1, 40, 7), (60, 1, 5), (4, 8, 16), (0, 0, 0), (2, 2, 1)])
def test_slices_of_any_strides_are_the_voxels(xp, to_numpy, strides):
    shape, start = (19, 6, 37), (1 << 35) + 2
    voxels = start + np.indices(shape).transpose(1, 2, 3, 0) @ strides
    drawn = kernels.philox_normal(0, 1, 0, int(voxels.max()) - start + 1, start)
    got = kernels.philox_slices(NoiseKey(0, 1, 0, strides, start), shape, xp)
    np.testing.assert_array_equal(to_numpy(got), drawn[voxels - start])


@pytest.mark.parametrize("strides", [(1, 40, 7), (60, 1, 5), (30, 6, 1), (3, 5, 7)])
def test_slices_agree_with_twin(strides):
    key = NoiseKey((1 << 64) - 1, 9, 3, strides, 11)
    # As for `philox_normal`.
    np.testing.assert_allclose(
        kernels.philox_slices(key, (5, 5, 6)), reference.philox_slices(key, (5, 5, 6)), rtol=0, atol=1e-6
    )


# --- ranges


@pytest.mark.parametrize("base", [0, 1, (1 << 34) - 7])
def test_value_does_not_depend_on_the_range(base):
    whole = kernels.philox_normal(5, 6, 0, 70_000, start=base)
    for first, last in [(0, 1), (1, 2), (2, 9), (3, 40_003), (4, 12), (69_999, 70_000), (32_767, 69_998)]:
        part = kernels.philox_normal(5, 6, 0, last - first, start=base + first)
        np.testing.assert_array_equal(part, whole[first:last])


def test_shape_is_filled_in_c_order():
    flat = kernels.philox_normal(1, 1, 1, 3 * 5 * 7, start=2)
    np.testing.assert_array_equal(kernels.philox_normal(1, 1, 1, (3, 5, 7), start=2), flat.reshape(3, 5, 7))
    assert kernels.philox_normal(1, 1, 1, (0, 4)).shape == (0, 4)
    assert kernels.philox_normal(1, 1, 1, ()).shape == ()


def test_every_part_of_the_key_matters():
    draws = [
        kernels.philox_normal(seed, step, phase, 1000, start=start)
        for seed, step, phase, start in [
            (1, 1, 1, 0),
            (2, 1, 1, 0),
            (1 + (1 << 32), 1, 1, 0),
            (1, 2, 1, 0),
            (1, 1, 2, 0),
            (1, 1, 1, 1 << 34),
        ]
    ]
    # Uncorrelated: the off-diagonal has standard error 0.03; five of them.
    correlation = np.corrcoef(np.stack(draws))
    assert np.abs(correlation - np.eye(len(draws))).max() <= 0.16


def test_result_does_not_depend_on_threads():
    before = kernels.get_threads()
    try:
        kernels.set_threads(1)
        alone = kernels.philox_normal(8, 0, 0, 200_003, start=1)
        kernels.set_threads(7)
        np.testing.assert_array_equal(kernels.philox_normal(8, 0, 0, 200_003, start=1), alone)
    finally:
        kernels.set_threads(before)
