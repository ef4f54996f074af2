"""The command `tpdm`: one name for all command lines, from any folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

import tpdm

#: How the help of each command begins.
PROGRAMS = {
    "run": "python -m engine.run",
    "batch": "python -m engine.batch",
    "simulate": "python -m engine.simulate",
    "build": "python -m export.build_engine",
    "train": "python -m training.fit",
    "bench": "python benchmarks/latency.py",
}
NEED_TORCH = ("build", "train", "bench")


def called(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Call the installed command in a folder."""
    return subprocess.run([sys.executable, "-m", "tpdm", *words], cwd=folder, capture_output=True, text=True)


def test_the_installed_command_is_this_one():
    scripts = metadata.entry_points(group="console_scripts")
    assert {script.value for script in scripts if script.name == "tpdm"} == {"tpdm:main"}


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_names_every_command(tmp_path, word):
    done = called(tmp_path, word)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: tpdm COMMAND")
    for name, (module, what) in tpdm.COMMANDS.items():
        assert any(line.split()[:1] == [name] and what in line and module in line for line in done.stdout.splitlines())


def test_the_version_is_that_of_the_package(tmp_path):
    done = called(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"tpdm {metadata.version('tpdm-engine')}\n")


def test_without_a_command_the_usage_is_an_error(tmp_path):
    done = called(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: tpdm COMMAND")


@pytest.mark.parametrize("word", ["reconstruct", "", "--task"])
def test_an_unknown_command_is_refused_in_one_sentence(tmp_path, word):
    done = called(tmp_path, word, "--task", "csmri")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"tpdm: command: expected one of run, batch, simulate, build, train, bench, got '{word}'; see tpdm --help\n"
    )


def test_every_command_has_a_program():
    assert set(PROGRAMS) == set(tpdm.COMMANDS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_command_reaches_its_module(tmp_path, name):
    if name in NEED_TORCH and find_spec("torch") is None:
        pytest.skip("needs PyTorch, of the extra `export`")
    done = called(tmp_path, name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {PROGRAMS[name]} ")
    assert "--" in done.stdout
    assert not any(tmp_path.iterdir())


def test_a_command_passes_on_options_and_exit_codes(tmp_path):
    done = called(tmp_path, "run", "--task", "mrzsr", "--thick", "nothing.nii.gz")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("engine.run: thick: expected ")
    assert done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["bench"])
def test_what_no_installation_has_asks_for_a_checkout(tmp_path, name):
    # As installed: without the folders of the repository beside it.
    shutil.copy(tpdm.__file__, tmp_path)
    done = called(tmp_path, name, "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"tpdm: {name}: expected a checkout of the repository")
    assert done.stderr.count("\n") == 1


def test_a_benchmark_runs_as_a_script_from_anywhere(tmp_path):
    """It finds its own package, and what it measures, whatever is installed."""
    script = Path(tpdm.__file__).parent / "benchmarks" / "latency.py"
    done = subprocess.run([sys.executable, str(script), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python benchmarks/latency.py ")


def test_a_missing_extra_is_said(tmp_path):
    # None in its place: as if it were not installed.
    program = "import sys; sys.modules['torch'] = None; import tpdm; sys.exit(tpdm.main(['train', '--help']))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tpdm: train: expected torch, which it needs, got none;")
    assert done.stderr.count("\n") == 1


def test_defects_keep_their_traceback(monkeypatch):
    monkeypatch.setitem(tpdm.COMMANDS, "run", ("engine.no_such_module", ""))
    with pytest.raises(ModuleNotFoundError):
        tpdm.main(["run"])
