"""Figures of merit against their definitions."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from engine.errors import InputError
from engine.report.metrics import PSNR_CAP_DB, per_plane, psnr

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    truth = np.zeros((12, 14, 16), dtype=np.float32)
    truth[2:10, 3:12, 1:15] = rng.random((8, 9, 14), dtype=np.float32) + 0.5
    # Error that differs from slice to slice, so that a mean of figures is not the figure of a mean.
    estimate = truth + rng.standard_normal(truth.shape).astype(np.float32) * np.linspace(
        0.01, 0.3, 16, dtype=np.float32
    )
    return truth, estimate


def test_psnr_of_a_constant_error_is_known():
    truth = np.zeros((4, 5))
    assert psnr(truth, truth + 0.1, 1.0) == pytest.approx(20.0)
    assert psnr(truth, truth - 0.1, 10.0) == pytest.approx(40.0)


def test_psnr_does_not_lose_small_errors_to_float32():
    truth = np.full((64, 64), 1000.0, dtype=np.float32)
    estimate = truth.copy()
    estimate[0, 0] += np.float32(0.5)
    assert psnr(truth, estimate, 1.0) == pytest.approx(-20 * math.log10(0.5 / 64), abs=1e-9)


@pytest.mark.parametrize("difference", [0.0, 1e-9])
def test_identical_images_reach_the_cap(difference):
    truth = np.linspace(0, 1, 20)
    assert psnr(truth, truth + difference, 1.0) == PSNR_CAP_DB


def test_per_plane_follows_its_definition(pair):
    truth, estimate = pair
    figures = per_plane(truth, estimate)
    span = float(truth.max()) - float(truth.min())
    assert figures["data_range"] == pytest.approx(span)
    assert figures["psnr_db"] == pytest.approx(psnr(truth, estimate, span))
    for name, axis in PLANES.items():
        cuts = [np.take(np.stack([truth, estimate]), i, axis=axis + 1) for i in range(truth.shape[axis])]
        cuts = [(a.astype(np.float64), b.astype(np.float64)) for a, b in cuts if a.any()]
        assert 0 < len(cuts) < truth.shape[axis]
        assert figures[name]["n_slices"] == len(cuts)
        assert figures[name]["psnr_db"] == pytest.approx(np.mean([psnr(a, b, span) for a, b in cuts]))
        ssim = np.mean([structural_similarity(a, b, data_range=span) for a, b in cuts])
        assert figures[name]["ssim"] == pytest.approx(ssim)


def test_planes_see_their_own_slices(pair):
    truth, estimate = pair
    figures = per_plane(truth, estimate)
    # The error grows along z alone: axial slices differ in theirs, so their mean in dB lies above that of the others.
    assert figures["axial"]["psnr_db"] > figures["coronal"]["psnr_db"] + 1
    assert figures["coronal"]["psnr_db"] == pytest.approx(figures["sagittal"]["psnr_db"], abs=0.5)


def test_identical_volumes_give_valid_json(pair):
    truth, _ = pair
    figures = json.loads(json.dumps(per_plane(truth, truth.copy()), allow_nan=False))
    assert figures["psnr_db"] == PSNR_CAP_DB
    for name in PLANES:
        assert figures[name]["psnr_db"] == PSNR_CAP_DB
        assert figures[name]["ssim"] == pytest.approx(1.0)


def test_closer_is_better_in_every_figure(pair):
    truth, estimate = pair
    far, near = per_plane(truth, estimate), per_plane(truth, truth + (estimate - truth) / 4)
    assert near["psnr_db"] == pytest.approx(far["psnr_db"] + 20 * math.log10(4), abs=1e-3)
    for name in PLANES:
        assert near[name]["ssim"] > far[name]["ssim"]


def test_figures_are_the_same_every_time(pair):
    assert per_plane(*pair) == per_plane(*pair)


def test_small_volumes_use_a_smaller_window():
    rng = np.random.default_rng(1)
    truth = rng.random((3, 4, 6), dtype=np.float32)
    figures = per_plane(truth, truth + np.float32(0.1))
    assert all(0 < figures[name]["ssim"] < 1 for name in PLANES)


BLOCK = np.arange(27.0).reshape(3, 3, 3)


@pytest.mark.parametrize(
    ("truth", "estimate", "name"),
    [
        (BLOCK, BLOCK[:2], "estimate"),
        (BLOCK, BLOCK[None], "estimate"),
        (BLOCK, np.where(BLOCK == 5, np.nan, BLOCK), "estimate"),
        (np.where(BLOCK == 5, np.inf, BLOCK), BLOCK, "truth"),
        (np.ones((3, 3, 3)), BLOCK, "truth"),
        (BLOCK[:2], BLOCK[:2], "truth"),
        (BLOCK[0], BLOCK[0], "truth"),
        (BLOCK[:0], BLOCK[:0], "truth"),
    ],
)
def test_volumes_that_cannot_be_compared_are_refused_by_name(truth, estimate, name):
    with pytest.raises(InputError, match=rf"^{name}: expected .*, got .*; .*$"):
        per_plane(truth, estimate)


@pytest.mark.parametrize("data_range", [0.0, -1.0, math.nan, math.inf])
def test_impossible_peaks_are_refused(data_range):
    with pytest.raises(InputError, match=r"^data_range: expected .*, got .*; .*$"):
        psnr(BLOCK, BLOCK, data_range)
