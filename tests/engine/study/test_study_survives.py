"""Studies whose workers and nodes are killed, and studies that are interrupted: nothing lost, nothing twice."""

from __future__ import annotations

import csv
import hashlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.job.saving import STATE_FILE, load
from tests.engine.study.conftest import SIDE, Call, content


def step_of(folder: Path) -> int:
    """Where a run's saved state is."""
    checkpoint = load(folder / STATE_FILE).checkpoint if (folder / STATE_FILE).exists() else None
    return 0 if checkpoint is None else checkpoint.step


def until_in_the_middle(folder: Path) -> None:
    """Wait for a state after the first step of a run, which is not the last."""
    while not step_of(folder):
        assert not (folder / "run.json").exists(), "too short to be killed in the middle"
        time.sleep(0.002)


def table_of(out: Path) -> list[dict[str, str]]:
    with (out / "study.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def check_complete(running: Call, study: Path, out: Path, single: Any, *more: object) -> None:
    """Every volume ended right, none twice; the tables say so."""
    from pyarrow import parquet

    volumes = sorted(study.iterdir())
    assert running.of("end")[0]["failed"] == 0
    assert Counter(row["input"] for row in running.of("volume")) == Counter(map(str, volumes))
    rows = table_of(out)
    assert [row["input"] for row in rows] == list(map(str, volumes))
    typed = parquet.read_table(out / "study.parquet").to_pylist()
    assert [row["input"] for row in typed] == list(map(str, volumes))
    for volume, row, same in zip(volumes, rows, typed, strict=True):
        expected = single(volume, *more)
        assert content(out / volume.stem) == expected
        assert (row["status"], row["message"]) == (same["status"], same["message"]) == ("done", "")
        assert row["recon_sha256"] == same["recon_sha256"] == hashlib.sha256(expected["recon.nii.gz"]).hexdigest()
        assert float(row["residual"]) == same["residual"] == expected["run.json"]["residuals"][-1]
        attempts = [e["attempt"] for e in running.of("begin") if e["input"] == row["input"]]
        assert attempts == [*range(1, same["attempts"] + 1)]
        assert int(row["attempts"]) == same["attempts"]


def kill_in_the_middle(running: Call, out: Path, n_kills: int) -> list[int]:
    """Kill the workers of some volumes that have just begun; return the steps that were saved."""
    steps: list[int] = []
    for event in running:
        if event["event"] == "begin" and len(steps) < n_kills:
            folder = out / Path(event["input"]).stem
            until_in_the_middle(folder)
            os.kill(event["worker"], signal.SIGKILL)
            steps.append(step_of(folder))
    return steps


def test_a_worker_that_is_killed_loses_nothing(inputs, options, call, single, tmp_path):
    study, more = inputs(4), ("--steps", 250, "--save-every", 5)
    running = call(*("--inputs", study / "*.npy", "--as", "volume", "--out", tmp_path / "out"),
                   *("--ray", "local", "--workers", 2), *options, *more)  # fmt: skip
    steps = kill_in_the_middle(running, tmp_path / "out", 1)
    code, errors = running.ended()
    assert code == 0, errors
    assert len(steps) == 1
    assert 0 < steps[0] < 250
    assert [row["attempts"] for row in running.of("volume")].count(2) == 1
    assert len(running.of("retry")) == 1
    # What Ray would say of it is kept off.
    assert len(errors.splitlines()) == 1
    assert "was lost" in errors
    check_complete(running, study, tmp_path / "out", single, *more)


@pytest.mark.slow
def test_three_workers_and_a_node_that_are_killed_lose_nothing(inputs, options, call, single, tmp_path):
    from ray.cluster_utils import Cluster

    study, out, more = inputs(12), tmp_path / "out", ("--steps", 1000, "--save-every", 5)
    # The head has no room for a volume; its nodes have room for one each.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        running = call(*("--inputs", study / "*.npy", "--as", "volume", "--out", out, "--retries", 9),
                       *("--ray", cluster.address, "--workers", 2), *options, *more)  # fmt: skip
        generator, n_begun, n_killed, lost_node = random.Random(0), 0, 0, None
        for event in running:
            if event["event"] != "begin":
                continue
            n_begun += 1
            folder = out / Path(event["input"]).stem
            if n_begun in (2, 4, 7):
                until_in_the_middle(folder)
                time.sleep(generator.uniform(0, 0.5))
                os.kill(event["worker"], signal.SIGKILL)
                n_killed += 1
            elif lost_node is None and n_begun > 7:
                until_in_the_middle(folder)
                lost_node = event["node"]
                cluster.remove_node(next(n for n in nodes if n.node_id.startswith(lost_node)), allow_graceful=False)
        code, errors = running.ended()
    finally:
        cluster.shutdown()
    assert code == 0, errors
    assert n_killed == 3
    assert lost_node is not None
    assert len(running.of("retry")) == 4
    # The volumes of the lost node went on with the other one.
    last = running.of("begin")[-1]
    assert not last["node"].startswith(lost_node)
    check_complete(running, study, out, single, *more)


def test_a_volume_that_loses_all_its_workers_says_so(inputs, options, call, tmp_path):
    study, out = inputs(1), tmp_path / "out"
    running = call(*("--inputs", study / "*.npy", "--as", "volume", "--out", out, "--ray", "local", "--workers", 1),
                   *("--retries", 1), *options, "--steps", 2000, "--save-every", 5)  # fmt: skip
    assert len(kill_in_the_middle(running, out, 2)) == 2
    code, errors = running.ended()
    assert code == 1
    assert errors.splitlines()[-1] == f"engine.batch: 1 of 1 volumes failed; see {out / 'study.csv'}"
    (row,) = table_of(out)
    assert (row["status"], row["attempts"]) == ("failed", "2")
    assert row["message"].startswith("retries: expected a worker that lives until the volume is done, got 2 that did ")
    # What it did is kept.
    assert step_of(out / "head00") > 0


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_study_saves_and_goes_on(inputs, options, call, single, tmp_path, number):
    study, out, more = inputs(3), tmp_path / "out", ("--steps", 400, "--save-every", 0, "--preview-every", 150)
    # Large enough to be still at work when the signal arrives.
    x = np.linspace(-1, 1, 2 * SIDE, dtype=np.float32)
    np.save(study / "head01.npy", np.exp(-3 * (x[:, None, None] ** 2 + x[:, None] ** 2 + 2 * x**2)))
    words = ("--inputs", study / "*.npy", "--as", "volume", "--out", out, "--ray", "local", "--workers", 1, *options)
    first = call(*words, *more)
    for event in first:
        if event["event"] == "begin" and event["input"].endswith("head01.npy"):
            # In the middle, where it has no state yet.
            while not (out / "head01" / "preview.png").exists():
                time.sleep(0.002)
            # A terminal tells all processes of the group.
            os.killpg(first.pid, number) if number == signal.SIGINT else os.kill(first.pid, number)
            break
    code, errors = first.ended()
    assert code == 128 + number, errors
    assert errors.splitlines()[-1] == "engine.batch: interrupted; called again, it goes on"
    assert "Traceback" not in errors
    assert [Path(row["input"]).stem for row in table_of(out)] == ["head00"]
    assert not (out / "head02").exists()
    assert 150 <= step_of(out / "head01") < 400
    second = call(*words, *more)
    assert second.ended()[0] == 0
    assert second.of("start")[0]["done"] == 1
    assert [Path(row["input"]).stem for row in second.of("volume")] == ["head01", "head02"]
    assert content(out / "head01") == single(study / "head01.npy", *more)
    assert [row["status"] for row in table_of(out)] == ["done"] * 3
