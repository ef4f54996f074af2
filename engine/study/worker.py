"""What one worker of a study does: volume after volume, with engines that stay open."""

from __future__ import annotations

import argparse
import os
import socket
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.backends.engines import Engines
from engine.cli import Stopped, no_memory, writing_to
from engine.errors import InputError
from engine.job.execution import checked_job, execute, started, warnings_kept
from engine.job.job import Job
from engine.job.output import new_folder
from engine.job.plan import describe
from engine.job.progress import Silent
from engine.job.saving import STATE_FILE, load
from engine.parallel.communicator import SerialCommunicator
from engine.sampling.sampler import State
from engine.study.cluster import library
from engine.study.study import Study, Volume, record_of
from engine.study.table import DONE, FAILED, STOPPED, Value, figures_of


@dataclass(frozen=True)
class Outcome:
    """How a volume ended: its status as in the table, or "stopped", why, and what was left."""

    status: str
    message: str = ""
    trace: str = ""
    figures: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a worker is; `node` is Ray's name, shortened."""

    host: str
    node: str
    process: int


class Worker:
    """Reconstructs volumes as `engine.run` does, one at a time.

    A volume goes on from the state that an earlier worker saved. Should two workers ever have the same one, because a
    node that was given up for lost still works, both write the same bytes, each file whole.

    Parameters
    ----------
    study : Study
    n_threads : int
        On a CPU, where the options name no other number.
    with_gpu : bool
        Whether one was set aside for it; else it sees none.
    """

    def __init__(self, study: Study, n_threads: int, with_gpu: bool):
        if not with_gpu:
            # Before anything looks for one: it belongs to somebody else.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._study, self._n_threads = study, n_threads
        self._engines, self._comm = Engines(), SerialCommunicator()
        self._stop = _Stop()

    def place(self) -> Place:
        return Place(socket.gethostname(), library().get_runtime_context().get_node_id()[:12], os.getpid())

    def plan(self, volume: Volume) -> tuple[str, InputError | None]:
        """What would be done with a volume, or why it cannot be."""
        try:
            job, _ = self._prepared(volume)
            return describe(job), None
        except InputError as error:
            return "", error

    def run(self, volume: Volume) -> Outcome:
        """Reconstruct a volume, to the end unless it is stopped; nothing is raised."""
        try:
            with new_folder(volume.folder), warnings_kept() as warnings, writing_to(volume.folder):
                return self._run(volume, warnings)
        except KeyboardInterrupt:
            return Outcome(STOPPED)
        except InputError as error:
            return Outcome(FAILED, str(error))
        except MemoryError:
            return Outcome(FAILED, str(no_memory()))
        except Exception as error:
            # A defect, but what it does to one volume is no reason to lose the others.
            return Outcome(FAILED, f"{type(error).__name__}: {error}", traceback.format_exc())

    def stop(self) -> None:
        """Save the state after the current step, and take no other volume; called while another thread runs one."""
        self._stop.asked.set()

    def _run(self, volume: Volume, warnings: list[str]) -> Outcome:
        self._stop.check()
        _forget_peak_memory()
        folder = volume.folder
        job, args = self._prepared(volume)
        if (record := record_of(folder)) is not None:
            self._check_measurement(volume, job, record)
            return Outcome(DONE, figures=figures_of(folder, record))
        for part in folder.glob(".part*"):
            # Of a worker that was killed while it wrote.
            if part.is_file():
                part.unlink(missing_ok=True)
        resumed = load(folder / STATE_FILE) if (folder / STATE_FILE).exists() else None
        saved = started(job, args, folder, resumed, self._comm)
        execute(job, args, folder, saved, self._stop, self._comm, warnings)
        record = record_of(folder)
        if record is None:
            raise FileNotFoundError(2, "results that vanished")
        return Outcome(DONE, figures=figures_of(folder, record))

    def _prepared(self, volume: Volume) -> tuple[Job, argparse.Namespace]:
        args = self._study.args_for(volume)
        if args.threads is None:
            args.threads = self._n_threads
        return checked_job(args, self._comm, self._engines), args

    def _check_measurement(self, volume: Volume, job: Job, record: dict[str, Any]) -> None:
        if job.identity["measurement"] != record["measurement_sha256"]:
            raise InputError(
                self._study.option,
                f"'{volume.source}' with the content that it had for the results in '{volume.folder}'",
                "another",
                "move them away, or start anew with --overwrite",
            )


class _Stop(Silent):
    """Ends a run after a step, once it is asked to."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def check(self) -> None:
        if self.asked.is_set():
            raise Stopped(2)

    def after_step(self, state: State, sigma: float) -> None:
        self.check()


def _forget_peak_memory() -> None:
    """Let the next volume have a peak of its own; where the system cannot (only Linux can), it is the worker's."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
