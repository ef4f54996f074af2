"""The command line on several ranks: killed, resumed onto others, and what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from engine.job.saving import STATE_FILE, load
from engine.run import main
from tests.engine.ranks.launcher import command, environment, launched
from tests.engine.results_of import content


def started(folder: Path, n: int, words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(n, "-m", "engine.run", *words),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(file: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        # Replaced whole or not at all, so that it can be read at any time.
        if file.is_file() and (found := load(file).checkpoint) is not None and found.step >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"{file} never held step {step}")


def ranks_of(launcher: int) -> list[int]:
    """Process numbers of the ranks, the children of a launcher, in their order."""
    found = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return sorted(int(number) for number in found)


def test_several_ranks_leave_what_one_does(words, tmp_path):
    options = ("--steps", 4, "--samples", 2, "--noise-scale", 1, "--preview-every", 2)
    done = launched(tmp_path, command(3, "-m", "engine.run", *words(tmp_path / "three", *options)))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert main(words(tmp_path / "one", *options)) == 0
    assert content(tmp_path / "three") == content(tmp_path / "one")
    record = json.loads((tmp_path / "three" / "run.json").read_text())
    assert record["ranks"] == 3
    assert record["threads"] >= 1


def test_a_lost_rank_stops_the_others_and_the_run_goes_on_elsewhere(words, tmp_path):
    out = tmp_path / "out"
    process = started(tmp_path, 2, words(out, "--steps", 400, "--save-every", 2))
    try:
        wait_for_step(out / STATE_FILE, 4)
        lost = ranks_of(process.pid)[1]
        subprocess.run(["kill", "-KILL", str(lost)], check=True)
        printed, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode != 0
    assert f"(process {lost} on " in printed
    assert "ended before its work was done; step " in printed
    assert f"is saved: go on with --resume {out}" in printed
    for n in (3, 2):
        assert (out / STATE_FILE).is_file()
        resumed = ["--resume", str(out), "--quiet", "--no-report"]
        if n == 3:
            # Stop it once more, by asking.
            process = started(tmp_path, n, resumed)
            before = load(out / STATE_FILE).checkpoint.step
            wait_for_step(out / STATE_FILE, before + 4)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        else:
            done = launched(tmp_path, command(n, "-m", "engine.run", *resumed))
            assert done.returncode == 0, done.stderr
    assert main(words(tmp_path / "whole", "--steps", 400)) == 0
    assert content(out) == content(tmp_path / "whole")


def test_one_process_goes_on_where_ranks_stopped(words, tmp_path):
    out = tmp_path / "out"
    process = started(tmp_path, 2, words(out, "--steps", 400, "--save-every", 3))
    wait_for_step(out / STATE_FILE, 3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert main(["--resume", str(out), "--quiet", "--no-report"]) == 0
    assert main(words(tmp_path / "whole", "--steps", 400)) == 0
    assert content(out) == content(tmp_path / "whole")


def lines_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the program says, without what the launcher adds."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("engine.run: ")]


def test_more_ranks_than_slices_are_refused(words, tmp_path):
    file = tmp_path / "flat.npy"
    np.save(file, np.random.default_rng(0).random((16, 16, 2)).astype(np.float32))
    given = words(tmp_path / "out", "--volume", file, "--steps", 2)
    (line,) = lines_of(launched(tmp_path, command(3, "-m", "engine.run", *given)))
    assert line == "engine.run: ranks: expected at most 2, the slices of the smallest plane, got 3; start fewer"
    assert not (tmp_path / "out").exists()


def test_methods_that_couple_slices_are_refused(words, tmp_path):
    given = words(tmp_path / "out", "--method", "dds", "--steps", 2)
    (line,) = lines_of(launched(tmp_path, command(2, "-m", "engine.run", *given)))
    assert line.startswith("engine.run: method: expected tpdm or single for 2 ranks, got 'dds'")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seed", 1), "ranks: expected measurement of rank 1 as on rank 0, "),
        (("--sigma-min", 0.02), "ranks: expected setting sigma_min of rank 1 as on rank 0, 0.01, got 0.02; "),
        (("--auxiliary", "primary"), "ranks: expected prior auxiliary of rank 1 as on rank 0, "),
        (("--volume", "nothing.npy"), "volume: expected a "),
    ],
)
def test_ranks_that_disagree_are_refused(words, tiny_bundles, tmp_path, options, message):
    if options[1] == "primary":
        options = ("--auxiliary", tiny_bundles["axial"].folder, "--auxiliary-plane", "axial", "--primary",
                   tiny_bundles["coronal"].folder)  # fmt: skip
        message = "ranks: expected "
    one, other = (words(tmp_path / "out", "--steps", 2, *more) for more in ((), options))
    line = command(1, "-m", "engine.run", *one)
    both = [*line, ":", *command(1, "-m", "engine.run", *other)[1:]]
    (said,) = lines_of(launched(tmp_path, both))
    assert said.startswith(f"engine.run: {message}")
    assert not (tmp_path / "out").exists()


def test_help_and_wrong_options_are_said_once(words, tmp_path):
    done = launched(tmp_path, command(2, "-m", "engine.run", "--task", "csmri", "--steps", "x"))
    assert done.returncode == 2
    assert done.stderr.count("invalid int value") == 1
    done = launched(tmp_path, command(2, "-m", "engine.run", "--help"))
    assert done.stdout.count("usage:") == 1
