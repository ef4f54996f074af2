"""Filtered back-projection of scans whose lines are not all seen equally often, against an even scan."""

from __future__ import annotations

import math

import numpy as np
import pytest

import kernels
from kernels import FanGeometry, ParallelGeometry, reference
from kernels.redundancy import redundancy_weights
from tests.engine.io.discs import fan, line_integrals, parallel

N = 96


def degrees(*parts):
    """Angles in radians of (first, last, number) in degrees, last excluded."""
    return np.deg2rad(np.concatenate([np.linspace(*part, endpoint=False) for part in parts]))


def truth() -> np.ndarray:
    """The discs as an image, its pixels averages over squares."""
    fine = (np.arange(4 * N) + 0.5) / (4 * N) * 2 - 1
    rows, columns = np.meshgrid(fine, fine, indexing="ij")
    image = sum(
        density * (np.hypot(rows - row, columns - column) < radius)
        for radius, row, column, density in ((0.8, 0, 0, 0.02), (0.15, 0.3, -0.35, 0.03), (0.1, -0.4, 0.1, -0.015))
    )
    return np.asarray(image).reshape(N, 4, N, 4).mean(axis=(1, 3))


def psnr(geometry) -> float:
    image = kernels.radon_fbp(line_integrals(geometry, n_slices=1), geometry)[0]
    return float(10 * np.log10(truth().max() ** 2 / np.mean((image - truth()) ** 2)))


def parallel_of(angles, **changes):
    return ParallelGeometry(N, angles, **{"n_bins": round(1.5 * N), **changes})


def fan_of(angles, curved=False, **changes):
    plain = fan(n=N, n_views=1, curved=curved)
    wanted = {"n_bins": 240, "bin_spacing": 1.0, "bin_offset": 0.0} | changes
    return FanGeometry((N, N), angles, plain.source_distance, plain.detector_distance, curved=curved, **wanted)


BEAMS = {"parallel": parallel_of, "fan": fan_of, "curved": lambda angles, **changes: fan_of(angles, True, **changes)}


@pytest.mark.parametrize("beam", BEAMS)
@pytest.mark.parametrize(
    "views",
    ["dense", "short", "short, begun elsewhere", "half", "half, the other side", "dense, half", "golden", "long"],
)
def test_odd_scans_are_within_two_decibels_of_an_even_one(beam, views):
    make = BEAMS[beam]
    # Views two to six times as dense in a sixth of the scan as elsewhere.
    turn, rest = (180, 90) if beam == "parallel" else (360, 300)
    even = make(degrees((0, 360, 360)))
    bins = round(even.n_bins * 0.62)
    # The detector begins a little before the ray through the centre.
    half = {"n_bins": bins, "bin_offset": (even.n_bins - bins) / 2 * even.bin_spacing}
    other_half = {**half, "bin_offset": -half["bin_offset"]}
    scan = {
        "dense": lambda: make(degrees((0, turn / 6, 120), (turn / 6, turn, rest))),
        "short": lambda: make(degrees((0, 230, 230))),
        "short, begun elsewhere": lambda: make(degrees((-77, 153, 230))[::-1]),
        "half": lambda: make(degrees((0, 360, 360)), **half),
        "half, the other side": lambda: make(degrees((0, 360, 360)), **other_half),
        "dense, half": lambda: make(degrees((0, 60, 120), (60, 360, 250)), **half),
        "golden": lambda: make(np.arange(360) * math.pi * (3 - 5**0.5)),
        "long": lambda: make(degrees((0, 500, 500))),
    }[views]()
    assert psnr(scan) > psnr(even) - 2, (psnr(scan), psnr(even))


HALVES = [
    parallel_of(degrees((0, 360, 180)), n_bins=89, bin_offset=27.5),
    fan_of(degrees((0, 360, 90)), n_bins=149, bin_offset=-45.5),
    fan_of(degrees((0, 360, 90)), True, n_bins=149, bin_offset=45.5),
]


@pytest.mark.parametrize("half", HALVES, ids=["parallel", "fan", "curved"])
def test_a_half_beam_is_its_slow_twin(half):
    assert min(half.shadow[3], half.n_bins - 1 - half.shadow[3]) < N / 3
    assert redundancy_weights(half) is not None
    lines = line_integrals(half, n_slices=1)
    twin = reference.radon_fbp(lines, half)
    # Rounding of single precision.
    assert np.linalg.norm(kernels.radon_fbp(lines, half) - twin) < 1e-5 * np.linalg.norm(twin)


@pytest.mark.parametrize(
    "geometry",
    [
        parallel(),
        parallel(span_deg=360),
        parallel(n_views=61, span_deg=360),
        fan(),
        fan(curved=True),
        parallel(n_views=1),
    ],
    ids=["half turn", "turn", "odd turn", "fan", "curved", "one view"],
)
def test_even_scans_are_not_weighted(geometry):
    assert redundancy_weights(geometry) is None


def test_views_stand_for_the_way_to_their_neighbours():
    # 180 degrees are 0 again.
    weights = redundancy_weights(ParallelGeometry(8, np.deg2rad([0, 20, 40, 110, 150])))
    np.testing.assert_allclose(weights[:, 0], np.array([25, 20, 45, 55, 35]) / 36)


def test_samples_of_a_line_have_it_together():
    short = fan(n=64, n_views=230, span_deg=230, n_bins=121, curved=True)
    weights = redundancy_weights(short) * np.pi / np.deg2rad(1) / short.n_views
    gamma = np.rad2deg(short.bin_angles_rad)
    views = np.arange(230)
    for view in (0, 20, 60):
        for k in (10, 60, 90):
            other = view + 180 + 2 * gamma[k]
            there = np.interp(other, views, weights[:, 120 - k]) if other <= 229 else 0.0
            assert weights[view, k] + there == pytest.approx(1, abs=0.02)


def test_a_wedge_that_was_not_measured_stays_empty():
    weights = redundancy_weights(parallel(n_views=60, span_deg=120))
    # Each for its own two degrees, of which three would have been even.
    np.testing.assert_allclose(weights, 2 / 3)
