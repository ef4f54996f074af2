"""Options from files, and which of them count."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from engine.job.configuration import options_of, parse, read
from engine.job.parser import build_parser


def parsed(*words: str, base=None):
    return parse(build_parser(), [*words], base)


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> str:
        file = tmp_path / "run.yaml"
        file.write_text(text)
        return str(file)

    return write


def test_a_file_stands_for_the_command_line(config):
    file = config(
        "task: svct\nviews: 9\nK: 2.0\nplanes: [coronal, axial]\nno-report: true\nout: there\nnoise-level: 0.1\n"
    )
    args = parsed("--config", file)
    same = parsed("--task", "svct", "--views", "9", "--K", "2.0", "--planes", "coronal,axial", "--no-report", "--out",
                  "there", "--noise-level", "0.1")  # fmt: skip
    ours, theirs = vars(args), vars(same)
    for name in theirs.keys() - {"config", "given"}:
        assert ours[name] == theirs[name], name
    assert isinstance(args.K, float)
    assert args.given.keys() - {"config"} == same.given.keys()


def test_the_command_line_counts_more_than_the_file_and_the_file_more_than_a_saved_run(config):
    file = config("task: csmri\nacceleration: 6\nseed: 5\n")
    args = parsed("--config", file, "--seed", "7", base={"seed": 3, "acceleration": 2, "steps": 9})
    assert (args.task, args.acceleration, args.seed, args.n_steps if hasattr(args, "n_steps") else args.steps) == (
        "csmri",
        6.0,
        7,
        9,
    )


def test_options_of_a_run_repeat_it(config, tmp_path):
    args = parsed(
        "--task", "mrzsr", "--planes", "coronal,axial", "--volume", "head.nii", "--out", "x", "--quiet", "--K", "2.0"
    )
    options = options_of(args)
    assert options == {"task": "mrzsr", "planes": "coronal,axial", "volume": "head.nii", "K": 2.0}
    record = tmp_path / "run.json"
    record.write_text(json.dumps({"options": options, "settings": {}, "residuals": [1.0]}))
    again = parsed("--config", str(record))
    assert options_of(again) == options
    assert isinstance(again.K, float)


def test_a_task_is_needed_somewhere(config, capsys):
    with pytest.raises(SystemExit):
        parsed("--config", config("seed: 1\n"))
    assert "--task" in capsys.readouterr().err


def test_help_shows_defaults(capsys):
    with pytest.raises(SystemExit) as caught:
        parsed("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "object object" not in shown
    assert "(default: 10)" in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: deblur", "expected one of csmri, mrzsr, svct, uncond for 'task', got 'deblur'"),
        ("steps: many", "expected int for 'steps', got 'many'"),
        ("steps: 1.5", "expected int for 'steps', got 1.5"),
        ("steps: [1, 2]", "expected int for 'steps'"),
        ("steps: {a: 1}", "expected one value for 'steps'"),
        ("steps: true", "expected one value for 'steps'"),
        ("quiet: 1", "expected true or false for 'quiet', got 1"),
        ("stepps: 3", "got 'stepps'.*did you mean 'steps'?"),
        ("xyzzy: 3", "got 'xyzzy'.*see --help"),
        ("config: other.yaml", "got 'config'"),
        ("help: true", "got 'help'"),
        ("- task", "expected options as keys, .* got list"),
        ("task", "expected options as keys, .* got str"),
        ("", "expected options as keys, .* got NoneType"),
        ("1: 2", "expected options as keys"),
        ("task: [", "cannot be read"),
        ("a: &a [x]\nb: *a\n", "cannot be read \\(an alias\\)"),
        ("task: !!python/object/apply:os.system ['true']", "cannot be read"),
        ("\x00", "cannot be read"),
    ],
)
def test_files_that_cannot_be_used_are_refused(config, text, message):
    with pytest.raises(InputError, match=rf"^config: .*{message}") as caught:
        parsed("--task", "csmri", "--config", config(text))
    assert "\n" not in str(caught.value)


def test_a_file_that_the_system_will_not_read_is_named_as_what_it_is(tmp_path, monkeypatch):
    def denied(self):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "run.yaml").write_text("task: csmri")
    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    with pytest.raises(InputError, match=r"^config: .*Permission denied"):
        read(tmp_path / "run.yaml")


def test_the_locale_does_not_change_what_a_file_says(tmp_path):
    (tmp_path / "run.yaml").write_text("task: csmri\nout: Köpfe\n", encoding="utf-8")
    code = (
        "from pathlib import Path; from engine.job.configuration import read;"
        "print(ascii(read(Path('run.yaml'))['out']))"
    )
    plain = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=plain, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ascii("Köpfe")


def test_a_missing_and_a_huge_file_are_refused(tmp_path):
    with pytest.raises(InputError, match="config: expected a YAML file or a run\\.json, got nothing"):
        read(tmp_path / "nothing.yaml")
    file = tmp_path / "huge.yaml"
    file.write_bytes(b"a" * (2 << 20))
    with pytest.raises(InputError, match="config: expected at most"):
        read(file)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_in_a_file_there_is_an_answer(tmp_path, content):
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    try:
        parsed("--task", "csmri", "--config", str(file))
    except InputError as error:
        assert str(error).startswith("config: ")
        assert "\n" not in str(error)
