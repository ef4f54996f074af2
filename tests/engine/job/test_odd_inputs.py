"""Inputs that once ended in a traceback, a hang, or a result that was lost: one sentence, or the result."""

from __future__ import annotations

import io
import json
import os
import signal
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from engine.errors import in_one_line
from engine.job import results
from engine.job.saving import STATE_FILE
from engine.run import main
from engine.simulate import main as simulate

SHAPE = (12, 10, 8)


@pytest.fixture
def run(tiny_bundles, tmp_path):
    """Run with some options more; the exit code."""

    def do(*words: object, task: str = "csmri", out: Path | None = None) -> int:
        priors = ("--primary", tiny_bundles["axial"].folder, "--auxiliary", tiny_bundles["coronal"].folder)
        out = out or tmp_path / "out"
        fixed = ("--task", task, "--steps", 2, "--no-report", "--quiet", "--out", out)
        return main([str(word) for word in (*fixed, *priors, *words)])

    return do


@pytest.fixture
def refused(capsys):
    """The one sentence of a refusal."""

    def said(code: int, argument: str) -> str:
        printed = capsys.readouterr()
        assert code == 2, printed
        assert printed.err.count("\n") == 1, printed.err
        assert printed.err.startswith(f"engine.run: {argument}: expected "), printed.err
        return printed.err

    return said


def volume(shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32) + 0.1


def saved(folder: Path, data: np.ndarray, name: str = "a.npy") -> Path:
    np.save(folder / name, data)
    return folder / name


def test_a_pipe_among_slices_or_as_geometry_is_refused(run, refused, tmp_path):
    folder = tmp_path / "slices"
    folder.mkdir()
    for i in range(SHAPE[2]):
        np.save(folder / f"s{i}.npy", volume()[:, :, i])
    os.mkfifo(folder / "s9.npy")
    refused(run("--volume", folder, "--acceleration", 2), "volume")
    os.mkfifo(tmp_path / "g.json")
    sinogram = saved(tmp_path, volume((2, 5, 9)), "s.npy")
    refused(run("--sinogram", sinogram, "--geometry", tmp_path / "g.json", task="svct"), "geometry")


@pytest.mark.parametrize("zooms", [(0.1, 0.1, 100.0), (1.0, 1.0, 1e5), (100.0, 100.0, 0.1)])
def test_pictures_of_long_volumes_have_an_end(run, tmp_path, zooms):
    nib.save(nib.Nifti1Image(volume(), np.diag([*zooms, 1.0])), tmp_path / "a.nii")
    assert run("--volume", tmp_path / "a.nii", "--acceleration", 2) == 0
    assert (tmp_path / "out" / "preview.png").stat().st_size < 3e6


def test_numbers_that_are_no_digits_sort_slices(run, tmp_path):
    folder = tmp_path / "slices"
    folder.mkdir()
    for name in ("a1", "a²", "a10", "a٣"):
        np.save(folder / f"{name}.npy", volume((12, 10)))
    assert run("--volume", folder, "--acceleration", 2) == 0


@pytest.mark.parametrize("damage", [{"quatern_b": np.nan}, {"quatern_c": 3.0}, {"pixdim": np.nan}])
def test_a_qform_that_is_none_leaves_the_sform(tmp_path, tiny_bundles, damage):
    image = nib.Nifti1Image(volume((12, 12, 4)), np.diag([1.0, 1.0, 3.0, 1.0]))
    image.header.set_sform(image.affine, 1)
    image.header.set_qform(image.affine, 1)
    for name, value in damage.items():
        image.header[name] = value if name != "pixdim" else [value, 1, 1, 3, 0, 0, 0, 0]
    header = nib.Nifti1Header(image.header.binaryblock, check=False)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    voxels = image.get_fdata().astype("<f4").tobytes("F")
    (tmp_path / "a.nii").write_bytes(bytes(header.binaryblock) + b"\0" * 4 + voxels)
    priors = ("--primary", tiny_bundles["coronal"].folder, "--auxiliary", tiny_bundles["axial"].folder)
    measured = ("--thick", tmp_path / "a.nii", "--factor", 3, "--thick-axis", 2)
    words = ["--task", "mrzsr", *measured, "--steps", 2, "--quiet", "--no-report", "--out", tmp_path / "out", *priors]
    assert main([str(word) for word in words]) == 0
    np.testing.assert_allclose(nib.load(tmp_path / "out" / "recon.nii.gz").affine[:3, :3], np.eye(3), atol=1e-6)


def test_one_voxel_beyond_all_reason_is_refused(run, refused, tmp_path):
    data = volume()
    data[3, 3, 3] = 1e25
    refused(run("--volume", saved(tmp_path, data)), "volume")


def test_names_that_are_no_text_are_escaped(run, tmp_path):
    name = os.fsdecode(b"h\xffead\n.npy")
    assert run("--volume", saved(tmp_path, volume(), name), "--acceleration", 2) == 0
    assert "\\udcff" in (tmp_path / "out" / "run.json").read_text()
    assert in_one_line(f"a: '{name}'\x1b[2J") == "a: 'h\\udcffead\\n.npy'\\x1b[2J"


@pytest.mark.parametrize(
    "text",
    ['steps: !!int ""', 'sigma-min: !!float ""', "overwrite: !!bool x", "steps: !!timestamp x", "resume: somewhere",
     'out: "a\\0b"'],
)  # fmt: skip
def test_configurations_that_yaml_chokes_on_are_refused(capsys, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(f"task: csmri\nsteps: 2\n{text}\n" if not text.startswith("steps") else f"{text}\n")
    assert main(["--config", "run.yaml", "--quiet", "--no-report", "--task", "csmri"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("engine.run: ")
    assert "Traceback" not in said


def test_null_in_a_configuration_is_the_default(run, tmp_path):
    (tmp_path / "c.yaml").write_text("seed: ~\ndevice: ~\n")
    assert run("--volume", saved(tmp_path, volume()), "--acceleration", 2, "--config", tmp_path / "c.yaml") == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["seed"] == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("threads", 1025), ("K", "9" * 40), ("steps", 10**9), ("samples", 10**9), ("noise", "1e308"), ("snr", "1e308"),
     ("batch-size", 10**9)],
)  # fmt: skip
def test_numbers_without_measure_are_refused(run, refused, tmp_path, option, value):
    more = ("--sampler", "pc") if option == "snr" else ()
    refused(run("--volume", saved(tmp_path, volume()), f"--{option}", value, *more), option)
    assert not (tmp_path / "out").exists()


def test_abbreviations_are_no_options(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--task", "csmri", "--resum", "somewhere"])
    assert left.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def state_of(run, tmp_path, monkeypatch) -> Path:
    """A state, from a run that is interrupted."""
    import engine.sampling.ddim

    real = engine.sampling.ddim.Ddim.step

    def step(self, state):
        if state.step == 1:
            signal.raise_signal(signal.SIGINT)
        return real(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(engine.sampling.ddim.Ddim, "step", step)
        assert run("--volume", saved(tmp_path, volume()), "--acceleration", 2, "--steps", 3) == 130
    return tmp_path / "out" / STATE_FILE


def test_states_that_are_compressed_or_crafted_are_refused(run, refused, capsys, tmp_path, monkeypatch):
    path = state_of(run, tmp_path, monkeypatch)
    capsys.readouterr()
    whole = path.read_bytes()
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}

    def resumed() -> int:
        return main(["--resume", str(path.parent), "--quiet"])

    np.savez_compressed(path, **arrays)
    assert "compressed" in refused(resumed(), "resume")
    for name, value in (("x", arrays["x"][:1]), ("x", arrays["x"].astype(float)), ("residuals", np.zeros(7))):
        np.savez(path, **{**arrays, name: value})
        refused(resumed(), "resume")
    for text in ("[" * 100_000, '{"format": 1}', "\ud800".encode("utf-8", "surrogatepass").decode("latin1")):
        np.savez(path, **{**arrays, "header": np.array(text)})
        refused(resumed(), "resume")
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
    path.write_bytes(whole)
    assert resumed() == 0


@pytest.mark.parametrize("every", [0, 10])
def test_an_interruption_while_results_are_written_loses_nothing(run, tmp_path, monkeypatch, every):
    given = ("--volume", saved(tmp_path, volume()), "--acceleration", 2, "--save-every", every)
    assert run(*given, out=tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(results, "write_preview", lambda *a, **k: signal.raise_signal(signal.SIGTERM))
        assert run(*given) == 128 + signal.SIGTERM
    assert (tmp_path / "out" / STATE_FILE).is_file()
    assert main(["--resume", str(tmp_path / "out"), "--quiet", "--no-report"]) == 0
    ours, theirs = ((tmp_path / name / "recon.nii.gz").read_bytes() for name in ("out", "whole"))
    assert ours == theirs


def test_folders_that_were_made_for_nothing_are_taken_away(run, refused, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.job.saving.save", full)
    refused(run("--volume", saved(tmp_path, volume()), out=tmp_path / "a" / "b" / "c"), "out")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kept", ["Nope", "Rows", "PatientID"])
def test_tags_that_cannot_be_kept_are_refused_at_once(run, refused, tmp_path, kept):
    # A volume from .npy has no tags at all.
    given = ("--volume", saved(tmp_path, volume()), "--format", "dicom", "--keep-tags", kept)
    refused(run(*given), "keep-tags")
    assert not (tmp_path / "out").exists()


def test_a_volume_sheared_in_every_plane_is_refused(run, refused, tmp_path):
    affine = np.eye(4)
    affine[0, 1] = affine[0, 2] = affine[1, 2] = 0.3
    nib.save(nib.Nifti1Image(volume(), affine), tmp_path / "a.nii")
    assert "resample_to_output" in refused(run("--volume", tmp_path / "a.nii"), "volume")
    assert not (tmp_path / "out").exists()


def test_a_volume_too_thin_to_compare_with_is_refused_before_the_run(run, refused, tmp_path):
    said = refused(run("--volume", saved(tmp_path, volume((12, 10, 2)))), "volume")
    assert "at least 3 voxels along every axis" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["recon", "zero_filled"])
def test_a_folder_of_other_files_is_no_place_for_a_dicom_series(run, refused, tmp_path, monkeypatch, name):
    monkeypatch.setattr("engine.job.execution.solve", lambda *_, **__: pytest.fail("sampled before the refusal"))
    other = tmp_path / "out" / name / "notes.txt"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    said = refused(run("--volume", saved(tmp_path, volume()), "--format", "dicom"), "out")
    assert "notes.txt" in said
    assert other.read_text() == "mine"


def test_readers_keep_their_own_remarks(run, refused, tmp_path):
    image = nib.Nifti1Image(volume(), np.eye(4))
    content = bytearray(image.to_bytes())
    content[70:72] = (999).to_bytes(2, "little")
    (tmp_path / "a.nii").write_bytes(content)
    refused(run("--volume", tmp_path / "a.nii"), "volume")
    assert simulate(["--task", "csmri", "--volume", str(tmp_path / "a.nii"), "--out", str(tmp_path / "s.h5")]) == 2
