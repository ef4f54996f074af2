"""What a run tells while it works: lines of JSON, nothing at all, and a picture."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.job import results
from engine.job.progress import Bar, Lines, Silent, progress_of
from engine.parallel.stack import Stack
from engine.run import main
from engine.sampling.sampler import State
from engine.volume import Plane

SIDE = 16
X = Stack(np.zeros((1, 1, 1), np.float32), Plane((0, 1, 2)), (1, 1, 1))
STEPS = 3
FIELDS = {
    "plan": {"lines"},
    "start": {"task", "method", "shape", "n_steps", "n_samples", "out"},
    "step": {"step", "sigma", "residual"},
    "sample": {"number"},
    "saved": {"position", "path"},
    "end": {"out", "metrics", "seconds"},
    "error": {"message", "code"},
}


@pytest.fixture
def words(tiny_bundles, tmp_path):
    """A command line on a small volume; later options win over earlier ones."""
    x = np.linspace(-1, 1, SIDE)
    volume = np.exp(-3 * (x[:, None, None] ** 2 + x[:, None] ** 2 + 2 * x**2)).astype(np.float32)
    np.save(tmp_path / "head.npy", volume)

    def build(*more: object) -> list[str]:
        priors = ("--primary", tiny_bundles["axial"].folder, "--auxiliary", tiny_bundles["coronal"].folder)
        fixed = ("--task", "csmri", "--acceleration", 2, "--volume", tmp_path / "head.npy", "--no-report")
        return [str(word) for word in (*fixed, *priors, "--steps", STEPS, "--out", tmp_path / "out", *more)]

    return build


def no_number(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def events(text: str) -> list[dict]:
    """Every line, as strict JSON, of known events with their fields."""
    assert text.endswith("\n")
    found = [json.loads(line, parse_constant=no_number) for line in text.splitlines()]
    for event in found:
        assert event.keys() - {"event"} == FIELDS[event["event"]]
    return found


def test_lines_tell_a_run_and_nothing_else(words, tmp_path, capsys):
    assert main(words("--progress", "lines")) == 0
    printed = capsys.readouterr()
    start, *steps, end = events(printed.out)
    assert printed.err == ""
    assert start == {"event": "start", "task": "csmri", "method": "tpdm", "shape": [SIDE] * 3, "n_steps": STEPS,
                     "n_samples": 1, "out": str(tmp_path / "out")}  # fmt: skip
    assert [(step["event"], step["step"]) for step in steps] == [("step", n) for n in range(1, STEPS + 1)]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [step["residual"] for step in steps] == record["residuals"]
    assert all(a["sigma"] > b["sigma"] > 0 for a, b in pairwise(steps))
    assert end["event"] == "end"
    assert end["metrics"] == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert end["seconds"] > 0


def test_lines_count_samples(words, capsys):
    assert main(words("--progress", "lines", "--samples", 2, "--noise-scale", 1)) == 0
    found = events(capsys.readouterr().out)
    assert [e.get("step", e.get("number", e["event"])) for e in found] == ["start", 1, 2, 3, 1, 1, 2, 3, 2, "end"]
    assert found[0]["n_samples"] == 2


def test_lines_without_a_measurement_have_no_residual(words, capsys):
    given = words("--progress", "lines", "--task", "uncond")
    for option in ("--acceleration", "--volume"):
        del given[given.index(option) : given.index(option) + 2]
    assert main(given) == 0
    *steps, end = events(capsys.readouterr().out)[1:]
    assert all(step["residual"] is None for step in steps)
    assert end["metrics"] == {}


def test_lines_of_a_method_without_steps(words, capsys):
    given = words("--progress", "lines", "--method", "classical")
    del given[given.index("--steps") : given.index("--steps") + 2]
    assert main(given) == 0
    start, end = events(capsys.readouterr().out)
    assert (start["event"], start["n_steps"], end["event"]) == ("start", 0, "end")


def test_lines_show_the_plan_of_a_dry_run(words, tmp_path, capsys):
    assert main(words("--progress", "lines", "--dry-run")) == 0
    (plan,) = events(capsys.readouterr().out)
    assert plan["event"] == "plan"
    assert plan["lines"][0].startswith("task       csmri, acceleration 2")
    assert not (tmp_path / "out").exists()


def test_without_progress_the_plan_and_the_summary_are_left(words, capsys):
    assert main(words("--progress", "none")) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith("task       csmri")
    assert "results in" in printed.out


def test_lines_tell_a_refusal(words, capsys):
    assert main(words("--progress", "lines", "--samples", 0)) == 2
    printed = capsys.readouterr()
    (error,) = events(printed.out)
    assert (error["event"], error["code"]) == ("error", 2)
    assert error["message"].startswith("samples: expected 1 to 10000, got 0;")
    assert printed.err == f"engine.run: {error['message']}\n"


def test_lines_tell_where_an_interrupted_run_was_saved(words, tmp_path, capsys, monkeypatch):
    written = results.write_meanwhile

    def interrupted(*arguments: object) -> None:
        written(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "write_meanwhile", interrupted)
    assert main(words("--progress", "lines", "--preview-every", 2)) == 130
    printed = capsys.readouterr()
    *_, last, saved = events(printed.out)
    assert last["step"] == 2
    assert saved == {"event": "saved", "position": "step 2", "path": str(tmp_path / "out" / "state.npz")}
    assert Path(saved["path"]).is_file()
    assert "--resume" in printed.err


def test_warnings_do_not_mix_with_lines(words, capsys):
    # Samples at a noise scale below 1 are warned of.
    assert main(words("--progress", "lines", "--samples", 2)) == 0
    events(capsys.readouterr().out)


@pytest.mark.parametrize("more", [("--progress", "lines"), ("--samples", 2)])
def test_quiet_says_nothing(words, capsys, more):
    assert main(words("--quiet", *more)) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_quiet_still_says_what_is_wrong(words, capsys):
    assert main(words("--quiet", "--samples", 0)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("engine.run: samples: expected 1 to 10000")


def test_a_bar_counts_steps_on_standard_error(words, capsys):
    assert main(words()) == 0
    printed = capsys.readouterr()
    assert f"{STEPS}/{STEPS}" in printed.err
    assert "residual" in printed.err
    # The plan before, the metrics after.
    assert printed.out.startswith("task ")
    assert "PSNR" in printed.out


@pytest.mark.parametrize(("every", "shown"), [(1, [1, 2, 3]), (2, [2]), (0, [])])
def test_the_picture_is_there_while_the_run_works(words, tmp_path, monkeypatch, every, shown):
    written, found = results.write_meanwhile, []
    picture = tmp_path / "out" / "preview.png"

    def watched(out: Path, job: object, x: np.ndarray) -> None:
        written(out, job, x)
        with Image.open(picture) as image:
            found.append(np.asarray(image.convert("L")))
        # No result yet, and no file that is half written.
        assert {path.name for path in out.iterdir()} == {"preview.png", "state.npz"}

    monkeypatch.setattr(results, "write_meanwhile", watched)
    assert main(words("--quiet", "--preview-every", every)) == 0
    assert len(found) == len(shown)
    assert all(image.std() > 0 for image in found)
    if len(found) > 1:
        assert not all(np.array_equal(found[0], image) for image in found[1:])
    with Image.open(picture) as image:
        # Truth, zero-filled, result and error: wider than the state alone.
        assert all(image.width > 2 * state.shape[1] for state in found)


def test_a_preview_does_not_change_the_result(words, tmp_path):
    assert main(words("--quiet")) == 0
    assert main(words("--quiet", "--preview-every", 1, "--out", tmp_path / "watched")) == 0
    for name in ("recon.nii.gz", "preview.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "watched" / name).read_bytes()


def test_a_name_gives_its_kind():
    for kind, n_steps, expected in (("lines", 5, Lines), ("bar", 5, Bar), ("bar", 0, Silent), ("none", 5, Silent)):
        with progress_of(kind, n_steps, 0) as progress:
            assert type(progress) is expected


def test_a_resumed_bar_starts_where_the_run_does(capsys):
    with progress_of("bar", 7, 4) as progress:
        progress.after_step(State(X, 5, None), 0.5)
    assert "4/7" in capsys.readouterr().err


def test_lines_are_written_at_once(monkeypatch):
    """A machine that waits for a line gets it, though standard output is no terminal."""
    flushed = []
    monkeypatch.setattr("builtins.print", lambda text, flush=False: flushed.append((text, flush)))
    residual = np.float32(0.25)
    Lines().after_step(State(X, 3, residual), 0.5)
    assert flushed == [('{"event": "step", "step": 3, "sigma": 0.5, "residual": 0.25}', True)]
