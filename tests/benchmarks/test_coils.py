"""The benchmark of several coils: its samples are those of the head; BART, where there is one, finds coils and head."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from benchmarks import coils
from benchmarks.lib.cells import Truth
from engine.report.metrics import tissue_psnr


@pytest.fixture
def truth() -> np.ndarray:
    return Truth.read("demo", None, 4).data


def test_samples_are_those_of_the_head(truth):
    scan = coils.scan_of(truth, 4.0, 6, 0.0)
    assert scan.data.shape == (4, 6, 64, 64) and scan.mask.mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_array_equal(scan.data[..., scan.mask == 0], 0)
    noisy = coils.scan_of(truth, 4.0, 6, 0.02)
    sampled = scan.data[..., scan.mask > 0]
    noise = (noisy.data - scan.data)[..., scan.mask > 0]
    # Of the real and of the imaginary part each.
    level = np.sqrt(np.mean(np.abs(noise) ** 2) / 2) / np.sqrt(np.mean(np.abs(sampled) ** 2))
    assert level == pytest.approx(0.02, rel=0.02)


def test_rows_are_written_one_by_one(tmp_path, capsys):
    words = ["--axial-slices", "4", "--accelerations", "4", "--methods", "classical", "--results", str(tmp_path)]
    assert coils.main(words) == 0
    (path,) = tmp_path.glob("coils-*.json")
    (row,) = json.loads(path.read_text())["rows"]
    assert row["task"]["coil_maps"] == "ESPIRiT" and 15 < row["tissue_psnr_db"] < 40
    assert "| demo | ×4 |" in capsys.readouterr().out
    assert coils.main(["--methods", "magic", "--results", str(tmp_path)]) == 2


@pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")
def test_bart_finds_coils_and_head(monkeypatch):
    # Enough slices for its wavelets.
    truth = Truth.read("demo", None, 12).data
    monkeypatch.setattr(coils.bart, "WEIGHTS", (1e-3,))
    volume, details = coils.by_bart(coils.scan_of(truth, 2.0, 6, 0.005), "bart-wavelet", truth)
    assert details == {"weight": 1e-3}
    assert tissue_psnr(truth, volume) > 30
