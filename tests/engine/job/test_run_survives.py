"""Runs that are stopped, killed or out of room: what is lost, and that they end the same."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.job import execution
from engine.job.saving import STATE_FILE, load
from engine.run import main
from tests.engine.results_of import content

ROOT = Path(__file__).resolve().parents[2]


def stopping(
    patch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT, method: str = "engine.sampling.ddim.Ddim"
) -> None:
    """Raise a signal in the middle of a step, once."""
    name, kind = method.rsplit(".", 1)
    real, fired = getattr(sys.modules[name], kind).step, []

    def step_or_signal(self, state):
        if state.step == step and not fired:
            fired.append(True)
            signal.raise_signal(number)
        return real(self, state)

    patch.setattr(f"{method}.step", step_or_signal)


@pytest.fixture
def stop_at(monkeypatch):
    return partial(stopping, monkeypatch)


SAMPLERS = {
    "ddim": ("engine.sampling.ddim.Ddim", ()),
    "ddim dps": ("engine.sampling.ddim.Ddim", ("--guidance", "dps")),
    "heun": ("engine.sampling.heun.Heun", ("--sampler", "heun", "--eta", "0.3")),
    "pc": ("engine.sampling.predictor_corrector.PredictorCorrector", ("--sampler", "pc")),
    "random turns": ("engine.sampling.ddim.Ddim", ("--K", "2.5")),
    "dds": ("engine.methods.dds.Dds", ("--method", "dds")),
    "diffusionmbir": ("engine.methods.diffusion_mbir.DiffusionMbir", ("--method", "diffusionmbir")),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_interrupted_run_goes_on_to_the_same_bytes(words, stop_at, tmp_path, capsys, sampler):
    method, options = SAMPLERS[sampler]
    assert main(words(tmp_path / "whole", "--steps", 7, *options)) == 0
    stop_at(5, method=method)
    assert main(words(tmp_path / "cut", "--steps", 7, "--save-every", 2, *options)) == 130
    assert f"stopped, saved step 5; go on with --resume {tmp_path / 'cut'}" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "cut").iterdir()] == [STATE_FILE]
    assert main(["--resume", str(tmp_path / "cut"), "--quiet", "--no-report"]) == 0
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    ours, theirs = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("cut", "whole"))
    for key in ("residuals", "settings", "plan", "task"):
        assert ours[key] == theirs[key], key
    assert ours["options"] == {**theirs["options"], "save-every": 2}


@pytest.mark.cuda
def test_an_interrupted_run_goes_on_on_a_gpu(words, stop_at, tmp_path, card):
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime lacks CUDA")
    options = ("--steps", 7, "--backend", "onnx", "--device", "cuda")
    assert main(words(tmp_path / "whole", *options)) == 0
    stop_at(5)
    assert main(words(tmp_path / "cut", *options)) == 130
    assert main(["--resume", str(tmp_path / "cut"), "--quiet", "--no-report"]) == 0
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_sigterm_saves_and_leaves(words, stop_at, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    stop_at(3, signal.SIGTERM)
    assert main(words(tmp_path / "out", "--steps", 5)) == 128 + signal.SIGTERM
    assert load(tmp_path / "out" / STATE_FILE).checkpoint.step == 3
    assert signal.getsignal(signal.SIGTERM) is before


OF_SAMPLES = ("--steps", 4, "--samples", 3, "--noise-scale", 1)


@pytest.fixture(scope="module")
def samples(words, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("samples") / "whole"
    assert main(words(out, *OF_SAMPLES)) == 0
    return content(out)


@pytest.mark.parametrize("stopped_in", [0, 1, 2])
def test_samples_go_on_where_they_were(words, samples, stop_at, tmp_path, stopped_in):
    # The sampler's step knows no samples: count those that start.
    real, starts = execution.solve, []

    def solve(*args):
        starts.append(args)
        if len(starts) == stopped_in + 1:
            stop_at(2)
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "solve", solve)
        assert main(words(tmp_path / "cut", *OF_SAMPLES)) == 130
    saved = load(tmp_path / "cut" / STATE_FILE)
    assert (saved.statistics.n, saved.checkpoint.step) == (stopped_in, 2)
    assert main(["--resume", str(tmp_path / "cut"), "--quiet", "--no-report"]) == 0
    assert content(tmp_path / "cut") == samples


def test_an_interruption_before_the_first_step_leaves_nothing(words, stop_at, tmp_path):
    stop_at(0)
    assert main(words(tmp_path / "out", "--steps", 4)) == 130
    assert list(tmp_path.iterdir()) == []


def refused(capsys, arguments: list[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0].removeprefix("engine.run: ")


@pytest.fixture(scope="module")
def cut_once(words, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cut") / "cut"
    with pytest.MonkeyPatch.context() as patch:
        stopping(patch, 3)
        assert main(words(out, "--steps", 5)) == 130
    return out


@pytest.fixture
def cut(cut_once, tmp_path) -> Path:
    """A folder with a run that was stopped at step 3 of 5."""
    return Path(shutil.copytree(cut_once, tmp_path / "cut"))


def test_an_unfinished_run_is_not_overwritten_by_accident(words, cut, capsys):
    state = (cut / STATE_FILE).read_bytes()
    line = refused(capsys, words(cut, "--steps", 6))
    assert line.startswith("out: expected a folder without an unfinished run")
    assert f"--resume {cut}" in line
    assert (cut / STATE_FILE).read_bytes() == state
    assert main(words(cut, "--steps", 6, "--overwrite")) == 0
    assert not (cut / STATE_FILE).exists()


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--eta", "0.5"), "setting eta"),
        (("--steps", "6"), "setting n_steps"),
        (("--acceleration", "3"), "measurement"),
        (("--samples", "2"), "samples"),
        (("--backend", "onnx"), "backend"),
        (("--method", "single"), "method"),
        (("--out", "elsewhere"), "out"),
        (("--overwrite",), "overwrite"),
    ],
)
def test_another_run_is_not_resumed(cut, capsys, more, named):
    state = (cut / STATE_FILE).read_bytes()
    line = refused(capsys, ["--resume", str(cut), "--quiet", *more])
    assert line.startswith(("resume: expected " + named, f"{named}: "))
    assert (cut / STATE_FILE).read_bytes() == state


def test_options_of_the_machine_may_change(cut):
    assert main(["--resume", str(cut), "--quiet", "--no-report", "--threads", "1", "--save-every", "1"]) == 0
    assert (cut / "recon.nii.gz").is_file()


def test_there_is_nothing_to_resume_in_a_finished_run(words, tmp_path, capsys):
    assert main(words(tmp_path, "--steps", 3)) == 0
    line = refused(capsys, ["--resume", str(tmp_path)])
    assert line.startswith("resume: expected a saved state")
    assert main(["--config", str(tmp_path / "run.json"), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    assert content(tmp_path / "again")["recon.nii.gz"] == content(tmp_path)["recon.nii.gz"]


def test_a_disk_without_room_is_said_before_the_run(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("engine.job.results.shutil.disk_usage", lambda path: SimpleNamespace(free=1))
    line = refused(capsys, words(tmp_path / "out", "--steps", 3))
    assert line.startswith("out: expected 32 MB free")
    assert "got 0 MB" in line
    assert list(tmp_path.iterdir()) == []


def start(arguments: list[str], limit_bytes: int | None = None) -> subprocess.Popen:
    def limited() -> None:
        # A file that grows beyond this raises OSError: Python ignores SIGXFSZ.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    return subprocess.Popen(
        [sys.executable, "-m", "engine.run", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limited if limit_bytes else None,
    )


def test_a_disk_that_fills_up_keeps_the_state(words, cut, tmp_path):
    """Room for nothing: neither states nor results can be written, and the earlier state stays."""
    state = (cut / STATE_FILE).read_bytes()
    process = start(["--resume", str(cut), "--no-report", "--save-every", "1"], limit_bytes=2048)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "could not be saved (File too large); an earlier one is kept" in errors
    assert errors.splitlines()[-1].startswith("engine.run: out: expected room and permission to write")
    assert "Traceback" not in errors
    assert [p.name for p in cut.iterdir()] == [STATE_FILE]
    assert (cut / STATE_FILE).read_bytes() == state
    assert main(["--resume", str(cut), "--quiet", "--no-report"]) == 0


def killed_until_done(words, out: Path, n_kills: int, seed: int, *options: object) -> list[float]:
    """Kill a run at random moments and resume it, so many times; return the steps it was killed at, then finish it."""
    moments, generator = [], random.Random(seed)
    arguments = words(out, "--save-every", 3, *options)
    while len(moments) < n_kills:
        process = start(arguments)
        while not (out / STATE_FILE).exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        # Resumed, the file is there from the start: wait for the imports, too.
        time.sleep(generator.uniform(0.0, 0.5) + (1.0 if moments else 0))
        process.kill()
        process.communicate()
        if not (out / STATE_FILE).exists():
            break
        # Whatever the moment, the state is whole.
        checkpoint = load(out / STATE_FILE).checkpoint
        moments.append(0 if checkpoint is None else checkpoint.step)
        arguments = ["--resume", str(out), "--quiet", "--no-report"]
    else:
        assert main(arguments) == 0
    return moments


@pytest.mark.parametrize("n_kills", [2, pytest.param(20, marks=pytest.mark.slow)], ids=["two kills", "twenty kills"])
def test_a_killed_run_goes_on_to_the_same_bytes(words, tmp_path, n_kills):
    options = ("--steps", 400 * n_kills)
    assert main(words(tmp_path / "whole", *options)) == 0
    moments = killed_until_done(words, tmp_path / "killed", n_kills, 0, *options)
    assert len(moments) == n_kills, moments
    # States only ever get on, and the kills came while there was work.
    assert moments == sorted(moments)
    assert 0 < moments[-1] < 400 * n_kills
    assert not [p for p in (tmp_path / "killed").iterdir() if p.name == STATE_FILE]
    left = {name: data for name, data in content(tmp_path / "killed").items() if not name.startswith(".part")}
    assert left == content(tmp_path / "whole")
