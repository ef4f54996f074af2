"""A run on a scan of thick slices says what its priors are worth on that scan."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from engine import demo
from engine.report.metrics import tissue_psnr
from engine.run import main


def thick_scan(path, data: np.ndarray, mm: float = 3.0):
    """A scan with slices of 4 voxels along the last axis."""
    affine = np.diag([mm, mm, 4 * mm, 1.0])
    nib.Nifti1Image(data.astype(np.float32), affine).to_filename(path)
    return path


def checked(folder, scan, *words: object) -> dict:
    """The record of a run."""
    words = ("--task", "mrzsr", "--thick", scan, "--out", folder, "--quiet", *words)
    assert main([str(word) for word in words]) == 0
    return json.loads((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    """The demonstration's head with thick slices, float32 (64, 64, 16)."""
    return np.asarray(demo.volume().data.reshape(64, 64, 16, 4).mean(axis=3))


def test_a_head_is_known(tmp_path, head, caplog):
    scan = thick_scan(tmp_path / "thick.nii.gz", head)
    found = checked(tmp_path / "out", scan, "--prior", "head-t1-3mm", "--planes", "coronal,axial", "--steps", 4)[
        "self_check"
    ]
    assert found["n_slices"] == 8
    assert found["gain_db"] == found["psnr_db"] - found["cubic_psnr_db"] > 1
    assert "knows little" not in caplog.text
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{found['gain_db']:+.1f} dB against cubic splines" in page


def test_the_figure_is_that_of_thinned_slices(tmp_path, head):
    """With one slice of tissue, cubic splines can be drawn by hand."""
    alone = np.zeros_like(head)
    alone[..., 7] = head[..., 7]
    scan = thick_scan(tmp_path / "thick.nii.gz", alone)
    found = checked(tmp_path / "out", scan, "--prior", "head-t1-3mm", "--planes", "coronal,axial", "--steps", 4)[
        "self_check"
    ]
    truth = alone[..., 7] / np.percentile(alone[alone > 0], 99.5)
    blocks = truth.reshape(16, 4, 64).mean(axis=1)
    spline = ndimage.zoom(blocks, (4, 1), order=3, mode="nearest", grid_mode=True)
    assert found["n_slices"] == 1
    assert found["cubic_psnr_db"] == pytest.approx(tissue_psnr(truth[None], spline[None]), abs=0.01)


def test_noise_is_not_known(tmp_path, caplog):
    noise = np.random.default_rng(0).uniform(0, 1, (48, 40, 12))
    found = checked(tmp_path / "out", thick_scan(tmp_path / "thick.nii.gz", noise, 1.0), "--steps", 4)["self_check"]
    assert found["gain_db"] < 0.3
    assert "the prior knows little of this scan" in caplog.text
    assert "the prior knows little of this scan" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("--method", "classical"), id="no prior"),
        pytest.param(
            ("--prior", "head-t1-3mm", "--planes", "coronal,sagittal", "--steps", 2), id="no prior of the slices"
        ),
    ],
)
def test_where_nothing_can_be_learned_nothing_is_said(tmp_path, head, words):
    scan = thick_scan(tmp_path / "thick.nii.gz", head)
    assert checked(tmp_path / "out", scan, *words)["self_check"] is None
    assert "against cubic splines" not in (tmp_path / "out" / "report.html").read_text()
