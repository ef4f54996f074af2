"""The command line of studies: what it leaves, what it skips, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.batch import main
from tests.engine.study.conftest import ROOT, content

STEPS = ("--steps", 4)


@pytest.fixture
def words(cluster, options):
    """A command line on the running cluster; later options win over earlier ones."""

    def build(inputs: object, out: Path, *more: object) -> list[str]:
        fixed = ("--inputs", inputs, "--as", "volume", "--out", out, "--ray", cluster.address, "--quiet")
        return [str(word) for word in (*fixed, *options, *STEPS, *more)]

    return build


@pytest.fixture(scope="module")
def finished_once(cluster, inputs, options, tmp_path_factory) -> tuple[Path, Path]:
    study, out = inputs(2), tmp_path_factory.mktemp("finished") / "out"
    given = ("--inputs", study / "*.npy", "--as", "volume", "--out", out, "--ray", cluster.address, "--quiet")
    assert main([str(word) for word in (*given, *options, *STEPS)]) == 0
    return study, out


@pytest.fixture
def finished(finished_once, tmp_path) -> tuple[Path, Path]:
    """Two volumes, to be read alone, and the folder of their study, which is done."""
    study, out = finished_once
    return study, Path(shutil.copytree(out, tmp_path / "out"))


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "study.csv").open(newline="") as stream:
        return {Path(row["input"]).stem: row for row in csv.DictReader(stream)}


def refused(capsys, arguments: list[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err.removeprefix("engine.batch: ").rstrip("\n")


def test_a_damaged_volume_has_its_sentence_and_the_others_are_done(words, inputs, single, tmp_path, capsys):
    study, out = inputs(2), tmp_path / "out"
    (study / "damaged.npy").write_bytes(b"nothing")
    assert main(words(study / "*.npy", out)) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("engine.batch: 1 of 3 volumes failed; see ")
    rows = rows_of(out)
    assert list(rows) == ["damaged", "head00", "head01"]
    assert rows["damaged"]["status"] == "failed"
    assert rows["damaged"]["message"].startswith("volume: expected ")
    assert not (out / "damaged").exists()
    for name in ("head00", "head01"):
        expected = single(study / f"{name}.npy", *STEPS)
        assert content(out / name) == expected
        metrics, row = json.loads(expected["metrics.json"]), rows[name]
        for prefix, of in (("", "reconstruction"), ("classical_", "zero_filled")):
            assert float(row[f"{prefix}psnr_db"]) == metrics[of]["psnr_db"]
            for plane in ("axial", "coronal", "sagittal"):
                assert float(row[f"{prefix}psnr_db_{plane}"]) == metrics[of][plane]["psnr_db"]
                assert float(row[f"{prefix}ssim_{plane}"]) == metrics[of][plane]["ssim"]
        assert (row["status"], row["attempts"], row["seed"]) == ("done", "1", "0")
        assert float(row["seconds"]) > 0
        assert 0 < float(row["peak_memory_mb"]) < 4096


def test_a_second_call_does_what_is_left(words, finished):
    study, out = finished
    before, rows = content(out / "head00"), rows_of(out)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.parent != out}
    # Beside the study, for its own volumes are shared.
    other = study.with_name(f"{study.name}~more") / "head02.npy"
    other.parent.mkdir()
    np.save(other, np.load(study / "head00.npy")[::-1].copy())
    both = [*words(study / "*.npy", out)]
    both[1:2] = [both[1], str(other)]
    assert main(both) == 0
    assert content(out / "head00") == before
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in written.items())
    again = rows_of(out)
    assert list(again) == ["head00", "head01", "head02"]
    assert {name: again[name] for name in rows} == rows
    # A third one has nothing to do, and asks no cluster.
    assert main([*both, "--ray", "127.0.0.1:1"]) == 0
    assert rows_of(out) == again


def test_options_of_the_machine_may_change(words, finished):
    study, out = finished
    assert main(words(study / "*.npy", out, "--threads", 2, "--save-every", 1, "--ray", "127.0.0.1:1")) == 0


def test_a_changed_option_is_refused_until_all_starts_anew(words, finished, single, capsys):
    more, (study, out) = ("--steps", 5), finished
    before = content(out / "head01")
    line = refused(capsys, words(study / "*.npy", out, *more))
    assert line.startswith(f"steps: expected 4, as in '{out / 'head00'}', got 5; ")
    assert line.endswith("start anew with --overwrite")
    assert refused(capsys, words(study / "*.npy", out, "--seed", 1)).startswith("seed: expected none, as in '")
    assert content(out / "head01") == before
    assert main(words(study / "*.npy", out, *more, "--overwrite")) == 0
    assert content(out / "head01") == single(study / "head01.npy", *STEPS, *more)


def test_an_unfinished_volume_of_other_options_is_refused(words, finished, capsys):
    study, out = finished
    # What a killed run leaves: its state.
    options = json.loads((out / "head00" / "run.json").read_text())["options"]
    header = json.dumps({"options": options})
    (out / "head00" / "run.json").unlink()
    np.savez(out / "head00" / "state.npz", header=np.array(header))
    assert refused(capsys, words(study / "*.npy", out, "--steps", 5)).startswith("steps: expected 4, as in '")
    # The same options, but the state is damaged: its row says so, and nothing is lost.
    assert main(words(study / "*.npy", out)) == 1
    assert rows_of(out)["head00"]["message"].startswith("resume: expected an intact state")
    assert (out / "head00" / "state.npz").exists()


def test_an_input_that_changed_is_not_taken_for_done(words, inputs, tmp_path):
    study, out = inputs(2), tmp_path / "out"
    assert main(words(study / "*.npy", out)) == 0
    later = (out / "head00" / "run.json").stat().st_mtime + 5
    # One is only touched, the other is another volume.
    os.utime(study / "head00.npy", (later, later))
    np.save(study / "head01.npy", np.load(study / "head01.npy")[::-1].copy())
    os.utime(study / "head01.npy", (later, later))
    assert main(words(study / "*.npy", out)) == 1
    rows = rows_of(out)
    assert rows["head00"]["status"] == "done"
    assert rows["head01"]["status"] == "failed"
    assert rows["head01"]["message"].startswith("volume: expected ")
    assert rows["head01"]["message"].endswith("start anew with --overwrite")


def test_an_engine_that_changed_is_refused(words, finished, tmp_path, capsys):
    study, out = finished
    plain = words(study / "*.npy", out)
    engine = tmp_path / "engine"
    shutil.copytree(plain[plain.index("--primary") + 1], engine)
    manifest = json.loads((engine / "manifest.json").read_text())
    manifest["files"]["weights.bin"] = "0" * 64
    (engine / "manifest.json").write_text(json.dumps(manifest))
    for folder in ("head00", "head01"):
        record = json.loads((out / folder / "run.json").read_text())
        record["options"]["primary"] = record["priors"]["primary"]["folder"] = str(engine)
        (out / folder / "run.json").write_text(json.dumps(record))
    assert refused(capsys, [*plain, "--primary", str(engine)]).startswith("primary: expected the engine '")


def test_a_measurement_names_its_task(inputs, options, cluster, tmp_path):
    study, out = tmp_path / "in", tmp_path / "out"
    study.mkdir()
    np.save(study / "thick.npy", np.load(inputs(1) / "head00.npy")[:, ::4])
    priors = options[options.index("--no-report") :]
    given = ("--inputs", study / "thick.npy", "--as", "thick", "--out", out, "--ray", cluster.address, "--quiet")
    assert main([*map(str, given), *priors, "--factor", "4", "--thick-axis", "1", "--steps", "3"]) == 0
    (row,) = rows_of(out).values()
    # No truth, no figures.
    assert (row["status"], row["psnr_db"], row["classical_ssim_axial"]) == ("done", "", "")


def test_a_dry_run_shows_the_plan_and_leaves_nothing(words, inputs, tmp_path, capsys):
    arguments = words(inputs(3) / "*.npy", tmp_path / "out", "--dry-run")
    capsys.readouterr()
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("task       csmri")
    assert out.endswith("study      3 volumes, 0 of them done; 2 workers\n")
    assert list(tmp_path.iterdir()) == []


def without_cluster(inputs: object, out: Path, *more: object) -> list[str]:
    """Whose refusal has to come before any cluster is asked: nobody listens there."""
    fixed = ("--inputs", inputs, "--as", "volume", "--out", out, "--ray", "127.0.0.1:1", "--task", "csmri")
    return [str(word) for word in (*fixed, *more)]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("--frobnicate", 3), "options: expected those of this command or of `tpdm run`, got others (unrecogn"),
        (("--steps", "many"), "options: expected those of this command or of `tpdm run`, got others (argument --steps"),
        (("--resume", "x"), "resume: expected none, for a study goes on by itself"),
        (("--volume", "x.npy"), "volume: expected none beside --inputs, got x.npy"),
        (("--steps", "a\nb"), "options: expected those of this command or of `tpdm run`, got others (argument --steps"),
        (("--kspace", "k.h5"), "kspace: expected none beside --as volume, got k.h5"),
        (("--workers", 0), "workers: expected at least 1, got 0"),
        (("--retries", -1), "retries: expected at least 0, got -1"),
        (("--cpus-per-volume", 0), "cpus-per-volume: expected at least 1, got 0"),
        (("--gpus-per-volume", 2), "gpus-per-volume: expected 0 to 1, got 2.0; choose 1, for a volume"),
        (("--memory-per-volume", 0), "memory-per-volume: expected a finite number, more than 0, got 0.0"),
        (("--device", "cuda"), "gpus-per-volume: expected more than 0 for --device cuda, got 0"),
        ((), "ray: expected a running cluster that this machine is part of, got none at '127.0.0.1:1'"),
        (("--ray", "nonsense"), "ray: expected a running cluster that this machine is part of, got none at 'nons"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(inputs, tmp_path, capsys, more, line):
    assert refused(capsys, without_cluster(inputs(1) / "*.npy", tmp_path / "a" / "out", *more)).startswith(line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("--planes", "axial,sideways"), "planes: expected no bundles for single roles beside it"),
        (("--sigma-max", 1e6), "sigma-max: expected "),
        (("--primary", "nowhere"), "engine: expected an engine bundle"),
        (("--cpus-per-volume", 64), "cpus-per-volume: expected at most 2, which the largest node has, got 64"),
        (("--gpus-per-volume", 1), "gpus-per-volume: expected at most 0, which the largest node has, got 1"),
        (("--memory-per-volume", 1e6), "memory-per-volume: expected at most "),
    ],
)
def test_what_a_run_refuses_is_refused_once(words, inputs, tmp_path, capsys, more, line):
    assert refused(capsys, words(inputs(3) / "*.npy", tmp_path / "out", *more)).startswith(line)
    assert list(tmp_path.iterdir()) == []


def test_inputs_have_to_match_something(tmp_path, capsys):
    line = refused(capsys, without_cluster(tmp_path / "*.nii.gz", tmp_path / "out"))
    assert line == (
        f"inputs: expected files or folders, got nothing that matches '{tmp_path}/*.nii.gz'; check the pattern, and "
        "put it in quotes"
    )


@pytest.mark.parametrize(("names", "line"), [
    (("a.npy", "a.nii.gz"), "inputs: expected names that differ without their endings, got '"),
    (("study.csv.npy",), "inputs: expected no name like that of the study's table, got '"),
])  # fmt: skip
def test_names_that_collide_are_refused(tmp_path, capsys, names, line):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert refused(capsys, without_cluster(tmp_path / "*.*", tmp_path / "out")).startswith(line)


def test_a_file_is_no_folder_for_results(inputs, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    line = refused(capsys, without_cluster(inputs(1) / "*.npy", tmp_path / "out"))
    assert line.startswith(f"out: expected a folder that can be written, got '{tmp_path / 'out'}'")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("library", ["ray", "pyarrow"])
def test_a_missing_library_is_said(tmp_path, capsys, monkeypatch, library):
    # None in its place: as if it were not installed.
    monkeypatch.setitem(sys.modules, library, None)
    assert refused(capsys, without_cluster(tmp_path / "*.npy", tmp_path / "out")) == (
        f"batch: expected {library}, which it needs, got none; `pip install -c constraints.txt -e '.[cluster]'`"
    )


@pytest.mark.parametrize("module", ["engine.run", "tpdm", "engine.batch"])
def test_nothing_loads_ray_before_a_study_runs(module):
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module.split(".")[0] in loaded
    assert loaded.isdisjoint({"ray", "pyarrow", "pandas", "torch"})
