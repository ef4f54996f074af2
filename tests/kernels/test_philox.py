"""Counter-based noise: published vectors, distribution, and independence of how it is asked for."""

from __future__ import annotations

import numpy as np
import pytest

import kernels
from kernels import reference

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


def test_moments_of_a_million_draws():
    n = 1_000_000
    z = kernels.philox_normal(2026, 17, 1, n).astype(np.float64)
    # Five standard errors of each estimate; the seed is fixed, so this either holds or does not.
    assert abs(z.mean()) <= 5 / np.sqrt(n)
    assert abs(z.var() - 1) <= 5 * np.sqrt(2 / n)
    assert abs((z**3).mean()) <= 5 * np.sqrt(15 / n)
    assert abs((z**4).mean() / z.var() ** 2 - 3) <= 5 * np.sqrt(24 / n)
    # The words of one block, and neighbouring blocks, are uncorrelated.
    for lag in range(1, 9):
        assert abs((z[lag:] * z[:-lag]).mean()) <= 5 / np.sqrt(n)
    # Box-Muller pairs share a radius: squares must be uncorrelated too. The product of centred squares has variance 4.
    squares = z**2 - 1
    assert abs((squares[0::2] * squares[1::2]).mean()) <= 5 * np.sqrt(4 / (n / 2))


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
