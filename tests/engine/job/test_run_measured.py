"""Measurements from files: the same result as where they are simulated, and geometry that is right in the world."""

from __future__ import annotations

import json
import shlex
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

import kernels
from engine import simulate
from engine.io.volumes import save_nifti
from engine.job.configuration import parse
from engine.job.parser import build_parser
from engine.job.prepare import prepare
from engine.methods import solve
from engine.run import main

#: Files by task, and options of the simulation, with a name.
MODES = {
    "thick": ("mrzsr", "thick.nii.gz", ()),
    "thick, another profile": ("mrzsr", "thick.nii.gz", ("--slice-profile", "gaussian", "--gap", 0.5, "--factor", 2)),
    "thick, another axis": ("mrzsr", "thick.npy", ("--thick-axis", 0)),
    "kspace": ("csmri", "scan.h5", ()),
    "kspace, noise": ("csmri", "scan.h5", ("--noise", 0.02)),
    "kspace, coils": ("csmri", "scan.h5", ("--coils", 3, "--acceleration", 6)),
    "kspace, sagittal": ("csmri", "scan.h5", ("--plane", "sagittal")),
    "sinogram": ("svct", "sinogram.npy", ()),
    "sinogram, noise": ("svct", "sinogram.h5", ("--noise", 0.01)),
    "cone": ("svct", "cone.npy", ("--beam", "cone", "--noise", 0.01)),
    "sinogram, TIFF": ("svct", "sinogram.tif", ("--views", 20)),
}


#: Of the volume that is simulated from.
SIDE = 32


def run(*words: object) -> None:
    assert main([str(word) for word in (*words, "--quiet", "--no-report")]) == 0


@pytest.fixture
def simulated(tmp_path, capsys, monkeypatch):
    """Write a measurement, and return the options that read it, as they are printed."""
    monkeypatch.chdir(tmp_path)
    save_nifti("head.nii.gz", head((SIDE,) * 3), np.diag([6.0, 6.0, 6.0, 1.0]))

    def write(task: str, name: str, *options: object) -> list[str]:
        words = ("--task", task, "--out", name, "--volume", "head.nii.gz", *options)
        assert simulate.main([str(word) for word in words]) == 0
        printed = shlex.split(capsys.readouterr().out.splitlines()[-1])
        assert printed[:3] == ["python", "-m", "engine.run"]
        return printed[3:]

    return write


@pytest.mark.parametrize("steps", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", MODES)
def test_a_file_gives_what_its_simulation_gives(simulated, mode, steps):
    task, name, options = MODES[mode]
    words = simulated(task, name, *options)
    # A run measures in the plane of its primary prior: state it where a simulated file says another one.
    planes = ("--planes", "sagittal,axial") if "sagittal" in mode else ()
    stated = [word for word in options if word not in ("--plane", "sagittal")]
    # Some files know no voxel sizes, by which priors are chosen.
    common = ("--steps", steps, "--prior", "head-t1-3mm")
    run("--task", task, "--out", "simulation", "--volume", "head.nii.gz", *common, *stated, *planes)
    run(*words, "--out", "file", *common)
    ours, theirs = (nib.load(f"{folder}/recon.nii.gz") for folder in ("file", "simulation"))
    assert np.abs(ours.get_fdata() - theirs.get_fdata()).max() < 1e-4 * head().max()
    if not name.endswith(".npy") or task != "mrzsr":  # .npy knows no places
        np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)
    record = json.loads(Path("file/run.json").read_text())
    assert record["volume"]["source"] == name
    assert not Path("file/metrics.json").exists()


def test_several_stacks_become_one_volume(simulated, capsys):
    """Named one by one, and again from the record; beside what only one stack can be told."""
    thick = {axis: f"thick{axis}.nii.gz" for axis in (2, 0)}
    for axis, name in thick.items():
        simulated("mrzsr", name, "--thick-axis", axis)
    words = ["--task", "mrzsr", *(word for name in thick.values() for word in ("--thick", name)), "--align", "header"]
    common = ("--steps", 3, "--prior", "head-t1-3mm")
    run(*words, *common, "--out", "stacks")
    volume, record = nib.load("stacks/recon.nii.gz"), json.loads(Path("stacks/run.json").read_text())
    assert volume.shape == (SIDE,) * 3
    np.testing.assert_allclose(volume.affine, np.diag([6.0, 6.0, 6.0, 1.0]), atol=1e-5)
    assert record["options"]["thick"] == [str(name) for name in thick.values()]
    assert record["task"]["stacks"] == 2 and "correlation" in record["task"]["stack 2"]
    run("--config", "stacks/run.json", "--out", "again")
    np.testing.assert_array_equal(nib.load("again/recon.nii.gz").get_fdata(), volume.get_fdata())
    truth = head((SIDE,) * 3)
    cubic = nib.load("stacks/cubic.nii.gz").get_fdata()
    assert np.square(volume.get_fdata() - truth).mean() < np.square(cubic - truth).mean()
    capsys.readouterr()
    for more, sentence in [
        (("--factor", 4), "factor: expected none beside several stacks, whose headers describe them, got 4; drop it"),
        (
            ("--method", "dds"),
            "method: expected tpdm or single or tv or wavelet or classical for slices that are measured",
        ),
        (("--guidance", "dps"), "guidance: expected proximal for slices that are measured together, got dps"),
        (("--adapt", 1), "adapt: expected one stack of thick slices, got several"),
    ]:
        assert main([str(word) for word in (*words, *common, *more, "--out", "refused")]) == 2
        assert sentence in capsys.readouterr().err
        assert not Path("refused").exists()
    assert main(["--task", "mrzsr", "--thick", "thick2.nii.gz", "--align", "rigid"]) == 2
    assert "align: expected several stacks of --thick" in capsys.readouterr().err


def test_a_cone_beam_is_run(tmp_path, monkeypatch, capsys):
    """By its file alone; beside what measures slices one by one can be told."""
    monkeypatch.chdir(tmp_path)
    truth = head((SIDE,) * 3)
    angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    geometry = kernels.ConeGeometry(truth.shape, angles, 100.0, 50.0, 60, 72)
    slices = np.ascontiguousarray(truth.transpose(2, 0, 1))
    # Of voxels of 6 mm.
    np.save("cone.npy", 6 * kernels.cone_forward(slices, geometry))
    fields = {
        "beam": "cone",
        "angles_deg": {"first": 0, "last_excluded": 360, "count": 30},
        "pixel_mm": 6,
        "size": SIDE,
    }
    fields |= {"slices": SIDE, "bin_spacing_mm": 6, "source_distance_mm": 600, "detector_distance_mm": 300}
    Path("cone.json").write_text(json.dumps(fields))
    words = ("--task", "svct", "--sinogram", "cone.npy", "--geometry", "cone.json", "--white", 700)
    common = ("--steps", 3, "--prior", "head-t1-3mm")
    run(*words, *common, "--noise-level", "estimate", "--out", "default")
    run(*words, "--method", "classical", "--out", "classical")
    error = {}
    for folder, name in [("default", "recon"), ("default", "fdk"), ("classical", "recon")]:
        volume = nib.load(f"{folder}/{name}.nii.gz")
        np.testing.assert_allclose(volume.affine[:3, :3], np.diag([6.0, 6.0, 6.0]))
        error[folder, name] = np.linalg.norm(volume.get_fdata() - truth) / np.linalg.norm(truth)
    assert error["default", "fdk"] == pytest.approx(error["classical", "recon"])
    assert error["default", "recon"] < 0.7 * error["default", "fdk"] < 0.3
    record = json.loads(Path("default/run.json").read_text())
    assert (record["task"]["beam"], record["task"]["views"], record["task"]["lines"]) == ("cone", 30, 60)
    capsys.readouterr()
    for more, sentence in [
        (("--method", "dds"), "or classical for slices that are measured together, got 'dds'"),
        (("--guidance", "dps"), "guidance: expected proximal for slices that are measured together, got dps"),
    ]:
        assert main([str(word) for word in (*words, *common, *more, "--out", "refused")]) == 2
        assert sentence in capsys.readouterr().err
        assert not Path("refused").exists()


def head(shape: tuple[int, int, int] = (16, 14, 18)) -> np.ndarray:
    """An ellipsoid with a darker one inside, off the middle of every axis."""
    x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    large = (x[0] / 0.9) ** 2 + (x[1] / 0.8) ** 2 + (x[2] / 0.85) ** 2 < 1
    small = ((x[0] - 0.3) / 0.4) ** 2 + ((x[1] + 0.2) / 0.3) ** 2 + ((x[2] - 0.1) / 0.5) ** 2 < 1
    return (700.0 * large - 400.0 * small).astype(np.float32)


ORIENTATIONS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def oriented(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    affine = np.eye(4)
    turned = np.eye(3) + 0.04 * np.array([[0, 1, -2], [-1, 0, 1], [2, -1, 0]])
    affine[:3, :3] = (turned[:, order] * signs) * (1.5, 2.0, 2.5)
    affine[:3, 3] = -31.4, 15.9, 2.65
    return affine


# Readers and writers know all of them; here each order of the axes is enough, with signs that differ.
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::9])
def test_an_identity_run_returns_a_volume_as_it_lay(tiny_bundles, tmp_path, order, signs):
    data, affine = head(), oriented(order, signs)
    file = tmp_path / "head.nii.gz"
    save_nifti(file, data, affine)
    # All of k-space, without a prior: what comes out is what came in.
    run("--task", "csmri", "--acceleration", 1, "--method", "classical", "--volume", file, "--out", tmp_path / "out",
        "--primary", tiny_bundles["axial"].folder)  # fmt: skip
    found, given = nib.load(tmp_path / "out" / "recon.nii.gz"), nib.load(file)
    assert found.shape == given.shape
    np.testing.assert_array_equal(found.affine, given.affine)
    assert nib.aff2axcodes(found.affine) == nib.aff2axcodes(given.affine)
    assert np.abs(found.get_fdata() - data).max() <= 1e-6 * data.max()


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::11])
def test_thick_slices_become_thin_ones_in_the_same_place(tiny_bundles, tmp_path, order, signs):
    """5 mm slices of 1 mm pixels: factor and axis follow from the header, corners stay where they are."""
    affine = np.eye(4)
    thin = [1.0, 1.0, 1.0]
    axis = order.index(2)  # of the file, along which slices lie: from foot to head
    thin[axis] = 5.0
    affine[:3, :3] = np.eye(3)[:, order] * signs * thin
    affine[:3, 3] = 12.5, -3.0, 40.25
    shape = [16, 16, 16]
    shape[axis] = 4
    save_nifti(tmp_path / "thick.nii.gz", head(tuple(shape)), affine)
    run("--task", "mrzsr", "--thick", tmp_path / "thick.nii.gz", "--steps", 2, "--out", tmp_path / "out",
        "--primary", tiny_bundles["coronal"].folder, "--auxiliary", tiny_bundles["axial"].folder)  # fmt: skip
    found = nib.load(tmp_path / "out" / "recon.nii.gz")
    shape[axis] *= 5
    assert found.shape == tuple(shape)
    assert nib.aff2axcodes(found.affine) == nib.aff2axcodes(affine)
    np.testing.assert_allclose(nib.affines.voxel_sizes(found.affine), 1.0)
    # The outer edges of the first voxels lie together.
    corner = np.array([-0.5, -0.5, -0.5, 1.0])
    np.testing.assert_allclose(found.affine @ corner, affine @ corner, atol=1e-5)
    # Every thick slice is the mean of its thin ones: proximal guidance without noise is complete.
    blocks = np.moveaxis(found.get_fdata(), axis, 0).reshape(4, 5, 16, 16).mean(axis=1)
    thick = np.moveaxis(nib.load(tmp_path / "thick.nii.gz").get_fdata(), axis, 0)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["task"]["noise_level_source"] == "estimate"
    assert np.abs(blocks - thick).mean() < 0.2 * thick.std()


@pytest.mark.parametrize("shape", [(15, 17, 13), (9, 20, 16)])
@pytest.mark.parametrize(
    ("task", "how"), [("csmri", ("--acceleration", "2")), ("mrzsr", ("--factor", "2")), ("svct", ())]
)
def test_volumes_of_any_size_run(tiny_bundles, tmp_path, shape, task, how):
    np.save(tmp_path / "head.npy", head(shape))
    roles = ("coronal", "axial") if task == "mrzsr" else ("axial", "coronal")
    for more in ((), ("--guidance", "dps"), ("--mix", "sum")):
        words = ("--task", task, "--volume", tmp_path / "head.npy", "--steps", 2, *how, *more,
                 "--primary", tiny_bundles[roles[0]].folder, "--auxiliary", tiny_bundles[roles[1]].folder)  # fmt: skip
        job = prepare(parse(build_parser(), list(map(str, words))))
        volume = solve(job.method, job.problem, job.priors, job.settings).volume
        # Of 13 slices along the thick axis 12 are measured.
        assert volume.shape == ((*shape[:2], shape[2] // 2 * 2) if task == "mrzsr" else shape)
        assert np.isfinite(volume).all()


def test_slices_that_fill_no_block_are_left_out(tiny_bundles, tmp_path, caplog):
    save_nifti(tmp_path / "head.nii.gz", head((16, 18, 23)), oriented((1, 2, 0), (1, -1, 1)))
    words = ("--task", "mrzsr", "--volume", tmp_path / "head.nii.gz", "--factor", 4, "--method", "classical",
             "--out", tmp_path / "out", "--quiet", "--thick-axis", 0)  # fmt: skip
    assert main([*map(str, words)]) == 0
    # Axis 0 of the volume is axis 2 of the file, which has 23 slices.
    found, given = nib.load(tmp_path / "out" / "recon.nii.gz"), nib.load(tmp_path / "head.nii.gz")
    assert found.shape == (16, 18, 20)
    assert "3 of the 23 slices" in caplog.text
    assert "3 of the 23 slices" in (tmp_path / "out" / "report.html").read_text()
    np.testing.assert_allclose(found.affine[:3, :3], given.affine[:3, :3], rtol=1e-5)


def test_intensities_of_a_simulation_with_black_below_zero_are_the_runs(simulated, tmp_path):
    """CT counts from air; k-space and sinograms of it have no such zero, and say so."""
    save_nifti("head.nii.gz", head((SIDE,) * 3) * 3 - 1000, np.diag([6.0, 6.0, 6.0, 1.0]))
    for task, name, black in (("mrzsr", "thick.nii.gz", -1000), ("csmri", "scan.h5", 0), ("svct", "s.npy", 0)):
        # All of k-space, without a prior: what differs is the unit alone.
        how, common = (("--acceleration", 1) if task == "csmri" else ()), ("--method", "classical")
        words = simulated(task, name, *how)
        run("--task", task, "--out", f"{task}-volume", "--volume", "head.nii.gz", *how, *common)
        run(*[w for w in words if w != "--noise-level"][:-1], "--out", f"{task}-file", *common)
        ours, theirs = (nib.load(f"{task}-{kind}/recon.nii.gz").get_fdata() for kind in ("file", "volume"))
        assert np.abs(ours - (theirs + 1000 + black)).max() < 1e-3 * 2100, task


def test_voxels_are_resampled_on_request(tiny_bundles, tmp_path):
    save_nifti(tmp_path / "head.nii.gz", head(), oriented((1, 0, 2), (-1, 1, -1)))
    run("--task", "csmri", "--volume", tmp_path / "head.nii.gz", "--resample", 3, "--steps", 2, "--acceleration", 2,
        "--primary", tiny_bundles["axial"].folder, "--auxiliary", tiny_bundles["coronal"].folder,
        "--out", tmp_path / "out")  # fmt: skip
    found = nib.load(tmp_path / "out" / "recon.nii.gz")
    np.testing.assert_allclose(nib.affines.voxel_sizes(found.affine), 3.0, rtol=1e-6)
    assert nib.aff2axcodes(found.affine) == nib.aff2axcodes(oriented((1, 0, 2), (-1, 1, -1)))


def test_a_dicom_series_comes_back_as_a_derived_one(tiny_bundles, tmp_path):
    from engine.io.volumes.dicom import read_series
    from engine.io.volumes.dicom_write import write_series

    data, affine = head(), oriented((0, 1, 2), (-1, -1, 1))
    affine[:3, :3] = np.diag([-1.5, -2.0, 2.5])
    write_series(tmp_path / "series", data, affine)
    given = read_series(tmp_path / "series")
    words = ("--task", "csmri", "--acceleration", 1, "--method", "classical", "--volume", tmp_path / "series",
             "--primary", tiny_bundles["axial"].folder)  # fmt: skip
    run(*words, "--out", tmp_path / "out", "--format", "dicom")
    found = read_series(tmp_path / "out" / "recon")
    np.testing.assert_allclose(found.affine, given.affine, atol=1e-6)
    # 16 bits.
    assert np.abs(found.data - given.data).max() <= 1e-4 * np.ptp(given.data)
    run(*words, "--out", tmp_path / "nifti")
    nifti = nib.load(tmp_path / "nifti" / "recon.nii.gz")
    np.testing.assert_allclose(nifti.affine, given.affine, atol=1e-5)
    assert np.abs(nifti.get_fdata() - given.data).max() <= 1e-6 * np.abs(given.data).max()


@pytest.mark.parametrize(("stated", "gap", "said"), [((), 2, True), (("--gap", 0), 0, False), (("--gap", 1), 1, False)])
@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_the_gap_comes_from_the_scan_unless_it_is_stated(tiny_bundles, tmp_path, capsys, kind, stated, gap, said):
    from engine.io.volumes.dicom_write import write_series

    affine = np.diag([-1.0, -1.0, 5.0, 1.0])
    if kind == "dicom":
        scan = tmp_path / "series"
        write_series(scan, head(), affine)
        for path in scan.iterdir():
            dataset = dcmread(path)
            dataset.SliceThickness = 3
            dataset.save_as(path)
    else:
        scan = tmp_path / "scan.nii.gz"
        save_nifti(scan, head(), affine)
        (tmp_path / "scan.json").write_text(json.dumps({"SliceThickness": 3}))
    words = ("--task", "mrzsr", "--thick", scan, "--method", "classical", "--no-report", "--out", tmp_path / "out",
             "--primary", tiny_bundles["coronal"].folder, *stated)  # fmt: skip
    assert main([str(word) for word in (*words, "--dry-run")]) == 0
    origin = "DICOM" if kind == "dicom" else "scan.json"
    line = f"gap from slices 3 mm thick and 5 mm apart ({origin})"
    assert (line in capsys.readouterr().out) == said
    assert main([str(word) for word in (*words, "--quiet")]) == 0
    task = json.loads((tmp_path / "out" / "run.json").read_text())["task"]
    assert task.get("gap", 0) == gap and ("gap_from" in task) == said


def test_one_of_several_volumes_is_measured(tiny_bundles, tmp_path, capsys):
    nib.save(nib.Nifti1Image(np.stack([head(), 2 * head()], -1), np.diag([1.0, 1.0, 4.0, 1.0])), tmp_path / "a.nii")
    for option, task in (("--thick", "mrzsr"), ("--volume", "csmri")):
        words = ["--task", task, option, tmp_path / "a.nii", "--method", "classical", "--out", tmp_path / task,
                 "--primary", tiny_bundles["coronal"].folder]  # fmt: skip
        assert main([str(word) for word in words]) == 2
        assert "choose one with --frame, 0 to 1" in capsys.readouterr().err
        run(*words, "--frame", 1)
        record = json.loads((tmp_path / task / "run.json").read_text())
        assert record["volume"]["scale"] == pytest.approx(1400) and record["options"]["frame"] == 1


# --- what is refused


def test_a_frame_of_no_volume_is_refused(tmp_path, capsys):
    assert main(["--task", "csmri", "--frame", "0", "--out", str(tmp_path / "out")]) == 2
    assert "frame: expected --volume" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["--task csmri --mask x.npy", "--task csmri --config nothing.yaml", "--resume nothing"]
)
def test_files_that_are_not_there_are_refused(tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"engine.run: {words.split()[-2].removeprefix('--')}: expected ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--task", "csmri", "--out", "scan.nii"), "out"),
        (("--task", "mrzsr", "--out", "thick.h5"), "out"),
        (("--task", "svct", "--out", "s.json"), "out"),
        (("--task", "csmri", "--out", "scan.h5", "--volume", "nothing.nii"), "volume"),
        (("--task", "mrzsr", "--out", "thick.nii.gz", "--plane", "axial"), "primary"),
        (("--task", "csmri", "--out", "scan.h5", "--noise", "-1"), "noise"),
    ],
)
def test_simulations_that_cannot_be_written_are_refused(tmp_path, capsys, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    assert simulate.main(list(words)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"engine.simulate: {named}: expected ")
    assert list(tmp_path.iterdir()) == []
