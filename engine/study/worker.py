"""What one worker of a study does: volume after volume, with engines that stay open."""

from __future__ import annotations

import logging
import os
import socket
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.backends.engines import Engines
from engine.cli import Stopped, no_room
from engine.errors import InputError
from engine.job import results
from engine.job.configuration import options_of
from engine.job.prepare import Job, describe, prepare
from engine.job.progress import Silent
from engine.job.saving import STATE_FILE, Saved, check_identity, load
from engine.job.statistics import Statistics
from engine.parallel.communicator import SerialCommunicator
from engine.run import Complaints, check_results, execute
from engine.sampling.sampler import State
from engine.study.cluster import library
from engine.study.study import Study, Volume, record_of
from engine.study.table import DONE, FAILED, STOPPED, Value, figures_of

log = logging.getLogger("engine")


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
        self._engines = Engines()
        self._stop = _Stop()

    def place(self) -> Place:
        return Place(socket.gethostname(), library().get_runtime_context().get_node_id()[:12], os.getpid())

    def plan(self, volume: Volume) -> tuple[str, InputError | None]:
        """What would be done with a volume, or why it cannot be."""
        try:
            with self._warnings():
                job, _ = self._prepared(volume)
                return describe(job), None
        except InputError as error:
            return "", error

    def run(self, volume: Volume) -> Outcome:
        """Reconstruct a volume, to the end unless it is stopped; nothing is raised."""
        is_new = not volume.folder.exists()
        try:
            return self._run(volume)
        except KeyboardInterrupt:
            return Outcome(STOPPED)
        except InputError as error:
            return Outcome(FAILED, str(error))
        except OSError as error:
            return Outcome(FAILED, str(no_room(volume.folder, error)))
        except MemoryError:
            return Outcome(
                FAILED, "memory: expected room for the volume and its measurement, got none; have fewer --workers"
            )
        except Exception as error:
            # A defect, but what it does to one volume is no reason to lose the others.
            return Outcome(FAILED, f"{type(error).__name__}: {error}", traceback.format_exc())
        finally:
            if is_new and volume.folder.is_dir() and not any(volume.folder.iterdir()):
                volume.folder.rmdir()

    def stop(self) -> None:
        """Save the state after the current step, and take no other volume; called while another thread runs one."""
        self._stop.asked.set()

    def _run(self, volume: Volume) -> Outcome:
        self._stop.check()
        _forget_peak_memory()
        folder = volume.folder
        with self._warnings() as warnings:
            job, args = self._prepared(volume)
            if (record := record_of(folder)) is not None:
                self._check_measurement(volume, job, record)
                return Outcome(DONE, figures=figures_of(folder, record))
            results.open_folder(folder)
            for part in folder.glob(".part*"):
                # Of a worker that was killed while it wrote.
                if part.is_file():
                    part.unlink(missing_ok=True)
            saved = Saved(options_of(args), job.identity, Statistics())
            if (folder / STATE_FILE).exists():
                saved = load(folder / STATE_FILE)
                check_identity(saved.identity, job.identity)
            results.check_room(folder, job, args.save_every > 0)
            execute(job, args, folder, saved, self._stop, warnings, SerialCommunicator())
        record = record_of(folder)
        if record is None:
            raise FileNotFoundError(2, "results that vanished")
        return Outcome(DONE, figures=figures_of(folder, record))

    def _prepared(self, volume: Volume) -> tuple[Job, Any]:
        args = self._study.args_for(volume)
        if args.threads is None:
            args.threads = self._n_threads
        check_results(args)
        job = prepare(args, SerialCommunicator(), self._engines)
        results.check_format(job, args.format, args.keep_tags)
        return job, args

    def _check_measurement(self, volume: Volume, job: Job, record: dict[str, Any]) -> None:
        if job.identity["measurement"] != record["measurement_sha256"]:
            raise InputError(
                self._study.kind,
                f"'{volume.source}' with the content that it had for the results in '{volume.folder}'",
                "another",
                "move them away, or start anew with --overwrite",
            )

    @contextmanager
    def _warnings(self) -> Iterator[list[str]]:
        """What a run complains about, for its report."""
        complaints = Complaints(logging.WARNING)
        logging.getLogger("engine").addHandler(complaints)
        try:
            yield complaints.messages
        finally:
            logging.getLogger("engine").removeHandler(complaints)


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
