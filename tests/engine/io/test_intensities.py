"""Black and white: found on pedestals, beside padding and where they are stated."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InputError
from engine.io.volumes import load_volume
from engine.io.volumes.intensities import window_of, without_padding
from engine.io.volumes.volume import normalised


def head(side: int = 32) -> np.ndarray:
    """A ball of varying tissue in air, float32."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij")
    tissue = 100 + 20 * np.sin(9 * x) * np.cos(7 * y + 3 * z)
    return np.where(x**2 + y**2 + z**2 < 0.8, tissue, 0).astype(np.float32)


def ct(padding: float, side: int = 48) -> np.ndarray:
    """Brain, bone and air in HU; outside of a round field of view the scanner's padding."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij")
    r = np.hypot(x, y)
    hu = np.where(r < 0.6, 35 + 5 * np.sin(9 * x) * np.cos(7 * y + z), np.where(r < 0.7, 900, -1000))
    return np.where(r > 0.95, padding, hu).astype(np.float32)


@pytest.mark.parametrize("pedestal", [50.0, 1000.0, 30000.0])
def test_a_pedestal_is_black(pedestal):
    plain, raised = (normalised(head() + np.float32(more), np.eye(4), "here") for more in (0, pedestal))
    assert (plain.offset, raised.offset) == (0, pedestal)
    # Rounding of float32 beside the pedestal.
    np.testing.assert_allclose(raised.data, plain.data, atol=1e-6 * pedestal / 100 + 1e-7)


def test_a_pedestal_with_noise_is_black():
    noise = np.random.default_rng(0).normal(0, 2, (32, 32, 32))
    assert window_of((head() + 1000 + noise).astype(np.float32)).black == pytest.approx(1000, abs=0.5)


def test_tissue_may_reach_two_of_the_three_pairs_of_faces():
    stack = head()[:, 10:22, 10:22] + np.float32(500)
    assert window_of(stack).black == 500


def test_tissue_that_fills_the_volume_is_no_pedestal():
    x, y, z = np.meshgrid(*[np.arange(24)] * 3, indexing="ij")
    data = (100 + 15 * np.sin(x / 4) * np.cos(y / 5 + z / 2)).astype(np.float32)
    assert window_of(data).black == 0


def test_a_bright_background_is_no_pedestal():
    """A phantom in a bright bath: what is darker means something."""
    assert window_of(np.float32(200) - head()).black == 0


def test_noise_in_the_air_of_a_magnitude_image_is_no_pedestal():
    rng = np.random.default_rng(0)
    noisy = np.hypot(head() + rng.normal(0, 3, (32, 32, 32)), rng.normal(0, 3, (32, 32, 32))).astype(np.float32)
    assert window_of(noisy).black == 0


@pytest.mark.parametrize("padding", [-1500.0, -2000.0, -3024.0])
def test_padding_of_ct_is_air(padding):
    air, padded = (normalised(ct(value), np.eye(4), "here") for value in (-1000, padding))
    assert air.offset == padded.offset == -1000
    np.testing.assert_array_equal(air.data, padded.data)


def test_what_is_below_air_by_noise_stays():
    noisy = (ct(-1000) + np.random.default_rng(0).normal(0, 60, (48, 48, 48))).astype(np.float32)
    assert noisy.min() < -1200 and without_padding(noisy) is noisy


def test_large_negative_values_without_air_are_no_padding():
    """A field map, or a difference of images."""
    field = np.random.default_rng(0).normal(0, 2000, (20, 20, 20)).astype(np.float32)
    field[:5] = -4000
    assert without_padding(field) is field


def test_black_and_white_are_what_is_stated():
    volume = normalised(head(), np.eye(4), "here", black=-20.0, white=180.0)
    assert (volume.offset, volume.scale) == (-20, 200)
    np.testing.assert_allclose(volume.data, (head() + 20) / 200, rtol=1e-6)
    np.testing.assert_allclose(volume.in_file_units(volume.data), head(), atol=1e-4)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"black": 500.0}, "black: expected an intensity below .*, got 500"),
        ({"black": float("nan")}, "black: expected a finite intensity"),
        ({"white": -1.0}, "white: expected a finite intensity above 0"),
        ({"white": 50.0, "black": 60.0}, "white: expected a finite intensity above 60"),
    ],
)
def test_ends_that_do_not_fit_are_refused(stated, message, tmp_path):
    np.save(tmp_path / "head.npy", head())
    with pytest.raises(InputError, match=message):
        load_volume(tmp_path / "head.npy", **stated)


@pytest.mark.parametrize("pedestal", [-1000.0, -50.0, -5.0, 0.5, 5.0, 8.0])
def test_small_and_negative_pedestals_are_black(pedestal):
    plain, raised = (normalised(head() + np.float32(more), np.eye(4), "here") for more in (0, pedestal))
    assert (plain.offset, raised.offset) == (0, pedestal)
    np.testing.assert_allclose(raised.data, plain.data, atol=1e-6 * abs(pedestal) / 100 + 1e-7)


@pytest.mark.parametrize("noise", [2.0, 15.0, 60.0])
@pytest.mark.parametrize("padding", [-1500.0, -2000.0, -3024.0])
def test_air_of_ct_is_minus_1000_beside_noise_and_padding(padding, noise):
    noisy = (ct(-1000) + np.random.default_rng(0).normal(0, noise, (48, 48, 48))).astype(np.float32)
    is_padded = ct(-2000) == -2000
    plain, padded = (
        normalised(np.where(is_padded, np.float32(value), noisy), np.eye(4), "here") for value in (-1000, padding)
    )
    assert plain.offset == padded.offset == -1000
    np.testing.assert_array_equal(plain.data, padded.data)


@pytest.mark.parametrize("padding", [-1500.0, -3024.0])
def test_padding_that_reaches_up_to_the_skin_is_air(padding):
    inside = ct(-1000) > -1000
    air, padded = (normalised(np.where(inside, ct(-1000), np.float32(v)), np.eye(4), "here") for v in (-1000, padding))
    assert padded.offset == -1000
    np.testing.assert_array_equal(air.data, padded.data)


def test_a_broad_distribution_about_minus_1000_is_no_air():
    field = np.random.default_rng(0).normal(-300, 600, (20, 20, 20)).astype(np.float32)
    assert window_of(field).black != -1000


def test_zero_beside_faint_ripples_is_no_pedestal():
    ripples = (head() + np.random.default_rng(0).normal(0.2, 1, (32, 32, 32))).astype(np.float32)
    assert window_of(ripples).black == 0
