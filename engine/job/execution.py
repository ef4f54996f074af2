"""One run from its checked job to its results, for the command line and for a study's workers."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.cli import Stopped, writing_to
from engine.errors import InputError, in_one_line
from engine.job import results
from engine.job.configuration import options_of
from engine.job.job import Job
from engine.job.progress import Progress
from engine.job.saving import STATE_FILE, Saved, Saver, check_identity
from engine.job.statistics import Statistics
from engine.methods import METHODS, solve
from engine.parallel.communicator import Communicator, PartnerLost, SerialCommunicator
from engine.sampling.sampler import State
from kernels.arrays import to_numpy


def begin(args: argparse.Namespace, job: Job, out: Path, saved: Saved | None, comm: Communicator) -> Saved:
    """Where the run starts, having checked that it may, and that the folder can be written.

    Parameters
    ----------
    args, job, out, comm
        As for `execute`.
    saved : Saved or None
        The state to go on from.

    Raises
    ------
    InputError
        A folder without permission or room, or a state of another run.
    """
    if comm.is_root:
        results.open_folder(out)
    if saved is not None:
        check_identity(saved.identity, job.identity)
    elif comm.is_root and (out / STATE_FILE).exists() and not args.overwrite:
        raise InputError(
            "out",
            "a folder without an unfinished run",
            f"{STATE_FILE} in '{out}'",
            f"go on with --resume {out}, or start anew with --overwrite",
        )
    if comm.is_root:
        results.check_room(out, job, args.save_every > 0)
    return saved or Saved(options_of(args), job.identity, Statistics())


def execute(
    job: Job,
    args: argparse.Namespace,
    out: Path,
    saved: Saved,
    progress: Progress,
    warnings: Sequence[str] = (),
    comm: Communicator | None = None,
    signal_of: Callable[[], int] = lambda: 0,
) -> dict[str, Any]:
    """Sample, then write what a run leaves.

    Parameters
    ----------
    job : Job
    args : Namespace
        What the command line says of results, saves and previews.
    out : Path
        A folder that can be written.
    saved : Saved
        Where to start.
    progress : Progress
        Inside its context.
    warnings : sequence of str
        Grows with what the run complains about.
    comm : Communicator, optional
        Processes that all make this call.
    signal_of : function
        Which signal came and was put off, 0 for none: a team stops after the same step.

    Returns
    -------
    dict
        The metrics as written; empty without a truth, and on all ranks but the root.

    Raises
    ------
    KeyboardInterrupt
        Interrupted, and saved.
    PartnerLost
        The message names the rank and the last saved state.
    """
    comm = comm or SerialCommunicator()
    has_steps = METHODS[job.method].n_priors != 0
    saver = Saver(out / STATE_FILE, saved, args.save_every if has_steps else 0, job.decomposition)

    def after_step(state: State, sigma: float) -> None:
        saver.after_step(state, sigma)
        progress.after_step(state, sigma)
        if args.preview_every and state.step % args.preview_every == 0:
            x = state.x.gathered()
            if comm.is_root:
                results.write_meanwhile(out, job, to_numpy(x))
        if comm.size > 1 and (number := int(comm.largest(signal_of()))):
            raise Stopped(number)

    def writing(do: Callable[[], None]) -> None:
        with writing_to(out):
            do()

    def save_and_say() -> None:
        position = saver.interrupt() if has_steps else None
        if position:
            progress.say("saved", {"position": position, "path": str(saver.path)})
            said = f"engine.run: stopped, saved {position}; go on with --resume {out}"
            print(in_one_line(said), file=sys.stderr)

    statistics, checkpoint, result = saved.statistics, saved.checkpoint, None
    try:
        comm.agreed(lambda: writing(saver.start))
        while result is None or statistics.n < job.n_samples:
            settings = replace(job.settings, seed=job.settings.seed + statistics.n)
            result = solve(job.method, job.problem, job.priors, settings, after_step, checkpoint, job.decomposition)
            checkpoint = None
            if comm.is_root:
                statistics = statistics.with_sample(result.volume, result.seconds)
            else:
                statistics = Statistics(statistics.n + 1)
            if job.n_samples > 1:
                progress.say("sample", {"number": statistics.n})
                if statistics.n < job.n_samples:
                    saver.after_sample(statistics)
    except KeyboardInterrupt:
        save_and_say()
        raise
    except PartnerLost as lost:
        kept = f"{saver.position} is saved: go on with --resume {out}" if saver.position else "no step was saved"
        raise PartnerLost(f"{lost} ended before its work was done; {kept}") from lost
    if not comm.is_root:
        return {}
    try:
        metrics = results.write_results(
            *(out, job, result, statistics, saved.options, args.format, args.keep_tags, not args.no_report),
            warnings=warnings,
        )
    except KeyboardInterrupt:
        # All steps are done: going on is writing.
        save_and_say()
        raise
    saver.finish()
    progress.say("end", {"out": str(out), "metrics": metrics, "seconds": round(statistics.seconds, 3)})
    return metrics


@contextmanager
def complaints() -> Iterator[list[str]]:
    """The warnings of a run, for its report."""
    handler = _Complaints(logging.WARNING)
    logging.getLogger("engine").addHandler(handler)
    try:
        yield handler.messages
    finally:
        logging.getLogger("engine").removeHandler(handler)


class _Complaints(logging.Handler):
    """Keeps warnings for the report."""

    def __init__(self, level: int):
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, entry: logging.LogRecord) -> None:
        self.messages.append(entry.getMessage())
