"""The examples: each runs from top to bottom in an empty folder, and leaves what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from engine import demo

pytest.importorskip("nilearn", reason="the demonstration's head is nilearn's")

ROOT = Path(__file__).resolve().parents[2]
#: Volumes that each example leaves, and what else beside its picture.
LEFT = {
    "csmri": (("recon.nii.gz",), ("scan.h5", "scan-maps.npy")),
    "mrzsr": (("recon.nii.gz",), ("thick.nii.gz",)),
    "svct": (("recon.nii.gz",), ("geometry.json", "sinogram.npy")),
    "samples": (("mean.nii.gz", "deviation.nii.gz"), ()),
    "uncond": (("sample.nii.gz",), ()),
}
#: What is replaced for a quick run.
QUICKER = {"STEPS": "2", "N_SAMPLES": "2"}
#: dB by which a whole run beats the classical reconstruction; measured: 13.1, 5.5 (over cubic splines), 13.0.
GAIN_DB = {"csmri": 11.5, "mrzsr": 5.0, "svct": 11.5}


def executed(name: str, folder: Path, constants: dict[str, str]) -> str:
    """Run an example, some of whose constants are replaced; return what it prints."""
    source = (ROOT / "examples" / f"{name}.py").read_text()
    for constant, value in constants.items():
        source, n = re.subn(rf"^{constant} = \d+$", f"{constant} = {value}", source, flags=re.MULTILINE)
        assert n == (constant == "STEPS" or name == "samples")
    (folder / "example.py").write_text(source)
    done = subprocess.run([sys.executable, "example.py"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_left(name: str, folder: Path) -> None:
    """All files are there, and no other; volumes are finite and lie where the head does."""
    out = folder / f"example-{name}"
    volumes, others = LEFT[name]
    assert {path.name for path in out.iterdir()} == {*volumes, *others, "preview.png"}
    assert {path.name for path in folder.iterdir()} == {"example.py", out.name}
    with Image.open(out / "preview.png") as picture:
        # Something is drawn.
        assert np.asarray(picture.convert("L")).std() > 10
    head = demo.volume()
    affine = np.diag([demo.VOXEL_MM] * 3 + [1.0]) if name == "uncond" else head.affine
    for file in volumes:
        image = nib.load(out / file)
        assert image.shape == head.data.shape
        # float32 holds mm to some 1e-5 there.
        np.testing.assert_allclose(image.affine, affine, atol=1e-4)
        voxels = image.get_fdata()
        assert np.isfinite(voxels).all()
        assert voxels.std() > 0


@pytest.mark.parametrize("name", LEFT)
def test_an_example_runs_and_leaves_its_files(name, tmp_path):
    assert executed(name, tmp_path, QUICKER)
    check_left(name, tmp_path)
    if name in GAIN_DB:
        # Even in two steps nearly all that is bright lies where it belongs, in the units of the file.
        recon = nib.load(tmp_path / f"example-{name}" / "recon.nii.gz").get_fdata()
        head = demo.volume()
        truth = head.in_file_units(head.data)
        assert np.corrcoef(recon.ravel(), truth.ravel())[0, 1] > 0.95
        assert 0.9 < recon.mean() / truth.mean() < 1.1


def test_every_example_is_tested():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(LEFT)


@pytest.mark.slow
@pytest.mark.parametrize("name", LEFT)
def test_a_whole_run_is_as_good_as_it_says(name, tmp_path):
    printed = executed(name, tmp_path, {})
    check_left(name, tmp_path)
    if name in GAIN_DB:
        ours, classical = map(float, re.findall(r"(-?[\d.]+) dB", printed))
        assert ours - classical > GAIN_DB[name]
    elif name == "samples":
        *samples, mean = map(float, re.findall(r"PSNR ([\d.]+) dB", printed))
        # Measured: 35.2 and 37.1.
        assert mean > max(samples) + 1.0
        assert float(printed.split()[-1]) > 0.2
