"""The image's phase: none for a real one, the slow one of a phantom, and what cannot be told."""

from __future__ import annotations

import numpy as np
import pytest

from engine.operators import CoilFourier, MaskedFourier
from engine.problems.phase import echo_is_whole, estimate_phase
from tests.refusals import one_sentence


def refused(name):
    return one_sentence(name)


def grid(shape):
    return np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")


def phantom(shape):
    """Tissue of several intensities in air, (2, h, w), and where it is."""
    y, x = grid(shape)
    inside = (x / 0.8) ** 2 + (y / 0.9) ** 2 < 1
    first = inside * (1 - 0.6 * ((x + 0.3) ** 2 + y**2 < 0.09) + 0.5 * (abs(x - 0.4) < 0.1))
    return np.stack([first, first[:, ::-1] * 2]).astype(np.float32), np.stack([inside, inside[:, ::-1]])


def slow_phase(shape):
    """Several radians across the image, as of coils and of the field, and around ±π somewhere."""
    y, x = grid(shape)
    return np.stack([2.5 * x + 1.5 * y**2, 3 + np.cos(2 * x) - y])


def some_maps(shape, n_coils=3):
    y, x = grid(shape)
    return np.stack(
        [(1.2 + np.cos(2 * k + x - y)) * np.exp(1j * (k * x + y)) for k in range(n_coils)]
    ).astype(np.complex64)  # fmt: skip


def lines(shape, acceleration=4, n_centre=20):
    mask = np.zeros(shape, np.float32)
    mask[:, ::acceleration] = 1
    mask[:, shape[1] // 2 - n_centre // 2 : shape[1] // 2 + n_centre // 2] = 1
    return mask


SHAPES = [(64, 60), (65, 59), (64, 59)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("acceleration", [1, 4])
def test_a_real_positive_image_has_none(shape, acceleration):
    image, inside = phantom(shape)
    mask = lines(shape, acceleration)
    phase = estimate_phase(MaskedFourier(mask).apply(image), mask)
    assert phase.dtype == np.float32
    assert phase.shape == image.shape
    assert abs(phase[inside]).max() < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("acceleration", [1, 4])
def test_a_slow_phase_is_found_in_tissue(shape, acceleration):
    image, inside = phantom(shape)
    true, mask = slow_phase(shape), lines(shape, acceleration)
    data = MaskedFourier(mask, np.complex64).apply((image * np.exp(1j * true)).astype(np.complex64))
    phase = estimate_phase(data, mask)
    errors = abs(np.exp(1j * phase) - np.exp(1j * true))[inside]
    # What remains lies at the edges, where the window mixes pixels.
    assert np.sqrt((errors**2).mean()) < 0.06
    assert np.percentile(errors, 99) < 0.25
    # A real image explains the data: of the complex one all but a few per mille of its energy is along exp(iφ).
    rest = (image * np.exp(1j * (true - phase))).imag
    assert (rest**2).sum() < 0.004 * (image**2).sum()


@pytest.mark.parametrize("per_slice", [False, True])
def test_of_coils_what_their_maps_do_not_explain(per_slice):
    shape = (64, 60)
    image, inside = phantom(shape)
    true, mask, maps = slow_phase(shape), lines(shape), some_maps(shape)
    if per_slice:
        maps = np.stack([maps, maps[::-1] * np.complex64(1j)])
    data = CoilFourier(mask, maps, np.complex64).apply((image * np.exp(1j * true)).astype(np.complex64))
    errors = abs(np.exp(1j * estimate_phase(data, mask, maps)) - np.exp(1j * true))[inside]
    assert np.sqrt((errors**2).mean()) < 0.06
    # With maps · exp(iφ), a real image gives the samples.
    turned = (maps if per_slice else maps[None]) * np.exp(1j * estimate_phase(data, mask, maps))[:, None]
    explained = CoilFourier(mask, turned.astype(np.complex64)).apply(image)
    assert np.linalg.norm(explained - data) < 0.06 * np.linalg.norm(data)


def test_noise_is_not_followed():
    shape = (64, 60)
    image, inside = phantom(shape)
    mask = lines(shape)
    rng = np.random.default_rng(0)
    data = MaskedFourier(mask).apply(image)
    noise = 0.1 * np.sqrt(data[0].size) * (rng.standard_normal(data.shape) + 1j * rng.standard_normal(data.shape))
    phase = estimate_phase((data + mask * noise).astype(np.complex64), mask)
    # Of pixels as bright as 1 the noise alone would turn by 0.1 rms, and by more in darker ones.
    assert np.sqrt((phase[inside] ** 2).mean()) < 0.06


def test_nothing_measured_has_no_phase():
    mask = np.ones((16, 16), np.float32)
    assert not estimate_phase(np.zeros((2, 16, 16), np.complex64), mask).any()
    maps = some_maps((16, 16))
    maps[:, :8] = 0
    data = CoilFourier(mask, maps).apply(np.ones((1, 16, 16), np.float32))
    assert not estimate_phase(data, mask, maps)[:, :8].any()


def test_a_wider_centre_follows_more():
    shape = (64, 60)
    image, inside = phantom(shape)
    mask, true = np.ones(shape, np.float32), slow_phase(shape)
    data = MaskedFourier(mask, np.complex64).apply((image * np.exp(1j * true)).astype(np.complex64))
    errors = [
        np.linalg.norm((np.exp(1j * estimate_phase(data, mask, half_width=n)) - np.exp(1j * true))[inside])
        for n in (3, 8, 16)
    ]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("hole", [(10, 11), (9, 12), (10, 9)])
def test_centres_that_are_too_small_are_refused(hole):
    mask = np.ones((20, 22), np.float32)
    mask[hole] = 0
    data = np.ones((1, 20, 22), np.complex64)
    if hole == (9, 12):
        # Beside the zero frequency on both sides: nothing is left but a line.
        mask[hole[0]] = mask[11] = 0
    else:
        mask[:, hole[1]] = 0
    with refused("mask") as caught:
        estimate_phase(data, mask)
    assert "--phase none" in str(caught.value)


def test_arrays_that_do_not_fit_are_refused():
    mask, data = np.ones((16, 16), np.float32), np.ones((2, 3, 16, 16), np.complex64)
    for bad, maps in ((data, None), (data[0, 0], None), (data[:, 0, 1:], None), (data[:, 0], data), (data, data[:1])):
        with refused("kspace"):
            estimate_phase(bad, mask, maps)


@pytest.mark.parametrize("shift", [(0, 3), (-4, 2), (5, 0)])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_echo_off_the_centre_is_a_phase_like_others(shape, shift):
    """It turns the phase as many times across the image as it is samples off."""
    image, inside = phantom(shape)
    full = np.ones(shape, np.float32)
    data = np.roll(MaskedFourier(full).apply(image), shift, (-2, -1))
    rows, columns = (s * np.arange(n) / n for s, n in zip(shift, shape, strict=True))
    true = np.exp(2j * np.pi * (rows[:, None] + columns))
    for half_width in (2, 16):
        errors = abs(np.exp(1j * estimate_phase(data, full, half_width=half_width)) - true)[inside]
        assert np.percentile(errors, 90) < 0.1


def test_an_echo_at_the_border_of_what_was_sampled_is_not_whole():
    image, _ = phantom((64, 60))
    full = np.ones((64, 60), np.float32)
    lines_of_middle = full * (abs(np.arange(60) - 30) < 6)
    for shift, is_whole in ((0, True), (3, True), (6, False)):
        data = np.roll(MaskedFourier(full).apply(image), shift, -1) * lines_of_middle
        assert echo_is_whole(data.astype(np.complex64), lines_of_middle) == is_whole


def test_a_start_needs_no_more_than_the_zero_frequency():
    mask = np.zeros((20, 22), np.float32)
    mask[::2, ::2] = 1
    mask[10, 11] = 1
    data = np.zeros((1, 20, 22), np.complex64)
    data[:, 10, 11] = 3j
    np.testing.assert_allclose(estimate_phase(data, mask, least_half_width=0), np.pi / 2, rtol=1e-6)
    mask[10, 11] = 0
    with refused("mask"):
        estimate_phase(data, mask, least_half_width=0)
