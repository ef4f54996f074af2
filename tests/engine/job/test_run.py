"""The command line: four problems from a file to results, and every wrong input refused in one line."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from engine.backends.engines import Engines
from engine.job.configuration import parse
from engine.job.parser import build_parser
from engine.job.prepare import prepare
from engine.methods import solve
from engine.run import main
from engine.sampling.schedule import turns

SIDE = 16
STEPS = 4
CLASSICAL = {"csmri": "zero_filled", "mrzsr": "cubic", "svct": "fbp"}
#: Settings under which a cube of 16 can be measured at all.
MEASUREMENT = {"csmri": ["--acceleration", "2"], "mrzsr": ["--factor", "4"], "svct": ["--views", "9"], "uncond": []}


def head(side: int = SIDE) -> np.ndarray:
    """Nested ellipsoids in the intensity units of some scanner."""
    axes = np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij")
    volume = np.zeros((side, side, side))
    for value, radii in ((700.0, (0.9, 0.8, 0.85)), (300.0, (0.6, 0.5, 0.7)), (-400.0, (0.2, 0.3, 0.2))):
        volume[sum((a / r) ** 2 for a, r in zip(axes, radii, strict=True)) < 1] += value
    return volume.astype(np.float32)


@pytest.fixture(scope="module")
def volume_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("volume") / "head.npy"
    np.save(file, head())
    return file


@pytest.fixture(scope="module")
def argv(tiny_bundles, volume_file):
    """Build a command line; later options win over earlier ones."""

    def build(task: str, out: Path, *more: object, steps: int = STEPS) -> list[str]:
        roles = ("coronal", "axial") if task == "mrzsr" else ("axial", "coronal")
        arguments: list[object] = ["--task", task, "--out", out, "--steps", steps, "--quiet", *MEASUREMENT[task]]
        arguments += ["--primary", tiny_bundles[roles[0]].folder, "--auxiliary", tiny_bundles[roles[1]].folder]
        if task != "uncond":
            arguments += ["--volume", volume_file]
        return [str(a) for a in (*arguments, *more)]

    return build


def voxels(folder: Path, name: str = "recon") -> np.ndarray:
    return np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj)


@pytest.fixture(scope="module", params=["csmri", "mrzsr", "svct", "uncond"])
def finished(request, argv, tmp_path_factory) -> tuple[str, Path]:
    """A task and the folder of its results."""
    task, out = request.param, tmp_path_factory.mktemp("runs") / "deeper" / request.param
    assert main(argv(task, out)) == 0
    return task, out


def test_files_of_a_run(finished):
    task, out = finished
    expected = {"recon.nii.gz", "preview.png", "report.html", "run.json"}
    if task != "uncond":
        expected |= {f"{CLASSICAL[task]}.nii.gz", "metrics.json"}
    assert {p.name for p in out.iterdir()} == expected
    assert (out / "preview.png").read_bytes().startswith(b"\x89PNG\r\n")
    recon = voxels(out)
    assert recon.shape == (SIDE, SIDE, SIDE)
    assert np.isfinite(recon).all()
    assert recon.std() > 0


@pytest.mark.parametrize("finished", CLASSICAL, indirect=True)
def test_results_are_in_the_files_own_units(finished):
    task, out = finished
    # Voxels of the classical reconstruction are of the scanner's hundreds, not of the engine's [0, 1].
    assert 50 < np.abs(voxels(out, CLASSICAL[task])).mean() < 1000
    truth = head()
    if task == "mrzsr":
        means = truth.reshape(SIDE, SIDE, 4, 4).mean(axis=3)
        # float32 at values of a thousand.
        splines = ndimage.zoom(means, (1, 1, 4), order=3, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(voxels(out, "cubic"), splines, atol=2e-3)


@pytest.mark.parametrize("finished", CLASSICAL, indirect=True)
def test_metrics_of_a_run(finished):
    task, out = finished
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {"reconstruction", CLASSICAL[task]}
    for figures in metrics.values():
        assert set(figures) >= {"psnr_db", "data_range", "axial", "coronal", "sagittal"}
        assert np.isfinite(figures["psnr_db"])
        for plane in ("axial", "coronal", "sagittal"):
            assert set(figures[plane]) >= {"psnr_db", "ssim", "n_slices"}
    truth = head()
    scale = truth.max() / metrics["reconstruction"]["data_range"]
    error = ((voxels(out).astype(np.float64) - truth) / scale) ** 2
    expected = 10 * np.log10(metrics["reconstruction"]["data_range"] ** 2 / error.mean())
    assert metrics["reconstruction"]["psnr_db"] == pytest.approx(expected, abs=1e-3)  # dB; files hold float32


def test_record_of_a_run_repeats_it(finished, argv, tmp_path):
    task, out = finished
    record = json.loads((out / "run.json").read_text())
    assert record["task"]["name"] == task
    assert record["shape"] == [SIDE, SIDE, SIDE]
    assert len(record["residuals"]) == STEPS
    settings = record["settings"]
    plan = turns(settings["K"], settings["n_steps"], settings["seed"])
    assert record["plan"] == "".join("P" if turn else "A" for turn in plan)
    assert settings["n_steps"] == STEPS
    assert record["network_evaluations"] == (2 * STEPS if task == "uncond" else STEPS)
    if task != "uncond":
        assert all(r is not None and r > 0 for r in record["residuals"])
    repeated = tmp_path / "again"
    stated = [
        *("--sampler", settings["sampler"], "--guidance", settings["guidance"], "--mix", settings["mix"]),
        *("--K", settings["K"], "--steps", settings["n_steps"], "--seed", settings["seed"]),
        *(() if settings["eta"] is None else ("--eta", settings["eta"], "--noise-scale", settings["noise_scale"])),
        *("--sigma-min", settings["sigma_min"], "--sigma-max", settings["sigma_max"]),
    ]
    assert main(argv(task, repeated, *stated, "--no-report")) == 0
    assert voxels(repeated).tobytes() == voxels(out).tobytes()
    again = json.loads((repeated / "run.json").read_text())
    for field in ("task", "shape", "volume", "settings", "plan", "priors", "residuals"):
        assert again[field] == record[field]


def test_machine_settings_do_not_change_the_result(finished, argv, tmp_path):
    task, out = finished
    assert main(argv(task, tmp_path / "other", "--batch-size", 5, "--threads", 1, "--no-report")) == 0
    ours, theirs = voxels(tmp_path / "other"), voxels(out)
    # Larger products add in another order: float32 rounding, carried through four steps.
    assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


@pytest.fixture(scope="module")
def sampled(argv):
    """The volume that some options give, without any file; each set of them runs once."""
    engines = Engines()

    @cache
    def volume(*more: str) -> np.ndarray:
        args = parse(build_parser(), argv("csmri", Path("nowhere"), *more))
        job = prepare(args, engines=engines)
        return solve(job.method, job.problem, job.priors, job.settings).volume

    yield volume
    engines.close()


_PC, _DDS, _MBIR = ("--sampler", "pc"), ("--method", "dds"), ("--method", "diffusionmbir")


@pytest.mark.parametrize(
    ("base", "more"),
    [
        ((), ("--seed", "1")),
        ((), ("--K", "3")),
        ((), ("--steps", "5")),
        ((), ("--eta", "0.5")),
        ((), ("--noise-scale", "1")),
        ((), ("--rho", "1")),
        ((), ("--mix", "sum")),
        (("--mix", "sum"), ("--alpha", "0.9")),
        ((), ("--noise", "0.05")),
        ((), ("--noise-level", "0.2")),
        (("--noise", "0.1"), ("--noise-level", "0")),
        ((), ("--guidance", "dps")),
        (("--guidance", "dps"), ("--dps-weight", "0.1")),
        (("--guidance", "dps", "--noise", "0.1"), ("--noise-level", "0")),
        ((), ("--sampler", "heun")),
        ((), _PC),
        ((), ("--sigma-max", "1")),
        (_PC, ("--group", "2")),
        (_PC, ("--snr", "0.05")),
        (_PC, ("--dps-weight", "0.01")),
        (_PC, ("--guidance", "proximal")),
        ((), _DDS),
        (_DDS, ("--steps", "5")),
        (_DDS, ("--eta", "0.2")),
        (_DDS, ("--seed", "1")),
        (_DDS, ("--sigma-max", "1")),
        (_DDS, ("--sparsity-weight", "0.1")),
        (_DDS, _MBIR),
        (_MBIR, ("--group", "2")),
        (_MBIR, ("--snr", "0.05")),
        (_MBIR, ("--sigma-min", "0.1")),
        (_MBIR, ("--sparsity-weight", "0.1")),
    ],
    ids=lambda options: " ".join(options),
)
def test_settings_of_the_method_change_the_result(sampled, base, more):
    one, other = sampled(*base), sampled(*base, *more)
    assert np.linalg.norm(one - other) > 1e-3 * np.linalg.norm(one)


def test_the_record_says_which_noise_was_expected(argv, tmp_path):
    def run(name: str, *more: str) -> dict:
        assert main(argv("csmri", tmp_path / name, "--noise", "0.05", "--no-report", *more)) == 0
        return json.loads((tmp_path / name / "run.json").read_text())["task"]

    known, stated = run("known"), run("stated", "--noise-level", "0.05")
    assert (known["noise"], known["noise_level_source"]) == (0.05, "known")
    assert stated["noise_level"] == pytest.approx(known["noise_level"])
    assert voxels(tmp_path / "stated").tobytes() == voxels(tmp_path / "known").tobytes()
    found = run("found", "--noise-level", "estimate")
    assert found["noise_level_source"] == "estimate"
    assert found["noise_level"] == pytest.approx(known["noise_level"], rel=0.2)


def test_results_replace_those_of_an_earlier_run(argv, tmp_path, capsys):
    assert main(argv("csmri", tmp_path, "--no-report")) == 0
    (tmp_path / "notes.txt").write_text("mine")
    before = voxels(tmp_path)
    assert main(argv("csmri", tmp_path, "--seed", "3", "--no-report")) == 0
    assert (voxels(tmp_path) != before).any()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert capsys.readouterr().out == ""  # --quiet


def test_default_folder_is_named_after_the_task(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = argv("uncond", tmp_path, "--no-report")
    at = arguments.index("--out")
    del arguments[at : at + 2]
    arguments.remove("--quiet")
    assert main(arguments) == 0
    assert (tmp_path / "runs" / "uncond" / "recon.nii.gz").is_file()
    assert "axial" in capsys.readouterr().out


def test_a_dry_run_shows_what_a_method_takes(argv, tmp_path, capsys):
    for method, shown in (
        ("dds", "4 steps, σ 0.3 → 0.01, seed 0\nsparsity   weight 0.5\nbackend"),
        ("diffusionmbir", "4 steps, σ 0.3 → 0.01, seed 0\nsparsity   weight 0.5\nbackend"),
    ):
        arguments = argv("csmri", tmp_path / "out", "--dry-run", "--method", method, "--sparsity-weight", "0.5")
        assert main(arguments) == 0
        assert shown in capsys.readouterr().out


@pytest.mark.parametrize("task", ["csmri", "mrzsr", "svct", "uncond"])
def test_dry_run_shows_the_plan_and_writes_nothing(argv, tmp_path, capsys, task):
    assert main(argv(task, tmp_path / "deeper" / "out", "--dry-run", steps=10)) == 0
    shown = capsys.readouterr()
    assert f"task       {task}" in shown.out
    assert f"{SIDE}×{SIDE}×{SIDE}" in shown.out
    assert f"10 steps, σ {50 if task == 'uncond' else 0.3} → 0.01" in shown.out
    assert shown.err == ""
    assert list(tmp_path.iterdir()) == []


# --- what is refused


def refused(capsys, arguments: list[str]) -> str:
    """Run with a wrong input and return the one line that it gives."""
    capsys.readouterr()
    assert main(arguments) == 2
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("engine.run: ")
    # Argument, expected, got, remedy.
    assert ": expected " in lines[0]
    assert "; " in lines[0]
    return lines[0].removeprefix("engine.run: ")


def test_a_refusal_ends_the_program_and_leaves_nothing(argv, tmp_path, capsys):
    """Before anything is opened, with all at hand, and in the operator: the cases are those of test_refusals.py."""
    for options, named in (
        (("--threads", 0), "threads"),
        (("--sigma-max", 51), "sigma-max"),
        (("--coils", 65), "coils"),
    ):
        assert refused(capsys, argv("csmri", tmp_path / "out", *options)).startswith(f"{named}: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.full((SIDE, SIDE, SIDE), np.nan, np.float32), "NaN"),
        (np.where(np.arange(SIDE**3).reshape(SIDE, SIDE, SIDE) == 7, np.inf, head()), "NaN or infinite"),
        (head()[0], "rank 3"),
        (head()[None], "rank 3"),
        (np.zeros((SIDE, SIDE, SIDE), np.float32), "varying"),
        (head().astype(np.complex64), "real"),
        (head()[:, 8:9], "at least 2 voxels"),
    ],
    ids=["nan", "inf", "2-D", "4-D", "constant", "complex", "thin"],
)
def test_volumes_that_cannot_be_used_are_refused(argv, tmp_path, capsys, content, message):
    file = tmp_path / "volume.npy"
    np.save(file, content)
    line = refused(capsys, argv("csmri", tmp_path / "out", "--volume", file))
    assert line.startswith("volume: ")
    assert message in line
    assert [p.name for p in tmp_path.iterdir()] == ["volume.npy"]


def test_slices_that_are_not_square_run_for_ct(argv, tmp_path):
    file, out = tmp_path / "volume.npy", tmp_path / "out"
    np.save(file, head()[:, :-2])
    assert main(argv("svct", out, "--volume", file, "--no-report")) == 0
    for name in ("recon", CLASSICAL["svct"]):
        assert voxels(out, name).shape == (SIDE, SIDE - 2, SIDE)
        assert np.isfinite(voxels(out, name)).all()


def test_missing_files_are_refused(argv, tmp_path, capsys):
    nothing = tmp_path / "nothing"
    assert refused(capsys, argv("csmri", tmp_path / "out", "--volume", nothing)).startswith("volume: ")
    assert refused(capsys, argv("csmri", tmp_path / "out", "--primary", nothing)).startswith("engine: ")
    assert refused(capsys, argv("csmri", tmp_path / "out", "--auxiliary", nothing)).startswith("engine: ")
    assert list(tmp_path.iterdir()) == []


def test_two_priors_of_one_plane_are_refused(argv, tmp_path, capsys, tiny_bundles):
    line = refused(capsys, argv("csmri", tmp_path / "out", "--auxiliary", tiny_bundles["axial"].folder))
    assert line.startswith("auxiliary: expected a plane perpendicular")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_does_not_know_its_plane_has_to_be_told(argv, tmp_path, capsys, tiny_bundles):
    folder = Path(shutil.copytree(tiny_bundles["axial"].folder, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "plane": None}))
    arguments = argv("uncond", tmp_path / "out", "--primary", folder, "--no-report")
    assert "--primary-plane" in refused(capsys, arguments)
    assert main([*arguments, "--primary-plane", "axial"]) == 0
    assert main(argv("uncond", tmp_path / "other", "--no-report")) == 0
    assert voxels(tmp_path / "out").tobytes() == voxels(tmp_path / "other").tobytes()


@pytest.mark.parametrize("name", ["denoise.onnx", "weights.bin", "manifest.json"])
def test_a_tampered_bundle_is_refused(argv, tmp_path, capsys, tiny_bundles, name):
    folder = Path(shutil.copytree(tiny_bundles["axial"].folder, tmp_path / "bundle"))
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 0x80
    (folder / name).write_bytes(content)
    assert refused(capsys, argv("csmri", tmp_path / "out", "--primary", folder)).startswith("engine: ")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
def test_an_output_that_cannot_be_a_folder_is_refused(argv, tmp_path, capsys, below):
    (tmp_path / "file").write_text("mine")
    assert refused(capsys, argv("csmri", tmp_path / "file" / below)).startswith("out: ")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_an_interrupt_leaves_no_empty_folder(argv, tmp_path, capsys, monkeypatch):
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.sampling.ddim.Ddim.step", interrupted)
    assert main(argv("csmri", tmp_path / "out")) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_argparse_refuses_unknown_tasks_and_words_for_numbers(argv, tmp_path, capsys):
    for more in (["--task", "deblur"], ["--K", "two"], ["--steps", "1.5"], ["--thick-axis", "3"]):
        with pytest.raises(SystemExit) as caught:
            main(argv("csmri", tmp_path / "out", *more))
        assert caught.value.code == 2
        assert more[0] in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
