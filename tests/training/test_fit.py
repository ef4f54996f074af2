"""The training command: folders in, a checkpoint out, and bad options end in one sentence."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from engine.volume import Plane
from networks import load_checkpoint
from networks.checkpoint import read_stored
from tests.training.conftest import TINY, ellipsoids
from training import fit as fit_module
from training.fit import main
from training.loop import Training

ROOT = Path(__file__).parents[2]


def options(folder, out, **changed):
    given = {
        "volumes": folder, "out": out, "size": 16, "voxel-mm": "0.9 1.1", "steps": 2, "batch-size": 2, "nf": 8,
        "ch-mult": "1 2", "attention-levels": "1", "device": "cpu",
    }  # fmt: skip
    given.update({name.replace("_", "-"): value for name, value in changed.items()})
    return [word for name, value in given.items() for word in (f"--{name}", *str(value).split())]


def test_command_line(folder, tmp_path):
    out = tmp_path / "prior.pt"
    assert main([*options(folder, out, save_every=1), "--validate", str(folder / "one.nii.gz")]) == 0
    assert out.with_suffix(".csv").read_text().count("sigma") == 4
    assert main([*options(folder, out, steps=3), "--resume"]) == 0
    loaded, info = load_checkpoint(out)
    assert (info["step"], info["plane"]) == (3, "all")
    assert loaded.architecture == replace(TINY, attention_levels=(1,))
    assert main(options(folder, out, plane="axial")) == 0
    assert load_checkpoint(out)[1]["plane"] == [2, 0, 1]


def test_a_path_has_its_share_however_many_files_it_holds(folder, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(fit_module, "Training", lambda network, sampler, *_: made.append(sampler) or sys.exit(0))
    with pytest.raises(SystemExit):
        main(options(folder, tmp_path / "prior.pt", volumes=f"{folder} {folder / 'one.nii.gz'}", shares="1 3"))
    *several, one = made[0].weights
    assert len(several) > 1 and sum(several) == pytest.approx(0.25) and one == pytest.approx(0.75)


def test_a_resumed_run_keeps_all_columns_of_the_curve(folder, tmp_path):
    out = tmp_path / "prior.pt"
    assert main([*options(folder, out, save_every=1), "--validate", str(folder / "one.nii.gz")]) == 0
    first = out.with_suffix(".csv").read_text().splitlines()
    assert main([*options(folder, out, steps=3, save_every=1), "--resume"]) == 0
    again = out.with_suffix(".csv").read_text().splitlines()
    assert again[: len(first)] == first
    assert len(again) == len(first) + 1


def test_the_volumes_of_others_are_named_by_their_own_option(folder, tmp_path, capsys):
    other = tmp_path / "thin.nii"
    nib.save(nib.Nifti1Image(ellipsoids()[:12, :, :12], np.eye(4)), other)
    assert main([*options(folder, tmp_path / "prior.pt"), "--validate", str(other)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("training.fit: validate: expected slices that hold")


def test_a_full_disk_is_one_sentence(folder, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "prior.pt")

    monkeypatch.setattr("training.loop.save_checkpoint", full)
    assert main(options(folder, tmp_path / "prior.pt")) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("training.fit: out: expected room and permission")


@pytest.mark.parametrize(
    ("changed", "argument"),
    [
        ({"plane": "oblique"}, "plane"),
        ({"plane": "0,0,1"}, "plane"),
        ({"volumes": "absent.nii.gz"}, "volumes"),
        ({"validate": "absent.nii.gz"}, "validate"),
        ({"contrast": 1.5}, "contrast"),
        ({"shares": "1 2"}, "shares"),
        ({"shares": "0"}, "shares"),
        ({"size": 17}, "size"),
        ({"size": 8}, "size"),
        ({"size": 0}, "size"),
        ({"voxel_mm": "-1 1"}, "voxel_mm"),
        ({"voxel_mm": "1 0.5"}, "voxel_mm"),
        ({"voxel_mm": "nan 1"}, "voxel_mm"),
        ({"steps": 0}, "steps"),
        ({"minutes": 0}, "minutes"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"warmup": -1}, "warmup"),
        ({"ema": 1.5}, "ema"),
        ({"sigma_min": 0}, "sigma_min"),
        ({"sigma_max": 0.001}, "sigma_max"),
        ({"nf": 2}, "nf"),
        ({"nf": 52, "ch_mult": "1 2 3", "size": 32}, "nf"),
        ({"ch_mult": "1 0"}, "nf"),
        ({"attention_levels": "2"}, "attention_levels"),
        ({"res_blocks": 0}, "res_blocks"),
        ({"save_every": 0}, "save_every"),
        ({"threads": 0}, "threads"),
        ({"device": "abacus"}, "device"),
    ],
)
def test_bad_options_end_in_one_sentence(folder, tmp_path, capsys, changed, argument):
    out = tmp_path / "prior.pt"
    assert main(options(folder, out, **changed)) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"training.fit: {argument}: expected ")
    assert message.count("\n") == 1
    assert not out.exists()


def test_bad_places_end_in_one_sentence(folder, tmp_path, capsys):
    assert main(options(folder, tmp_path)) == 2
    assert "out: expected a file to write, got the folder" in capsys.readouterr().err
    damaged = tmp_path / "damaged.pt"
    damaged.write_text("no checkpoint")
    assert main([*options(folder, damaged), "--resume"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert Path(damaged).read_text() == "no checkpoint"


def test_bad_volumes_end_in_one_sentence(folder, tmp_path, capsys):
    empty, out = tmp_path / "empty", tmp_path / "prior.pt"
    empty.mkdir()
    bad = folder / "bad.nii"
    head = ellipsoids()
    for path, data, message in (
        (empty, None, "expected NIfTI files, got none in"),
        (folder, np.where(head > 0.9, np.nan, head), "got .* NaN or infinite voxels in"),
        (folder, head[:12, :, :12], "expected slices that hold a patch of 16 × 16 pixels, got 12 × 28 × 12 voxels"),
    ):
        if data is not None:
            nib.save(nib.Nifti1Image(data, np.eye(4)), bad)
        assert main(options(path, out)) == 2
        said = capsys.readouterr().err
        assert re.match(f"training.fit: volumes: .*{message}", said) and said.count("\n") == 1, said
    # Micrometres without a unit, which count as millimetres.
    nib.save(nib.Nifti1Image(ellipsoids(), np.diag([1000.0, 1000.0, 1000.0, 1.0])), bad)
    assert main(options(folder, out)) == 2
    assert "voxels of 0.1 to 10 mm" in capsys.readouterr().err
    assert not out.exists()


def test_interrupted_command_says_how_to_go_on(folder, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "run", interrupted)
    assert main(options(folder, tmp_path / "prior.pt")) == 130
    assert "--resume" in capsys.readouterr().err


def test_init_starts_from_the_averages_of_another_prior(new_training, folder, tmp_path, monkeypatch):
    # A short average: the last weights are others.
    other = new_training(5, ema=0.9)
    other.run(progress=False)
    (averages, _), (last, _) = load_checkpoint(other.out), load_checkpoint(other.out, ema=False)
    out, seen = tmp_path / "sagittal.pt", {}

    class Watched(Training):
        def run(self):
            seen.update({name: tensor.clone() for name, tensor in self.network.state_dict().items()})
            return super().run()

    monkeypatch.setattr(fit_module, "Training", Watched)
    given = options(folder, out, plane="sagittal", attention_levels="", save_every=1)
    assert main([*given, "--init", str(other.out)]) == 0
    assert all(torch.equal(seen[name], tensor) for name, tensor in averages.state_dict().items())
    assert any(not torch.equal(seen[name], tensor) for name, tensor in last.state_dict().items())
    stored = read_stored(out)
    assert (stored["step"], stored["plane"]) == (2, list(Plane.parse("sagittal").axes))
    # The optimiser is new: it has seen these two steps alone.
    assert {int(state["step"]) for state in stored["optimizer"]["state"].values()} == {2}


def test_init_that_cannot_be_used_ends_in_one_sentence(new_training, folder, tmp_path, capsys):
    training = new_training(1)
    training.run(progress=False)
    other, out = training.out, tmp_path / "sagittal.pt"
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(other.read_bytes()[:1000])
    matching = {"attention_levels": ""}
    for changed, words, reason in (
        (matching, ["--init", str(other), "--resume"], "got --resume"),
        (matching, ["--init", str(tmp_path / "absent.pt")], "got nothing"),
        (matching, ["--init", str(damaged)], "cannot be read"),
        ({"attention_levels": "", "nf": 16}, ["--init", str(other)], "(nf 16), got nf 8"),
        ({}, ["--init", str(other)], "(attention_levels [1]), got attention_levels []"),
    ):
        assert main([*options(folder, out, **changed), *words]) == 2
        message = capsys.readouterr().err
        assert message.startswith("training.fit: init: expected ") and reason in message, message
        assert message.count("\n") == 1 and message.count("; ") == 1
        assert not out.exists()


def test_without_torch_one_sentence_names_the_extra():
    """In an installation for runs alone: a process of its own, because here PyTorch is loaded already."""
    hide = "import runpy, sys; sys.modules['torch'] = None; runpy.run_module('training.fit', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", hide], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "expected the packages of the extra `train`, got no torch" in done.stderr
