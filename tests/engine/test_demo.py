"""The demonstration: shipped priors on a head that they have never seen."""

import doctest
import importlib
import json

import nibabel as nib
import numpy as np
import pytest

from engine import demo, run
from engine.backends.bundle import Bundle

pytest.importorskip("nilearn", reason="nilearn ships the demonstration's head")

PLANES = ("axial", "coronal", "sagittal")


def test_shipped_bundles_are_whole_small_and_verified():
    for name in PLANES:
        bundle = Bundle.open(demo.bundle_folder(name))
        assert str(bundle.plane) == name
        assert bundle.trained_size == demo.SIZE
        bounds, rows = (bundle.manifest["verification"][k] for k in ("bounds", "rows"))
        assert max(r["split_pullback"] for r in rows) < bounds["pullback"]
        assert sum((bundle.folder / f).stat().st_size for f in bundle.manifest["files"]) < 6e6


def test_priors_remove_most_of_the_noise_in_their_planes():
    head, sigma = demo.volume().data, 0.2
    assert [str(p.plane) for p in demo.priors()] == list(demo.PLANES)
    for name in PLANES:
        prior = demo.prior(name)
        assert str(prior.plane) == name
        clean = prior.plane.slices_of(head)[20:44:4]
        noisy = clean + sigma * np.random.default_rng(0).standard_normal(clean.shape, dtype=np.float32)
        rms = np.sqrt(np.mean((prior.denoiser.denoise(noisy, sigma) - clean) ** 2))
        assert rms < sigma / 4, name


@pytest.mark.parametrize("task", ["csmri", "mrzsr", "svct", "uncond"])
def test_every_task_runs_without_further_arguments(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The default number of steps takes minutes; this shows that the defaults fit together.
    assert run.main(["--task", task, "--steps", "3", "--quiet"]) == 0
    image = nib.load(tmp_path / "runs" / task / "recon.nii.gz")
    data = np.asanyarray(image.dataobj)
    assert data.shape == (64, 64, 64) and np.isfinite(data).all()
    np.testing.assert_allclose(image.header.get_zooms(), 3.0)
    record = json.loads((tmp_path / "runs" / task / "run.json").read_text())
    assert len(record["plan"]) == 3
    assert (tmp_path / "runs" / task / "metrics.json").exists() == (task != "uncond")


def test_the_whole_head_lies_where_the_cube_lies():
    head, cube = demo.head(), demo.volume()
    np.testing.assert_allclose(head.voxel_mm, 1.0)
    tissue = head.data > 0.1
    # All of it, in a frame of air; the brain stem ends with the file.
    borders = {(axis, end) for axis in range(3) for end in (0, -1) if np.take(tissue, end, axis).any()}
    assert borders == {(2, 0)}
    assert tissue.sum() == pytest.approx(27 * (cube.data > 0.1).sum(), rel=0.06)
    centres = [
        (v.affine @ [*np.argwhere(inside).mean(axis=0), 1])[:3]
        for v, inside in ((head, tissue), (cube, cube.data > 0.1))
    ]
    np.testing.assert_allclose(*centres, atol=0.5)


def test_a_voxel_size_asks_for_the_whole_head(tmp_path):
    words = ["--task", "csmri", "--resample", "4", "--steps", "2", "--prior", "head-t1-3mm", "--quiet", "--no-report"]
    assert run.main([*words, "--out", str(tmp_path)]) == 0
    image = nib.load(tmp_path / "recon.nii.gz")
    np.testing.assert_allclose(image.header.get_zooms(), 4.0)
    assert image.shape == tuple(np.ceil(np.array(demo.head().data.shape) / 4))


@pytest.mark.slow
def test_the_demonstration_beats_zero_filling_by_3_db_in_every_plane(tmp_path):
    assert run.main(["--task", "csmri", "--out", str(tmp_path), "--quiet"]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for plane in PLANES:
        gain = metrics["reconstruction"][plane]["psnr_db"] - metrics["zero_filled"][plane]["psnr_db"]
        assert gain >= 3, plane
    record = json.loads((tmp_path / "run.json").read_text())
    data = np.asanyarray(nib.load(tmp_path / "recon.nii.gz").dataobj) / record["volume"]["scale"]
    # The head's own range is 0 … 1.09 of white; a diverging sampler leaves it by far.
    assert data.min() > -0.5 and data.max() < 1.6
    assert record["peak_memory_mb"] < 2000


@pytest.mark.parametrize("module", ["engine", "engine.sampling.reconstruction"])
def test_docstring_examples_run(module):
    assert doctest.testmod(importlib.import_module(module), raise_on_error=True).attempted > 0
