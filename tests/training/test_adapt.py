"""A prior is adapted to a scan: alone, and by a run."""

from __future__ import annotations

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from benchmarks import ROOT
from engine.backends.bundle import Bundle
from engine.run import main as run
from export.build_engine import build_engine
from export.restore import network_of, write_checkpoint
from networks import load_checkpoint, save_checkpoint
from tests.training.conftest import ellipsoids, new_network
from training import adapt


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """Bundle of a tiny network that serves all planes."""
    folder = tmp_path_factory.mktemp("prior")
    network = new_network()
    weights = [p for p in network.parameters() if p.requires_grad]
    for parameter in weights:
        parameter.data += 0.05 * torch.randn(parameter.shape)
    save_checkpoint(folder / "all.pt", network, weights, step=7, plane="all", image_size=16, voxel_mm=[0.9, 1.1])
    build_engine(folder / "all.pt", folder / "all")
    return folder / "all"


@pytest.fixture
def scan(tmp_path):
    thick = ellipsoids((24, 28, 20)).reshape(24, 28, 5, 4).mean(axis=3)
    nib.save(nib.Nifti1Image(1000 * thick, np.diag([1, 1, 4, 1])), tmp_path / "thick.nii.gz")
    return tmp_path / "thick.nii.gz"


def words(prior, scan, out, minutes=0.01):
    given = {"bundle": prior, "thick": scan, "out": out, "minutes": minutes, "threads": 1}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def test_a_bundle_gives_back_its_checkpoint(prior, tmp_path):
    write_checkpoint(Bundle.open(prior), tmp_path / "back.pt")
    (mine, info), (theirs, _) = load_checkpoint(tmp_path / "back.pt"), load_checkpoint(prior.with_suffix(".pt"))
    assert {key: info[key] for key in ("step", "plane", "image_size", "voxel_mm")} == {
        **{"step": 7, "plane": "all", "image_size": 16, "voxel_mm": [0.9, 1.1]}
    }
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        # Some were stored times √½.
        np.testing.assert_allclose(one, other, rtol=2e-7)


def test_an_interrupted_adaptation_goes_on_and_leaves_a_bundle_alone(prior, scan, tmp_path, monkeypatch):
    out, advance = tmp_path / "adapted", adapt_steps(monkeypatch, 3)
    # The user's own, of another training.
    (tmp_path / "adapted.pt").write_bytes(b"mine")
    monkeypatch.setattr(adapt, "_MOST_STEPS", 5)
    with pytest.raises(KeyboardInterrupt):
        adapt._adapt(adapt.build_parser().parse_args(words(prior, scan, out, minutes=60)))
    assert not out.exists() and (tmp_path / "adapted.adapting.pt").is_file()
    monkeypatch.setattr("training.loop.Training._advance", advance)
    assert adapt.main(words(prior, scan, out, minutes=60)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapted", "adapted.pt", "thick.nii.gz"]
    bundle = Bundle.open(out)
    assert bundle.serves_all_planes and bundle.voxel_mm == (0.9, 1.1)
    assert bundle.manifest["checkpoint"]["step"] == 5
    before, after = (
        torch.nn.utils.parameters_to_vector(network_of(b).parameters()) for b in (Bundle.open(prior), bundle)
    )
    assert 0 < float((before - after).abs().max()) < 0.1


def adapt_steps(monkeypatch, n_steps):
    """Interrupt the training after some steps; the real step."""
    from training.loop import Training

    real = Training._advance

    def advance(self):
        if self.step == n_steps:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Training, "_advance", advance)
    return real


def test_a_run_adapts_once_and_keeps_it(prior, scan, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    given = ["--task", "mrzsr", "--thick", str(scan), "--prior", str(prior), "--steps", "2", "--threads", "1"]
    given += ["--adapt", "0.01", "--quiet", "--no-report"]
    assert run([*given, "--out", str(tmp_path / "one")]) == 0
    (kept,) = (tmp_path / "cache" / "tpdm" / "adapted").iterdir()
    record = json.loads((tmp_path / "one" / "run.json").read_text())
    assert {of["folder"] for of in record["priors"].values()} == {str(kept)}
    monkeypatch.setattr("engine.job.adaptation._train", lambda *_: pytest.fail("adapted again"))
    assert run([*given, "--out", str(tmp_path / "two")]) == 0
    assert (tmp_path / "one/recon.nii.gz").read_bytes() == (tmp_path / "two/recon.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--minutes", "0"], "minutes: expected more than 0"),
        (["--threads", "0"], "threads: expected at least 1"),
        (["--thick", "nothing.nii"], "thick: expected"),
        (["--bundle", "nothing"], "engine: expected an engine bundle"),
        # Its slices across the thick axis are 28 × 5 voxels.
        (["--thick-axis", "0"], "thick: expected slices that hold a patch of 16 × 16 pixels"),
    ],
)
def test_wrong_input_is_one_sentence(prior, scan, tmp_path, capsys, options, said):
    assert adapt.main([*words(prior, scan, tmp_path / "out"), *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"training.adapt: {said}"), lines
    assert list(tmp_path.iterdir()) == [scan]


def test_a_prior_of_one_plane_is_refused(tiny_bundles, scan, tmp_path, capsys):
    assert adapt.main(words(tiny_bundles["axial"].folder, scan, tmp_path / "out")) == 2
    assert "bundle: expected a prior that serves all planes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "csmri", "--adapt", "1"], "adapt: expected --task mrzsr"),
        (["--task", "mrzsr", "--adapt", "-1"], "adapt: expected"),
    ],
)
def test_a_run_refuses_what_it_cannot_adapt(prior, options, said, tmp_path, capsys):
    assert run([*options, "--prior", str(prior), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_refused_training_is_the_runs_own_refusal(prior, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = 1000 * ellipsoids((12, 12, 20)).reshape(12, 12, 5, 4).mean(axis=3)
    nib.save(nib.Nifti1Image(small, np.diag([1, 1, 4, 1])), tmp_path / "thick.nii.gz")
    given = ["--task", "mrzsr", "--thick", str(tmp_path / "thick.nii.gz"), "--prior", str(prior), "--steps", "2"]
    assert run([*given, "--adapt", "1", "--quiet", "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "adapt: expected a scan and a prior that training takes" in lines[0], lines
    assert "slices that hold a patch" in lines[0]


def test_a_run_without_torch_says_so(prior, scan, tmp_path):
    hide = (
        "import importlib.util as u, runpy, sys; found = u.find_spec; "
        "u.find_spec = lambda name, *a: None if name == 'torch' else found(name, *a); "
        "runpy.run_module('engine.run', run_name='__main__')"
    )
    given = ["--task", "mrzsr", "--thick", scan, "--prior", prior, "--adapt", "1", "--out", tmp_path / "out"]
    command = [sys.executable, "-c", hide, *map(str, given)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "adapt: expected the packages of the extra `train`, got no torch" in done.stderr.splitlines()[-1]
