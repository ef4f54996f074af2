"""Small studies, and ways to call them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.run import main as run

ROOT = Path(__file__).resolve().parents[3]
SIDE = 16


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Callable[[int], Path]:
    """Folders with so many different volumes of 16³."""
    pytest.importorskip("ray", reason="studies need Ray, of the extra `cluster`")
    pytest.importorskip("pyarrow", reason="tables need pyarrow, of the extra `cluster`")
    x = np.linspace(-1, 1, SIDE)

    def folder(n: int) -> Path:
        found = tmp_path_factory.mktemp("inputs")
        for i in range(n):
            moved = x - 0.05 * i
            blob = np.exp(-3 * (moved[:, None, None] ** 2 + x[:, None] ** 2 + 2 * x**2))
            np.save(found / f"head{i:02d}.npy", blob.astype(np.float32))
        return found

    return folder


@pytest.fixture(scope="session")
def options(tiny_bundles) -> list[str]:
    """Of `engine.run`, for all volumes."""
    priors = ("--primary", tiny_bundles["axial"].folder, "--auxiliary", tiny_bundles["coronal"].folder)
    return [str(word) for word in ("--task", "csmri", "--acceleration", 2, "--no-report", *priors)]


@pytest.fixture(scope="module")
def cluster(inputs) -> Iterator[Any]:
    """A running cluster of one node with two cores."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield found
    found.shutdown()


class Call:
    """A study in a process of its own, and the events that it tells."""

    def __init__(self, *words: object):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "engine.batch", *map(str, words), "--progress", "lines"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.events: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The events as they come; what is no JSON is a defect."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.events.append(json.loads(line))
            yield self.events[-1]

    def ended(self) -> tuple[int, str]:
        """Exit code and what was said on standard error, once all events are there."""
        for _ in self:
            pass
        assert self._process.stderr is not None
        errors = self._process.stderr.read()
        return self._process.wait(), errors

    def of(self, event: str) -> list[dict[str, Any]]:
        return [details for details in self.events if details["event"] == event]


@pytest.fixture
def call() -> Iterator[Callable[..., Call]]:
    """Start a study; what a test leaves running is ended."""
    started: list[Call] = []

    def start(*words: object) -> Call:
        started.append(Call(*words))
        return started[-1]

    yield start
    for one in started:
        if one._process.poll() is None:
            one._process.kill()
            one._process.communicate()


#: What of a record depends on who made it and when.
OF_CALL = ("sampling_seconds", "peak_memory_mb", "threads")


def content(folder: Path) -> dict[str, Any]:
    """Everything that a result is, but for the times in its record."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    record = json.loads(found["run.json"])
    found["run.json"] = {key: value for key, value in record.items() if key not in OF_CALL}
    return found


@pytest.fixture(scope="session")
def single(tmp_path_factory, options) -> Callable[..., dict[str, Any]]:
    """What `engine.run` makes of one volume."""

    def content_of(volume: Path, *more: object) -> dict[str, Any]:
        out = tmp_path_factory.mktemp("single") / volume.stem
        assert run([*options, "--volume", str(volume), "--out", str(out), "--quiet", *map(str, more)]) == 0
        return content(out)

    return content_of
