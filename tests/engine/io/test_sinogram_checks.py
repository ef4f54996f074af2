"""What every user of CT gets wrong once is warned of, with a remedy that helps; right scans are not."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

from engine.io.measurements.sinogram_checks import Lines, doubts
from kernels import FanGeometry, ParallelGeometry
from tests.engine.io.discs import HEAD, fan, line_integrals, parallel

SMALL_OFF_CENTRE = ((0.1, 0.5, 0.3, 0.05),)
RING = ((0.8, 0.0, 0.0, 0.02), (0.7, 0.0, 0.0, -0.018))
GOLDEN = np.arange(60) * np.pi * (3 - 5**0.5)
UNEVEN = np.deg2rad([*np.linspace(0, 30, 60, endpoint=False), *np.linspace(30, 180, 30, endpoint=False)])

RIGHT = {
    "half turn": (parallel(), HEAD),
    "small and off the centre": (parallel(), SMALL_OFF_CENTRE),
    "a ring": (parallel(), RING),
    "few views": (parallel(n_views=9), HEAD),
    "three views": (parallel(n_views=3), HEAD),
    "one view": (parallel(n_views=1), HEAD),
    "whole turn": (parallel(span_deg=360), HEAD),
    "whole turn, odd": (parallel(n_views=61, span_deg=360), HEAD),
    "two turns": (parallel(n_views=90, span_deg=720), HEAD),
    "backwards": (parallel(span_deg=-180), HEAD),
    "from -90": (parallel(first_deg=-90), HEAD),
    "230 degrees": (parallel(span_deg=230), HEAD),
    "120 degrees": (parallel(span_deg=120), HEAD),
    "40 degrees": (parallel(n_views=20, span_deg=40), HEAD),
    "golden angles": (ParallelGeometry(64, GOLDEN, 64), HEAD),
    "golden angles, many": (ParallelGeometry(64, np.arange(93) * np.deg2rad(111.246), 64), HEAD),
    "uneven angles": (ParallelGeometry(64, UNEVEN, 64), HEAD),
    "shuffled": (ParallelGeometry(64, np.random.default_rng(0).permutation(parallel().angles_rad), 64), HEAD),
    "offset": (parallel(n_bins=80, offset=6.3), HEAD),
    "offset the other way": (parallel(n_bins=80, offset=-6.3), HEAD),
    "a quarter bin": (parallel(offset=0.25), HEAD),
    "wide bins": (parallel(n_bins=40, spacing=2.0), HEAD),
    "narrow bins": (parallel(n_bins=200, spacing=0.4), HEAD),
    "an odd number of bins": (parallel(n=63, n_bins=75), HEAD),
    "half a beam": (parallel(n_views=90, span_deg=360, n_bins=40, offset=16), HEAD),
    "fan": (fan(), HEAD),
    "curved fan": (fan(curved=True), HEAD),
    "fan, few views": (fan(n_views=20), HEAD),
    "fan, short scan": (fan(n_views=90, span_deg=230), HEAD),
    "fan, offset": (fan(n_bins=130, offset=5.0), HEAD),
    "fan, off the centre": (fan(), SMALL_OFF_CENTRE),
    "wide fan": (fan(source=1.6, n_views=180), HEAD),
    "half a fan": (fan(n_views=180, n_bins=64, offset=25.0), HEAD),
}


def test_there_are_thirty_of_them():
    assert len(RIGHT) >= 30


@pytest.mark.parametrize("noise", [0.0, 0.02], ids=["exact", "noisy"])
@pytest.mark.parametrize("name", RIGHT)
def test_right_scans_are_not_doubted(name, noise):
    geometry, discs = RIGHT[name]
    data = line_integrals(geometry, discs)
    data += noise * data.max() * np.random.default_rng(1).standard_normal(data.shape).astype(np.float32)
    assert doubts(Lines(data, geometry)) == []


def replaced(geometry, **changes):
    if isinstance(geometry, FanGeometry):
        fields = ("shape", "angles_rad", "source_distance", "detector_distance", "n_bins", "bin_spacing", "bin_offset")
        return FanGeometry(**{name: getattr(geometry, name) for name in fields} | changes, curved=geometry.curved)
    fields = ("n", "angles_rad", "n_bins", "bin_spacing", "bin_offset")
    return ParallelGeometry(**{name: getattr(geometry, name) for name in fields} | changes)


SCANS = pytest.mark.parametrize(
    "truth", [parallel(n_bins=96), fan(n_bins=160), fan(n_bins=160, curved=True)], ids=["parallel", "fan", "curved"]
)


def doubt(data, geometry) -> str:
    (found,) = doubts(Lines(np.asarray(data, np.float32), geometry))
    return found


@SCANS
@pytest.mark.parametrize("i0", [1, 30000])
def test_no_logarithm(truth, i0):
    assert "--minus-log" in doubt(i0 * np.exp(-line_integrals(truth)), truth)


@SCANS
def test_radians_taken_for_degrees_and_the_other_way_round(truth):
    data, angles = line_integrals(truth), np.array(truth.angles_rad)
    found = doubt(data, replaced(truth, angles_rad=np.deg2rad(angles)))
    assert "--angle-unit rad" in found
    assert "degrees in all" in found
    found = doubt(data, replaced(truth, angles_rad=np.rad2deg(angles)))
    assert "--angle-unit deg" in found
    assert "turns in all" in found


@SCANS
@pytest.mark.parametrize("off", [-6.0, -2.5, 2.5, 6.0])
def test_a_wrong_centre_is_told_to_a_tenth_of_a_bin(truth, off):
    wrong = replaced(truth, bin_offset=truth.bin_offset + off)
    told = float(re.search(r"--centre ([\d.]+)", doubt(line_integrals(truth), wrong))[1])
    # Interpolated, a fan's centre is the more off the wider it is.
    assert told == pytest.approx((truth.n_bins - 1) / 2, abs=0.1 if isinstance(truth, ParallelGeometry) else 0.5)


def test_the_wrong_sign_of_an_offset_is_named():
    truth = parallel(n_bins=96, offset=7.0)
    assert "the other sign" in doubt(line_integrals(truth), replaced(truth, bin_offset=-7.0))


def test_angles_in_another_order():
    truth = parallel()
    angles = np.random.default_rng(3).permutation(truth.angles_rad)
    assert "no sinusoid" in doubt(line_integrals(truth), replaced(truth, angles_rad=angles))
    data, twice = line_integrals(truth, SMALL_OFF_CENTRE), 2 * np.array(truth.angles_rad)
    assert "no sinusoid" in doubt(data, replaced(truth, angles_rad=twice))


def test_a_fan_that_turns_the_other_way():
    truth = fan(source=1.6, n_views=180)
    wrong = replaced(truth, angles_rad=-np.array(truth.angles_rad))
    assert re.search("sinusoid|sums over bins", doubt(line_integrals(truth, SMALL_OFF_CENTRE), wrong))


def test_views_without_their_flat_field():
    truth = parallel()
    data = line_integrals(truth)
    data[:, ::9] *= 1.5
    assert "sums over bins vary" in doubt(data, truth)


def test_an_object_wider_than_the_detector():
    truth = parallel(n_bins=40)
    assert "wider than the detector" in doubt(line_integrals(truth, (*HEAD, (0.3, 0.0, 0.68, 0.05))), truth)


def test_warnings_are_logged_with_the_file(tmp_path, caplog):
    from engine.io.measurements.geometry import save_geometry
    from engine.io.measurements.sinogram import load_sinogram
    from engine.volume import Plane

    truth = parallel()
    np.save(tmp_path / "s.npy", np.exp(-line_integrals(truth)))
    save_geometry(tmp_path / "s.json", truth, (64, 64), Plane.parse("axial"), np.eye(4))
    with caplog.at_level(logging.WARNING, "engine"):
        load_sinogram(tmp_path / "s.npy", tmp_path / "s.json")
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path / 's.npy'}: ")
    assert "--minus-log" in message
