"""The phase of estimates: exact where they are, and smooth where they err."""

from __future__ import annotations

import numpy as np
import pytest

from engine.sampling.image_phase import magnitude_along, phase_of, turned


def ramp(shape=(2, 32, 27)):
    """A phase that turns slowly and without a jump at the border, float32."""
    _, h, w = shape
    y, x = 2 * np.pi * np.arange(h)[:, None] / h, 2 * np.pi * np.arange(w) / w
    return np.broadcast_to(0.8 * np.sin(y) + 0.5 * np.cos(x), shape).astype(np.float32)


def noise(shape, seed=0):
    z = np.random.default_rng(seed).standard_normal((2, *shape), np.float32)
    return (z[0] + 1j * z[1]).astype(np.complex64)


def test_without_errors_it_is_the_images_own(xp, to_numpy):
    image = turned(np.full((2, 32, 27), 0.7, np.float32), 3 * ramp()) + 0.1 * noise((2, 32, 27))
    found = to_numpy(phase_of(xp.asarray(image), 0.0))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.angle(image), atol=1e-5)


def test_errors_of_the_level_are_smoothed_away_and_a_slow_phase_is_not(xp, to_numpy):
    sigma, phase = 0.3, ramp((4, 64, 60))
    image = turned(np.ones((4, 64, 60), np.float32), phase) + np.float32(sigma) * noise((4, 64, 60))
    error = to_numpy(phase_of(xp.asarray(image), sigma)) - phase
    alone = np.angle(image) - phase
    assert np.sqrt((error**2).mean()) < 0.25 * np.sqrt((np.angle(np.exp(1j * alone)) ** 2).mean())


def test_low_levels_follow_what_changes_within_a_pixel(xp, to_numpy):
    phase = np.zeros((1, 32, 32), np.float32)
    phase[:, 10:12, 20:22] = 2.0
    image = xp.asarray(turned(np.ones(phase.shape, np.float32), phase))
    errors = [abs(to_numpy(phase_of(image, sigma)) - phase).max() for sigma in (0.3, 0.01)]
    assert errors[1] < 0.01 < 1 < errors[0]


def test_the_magnitude_along_a_phase_is_the_real_part_of_what_is_turned_back(xp, to_numpy):
    image, phase = noise((2, 8, 9)), ramp((2, 8, 9))
    found = to_numpy(magnitude_along(xp.asarray(image), xp.asarray(phase)))
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found, (image * np.exp(-1j * phase)).real, atol=1e-6)
    np.testing.assert_allclose(
        to_numpy(magnitude_along(xp.asarray(image), xp.asarray(np.angle(image)))), abs(image), atol=1e-6
    )


@pytest.mark.parametrize("n", [1, 40])
def test_slices_are_worked_on_alike_however_many_there_are(n, monkeypatch):
    image = noise((n, 16, 15))
    whole = phase_of(image, 0.2)
    monkeypatch.setattr("engine.sampling.image_phase.slices_at_once", lambda *_: 3)
    np.testing.assert_array_equal(phase_of(image, 0.2), whole)
