"""Runs on volumes that end in tissue: no dark and bright bands at their border."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from engine import demo
from engine.report.metrics import psnr
from engine.run import main


def reconstructed(folder, *words: object) -> np.ndarray:
    words = (*words, "--prior", "head-t1-3mm", "--white", 1, "--out", folder, "--no-report", "--quiet")
    assert main([str(word) for word in words]) == 0
    return np.asarray(nib.load(folder / "recon.nii.gz").get_fdata(), np.float32)


@pytest.fixture(scope="module")
def crop() -> np.ndarray:
    """Tissue at all six faces."""
    return np.ascontiguousarray(demo.volume().data[16:48, 14:50, 16:48])


def test_a_scan_inside_the_head_gains_on_cubic_splines(tmp_path, crop):
    """25.0 dB; without margins 17.4, cubic splines 23.8."""
    thick = crop.reshape(*crop.shape[:2], -1, 4).mean(axis=3)
    nib.Nifti1Image(thick, np.diag([3.0, 3, 12, 1])).to_filename(tmp_path / "thick.nii.gz")
    got = reconstructed(tmp_path / "out", "--task", "mrzsr", "--thick", tmp_path / "thick.nii.gz")
    assert psnr(crop, got, float(crop.max())) > 24.5


@pytest.mark.parametrize(("task", "least"), [("csmri", 30), ("svct", 22)])
def test_other_measurements_of_the_same(tmp_path, crop, task, least):
    """30.8 and 22.6 dB; without margins 27.5 and 16.7."""
    nib.Nifti1Image(crop, np.diag([3.0, 3, 3, 1])).to_filename(tmp_path / "crop.nii.gz")
    got = reconstructed(tmp_path / "out", "--task", task, "--volume", tmp_path / "crop.nii.gz")
    assert psnr(crop, got, float(crop.max())) > least


def test_slices_that_all_have_the_same_mean_keep_it(tmp_path):
    """Means of 26 and 80 at the first slices, 29 at the last, without margins."""
    x, y, z = np.meshgrid(np.arange(64), np.arange(64), np.arange(16), indexing="ij")
    data = (1 + 0.15 * np.sin(x / 4) * np.cos(y / 5 + z / 2)).astype(np.float32)
    nib.Nifti1Image(data, np.diag([3.0, 3, 12, 1])).to_filename(tmp_path / "thick.nii.gz")
    got = reconstructed(tmp_path / "out", "--task", "mrzsr", "--thick", tmp_path / "thick.nii.gz")
    np.testing.assert_allclose(got.mean(axis=(0, 1)), 1, atol=0.06)
