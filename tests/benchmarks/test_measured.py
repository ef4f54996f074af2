"""Measurements from files beside their simulation: every cell is a run, and files cost nothing by themselves."""

from __future__ import annotations

import json

import pytest

from benchmarks import measured


@pytest.mark.slow
def test_every_way_to_read_is_run(tmp_path):
    assert measured.main(["--steps", "2", "--noise", "0.02", "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("measured-*.json")
    report = json.loads(path.read_text())
    assert report["noise"] == 0.02
    assert set(measured.MODES) < set(report["rows"])
    for title, row in report["rows"].items():
        assert 10 < row["estimated"]["worst_plane_psnr_db"] < 60
        if title in measured.MODES:
            # The same measurement, rounded once more.
            assert abs(row["stated"]["psnr_db"] - row["simulation"]["psnr_db"]) < 0.01
    without_phase = report["rows"]["`--kspace`, 8 coils, ×6, with a phase"]
    assert without_phase["estimated"]["psnr_db"] > without_phase["phase none"]["psnr_db"] + 3


def test_what_a_file_leaves_open_is_left_out():
    words = ["--task", "csmri", "--kspace", "a.h5", "--phase", "none", "--white", "1.0", "--coil-maps", "m.npy"]
    assert measured._without(words) == words[:4]
