"""A run says beforehand what it takes, and does not begin what nobody can have meant."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys

import pytest

from engine.job import consent, cost
from engine.job.consent import Consent, check_meant
from engine.job.cost import Cost
from engine.run import main
from tests.refusals import one_sentence

GB = 2**30
SMALL = Cost(59 * 60.0, 2 * GB, 8 * GB)


def test_what_is_quick_and_small_begins():
    check_meant(SMALL, Consent(), can_ask=False)
    check_meant(Cost(None, 2 * GB, 8 * GB), Consent(), can_ask=False)


@pytest.mark.parametrize(
    ("much", "words"),
    [(Cost(2.5 * 3600, 2 * GB, 8 * GB), "about 2.5 h"), (Cost(60.0, 9 * GB, 8 * GB), "9.0 GB of the machine's 8.0 GB")],
)
def test_what_is_long_or_large_needs_a_yes(much, words, monkeypatch):
    with one_sentence("yes", words, "--yes"):
        check_meant(much, Consent(), can_ask=False)
    check_meant(much, Consent(yes=True), can_ask=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("no\nyes\n"))
    with one_sentence("yes", "no yes"):
        check_meant(much, Consent(), can_ask=True)
    check_meant(much, Consent(), can_ask=True)


@pytest.fixture
def words(tmp_path) -> list[str]:
    return ["--task", "csmri", "--steps", "2", "--no-report", "--threads", "1", "--out", str(tmp_path / "out")]


def test_a_long_run_is_refused_where_nobody_answers(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(consent, "LONG_S", 1e-6)
    assert main([*words, "--dry-run"]) == 0
    assert "cost       about " in capsys.readouterr().out
    assert main([*words, "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("engine.run: yes: expected --yes for more than an hour")
    assert not (tmp_path / "out").exists()
    assert main([*words, "--quiet", "--yes"]) == 0


def test_a_volume_beyond_the_memory_is_not_even_tried(words, monkeypatch, capsys):
    monkeypatch.setattr(cost, "machine_bytes", lambda: 2**20)
    monkeypatch.setattr(cost, "_seconds", lambda job: pytest.fail("timed"))
    assert main([*words, "--quiet"]) == 2
    assert "0.0 GB of memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more",
    [
        ("--resample", "3", "--steps", "2"),
        pytest.param(("--resample", "2.5", "--method", "dds", "--steps", "4"), marks=pytest.mark.slow),
    ],
)
def test_memory_is_foretold(tmp_path, more):
    """In a process of its own: others have held more already."""
    words = ["--task", "csmri", *more, "--threads", "1", "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "engine.run", *map(str, words)], capture_output=True, text=True, check=True
    )
    said = float(re.search(r"cost       about .*, ([0-9.]+) GB of the machine's", done.stdout)[1])
    peak = json.loads((tmp_path / "out" / "run.json").read_text())["peak_memory_mb"] / 1024
    # Said to a tenth of a GB.
    assert 0.7 * peak - 0.05 < said < 1.3 * peak + 0.05


def test_in_words():
    assert str(Cost(30.2, GB, 2 * GB)) == "about 30 s, 1.0 GB of the machine's 2.0 GB of memory"
    assert str(Cost(600.0, GB, 2 * GB)).startswith("about 10 min")
    assert str(Cost(None, GB, 2 * GB)).startswith("time unknown")
