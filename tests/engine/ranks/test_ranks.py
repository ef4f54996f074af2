"""Who belongs to a run, and how its processes agree."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from engine.errors import InputError
from engine.parallel import communicator as ranks
from engine.parallel.communicator import SerialCommunicator, connect, launched_size


@pytest.mark.parametrize(
    ("environment", "size"),
    [
        ({}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "3"}, 3),
        ({"PMI_SIZE": "8"}, 8),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "16"}, 16),
        # A batch script, and a shell inside an allocation.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16"}, 1),
        ({"SLURM_STEP_NUM_TASKS": "16"}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "many"}, 1),
    ],
)
def test_launchers_say_how_many(environment, size):
    assert launched_size(environment) == size


def test_without_a_launcher_a_process_is_alone(monkeypatch):
    monkeypatch.setattr(ranks, "launched_size", lambda: 1)
    comm = connect()
    assert isinstance(comm, SerialCommunicator)
    assert comm.is_root
    assert comm.everyones("a") == ["a"]
    assert comm.of_root("a") == "a"
    assert comm.largest(3.5) == 3.5
    assert comm.n_threads >= 1
    with pytest.raises(SystemExit):
        comm.abort(3)


def test_alone_an_error_is_its_own():
    with pytest.raises(InputError, match=r"^steps: expected"):
        SerialCommunicator().agreed(lambda: (_ for _ in ()).throw(InputError("steps", "1", "0", "choose more")))
    assert SerialCommunicator().agreed(lambda: 5) == 5


class Several(ranks.Communicator):
    """A team in which the others say what they are told."""

    size = 3

    def __init__(self, others):
        self.others = others

    def everyones(self, value):
        return [value, *self.others]

    def of_root(self, value):
        return value

    def largest(self, number):
        return number

    def abort(self, code):
        raise SystemExit(code)


def refuse():
    raise InputError("volume", "a file", "none", "check the path")


def test_what_one_rank_refuses_all_refuse():
    complaint = InputError("volume", "a file", "none", "check the path")
    with pytest.raises(InputError) as caught:
        Several([None, complaint]).agreed(lambda: 5)
    assert str(caught.value) == f"{complaint} (rank 2 of 3)"
    with pytest.raises(InputError) as caught:
        Several([complaint, complaint]).agreed(refuse)
    assert str(caught.value) == str(complaint)
    with pytest.raises(InputError, match=r"^file: expected one .* \(rank 0 of 3\)$"):
        Several([None, None]).agreed(lambda: open("/nonexistent/file"))
    assert Several([None, None]).agreed(lambda: 5) == 5


def test_several_processes_without_mpi4py_are_refused(monkeypatch):
    monkeypatch.setattr(ranks, "launched_size", lambda: 4)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(InputError, match=r"^ranks: expected mpi4py to connect 4 processes, got none; `pip install"):
        connect()


def test_a_launcher_of_another_library_is_refused(monkeypatch):
    """Otherwise every process would reconstruct the whole volume, and write to the same folder."""
    pytest.importorskip("mpi4py")
    code = "import sys; from engine.run import main; sys.exit(main(['--task', 'csmri', '--dry-run']))"
    environment = {**os.environ, "OMPI_COMM_WORLD_SIZE": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("engine.run: ranks: expected 2 processes, as the launcher says, got 1 from ")


def test_processes_that_ended_are_seen():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert ranks._lives(child.pid)
        child.kill()
        # Not waited for: a zombie.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not ranks._lives(child.pid)
    finally:
        child.wait()
    assert not ranks._lives(child.pid)
