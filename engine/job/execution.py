"""One run from checked options to results, for the command line as for the workers of a study."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.backends.engines import Engines
from engine.cli import Stopped, writing_to
from engine.errors import InputError, in_one_line
from engine.job import results
from engine.job.configuration import options_of
from engine.job.consent import Consent, check_meant
from engine.job.cost import cost_of
from engine.job.job import Job
from engine.job.output import Output, check_room, open_folder
from engine.job.prepare import prepare
from engine.job.progress import Progress
from engine.job.residual_check import residual_check
from engine.job.saving import STATE_FILE, Saved, Saver, Survival, check_identity, short
from engine.job.self_check import self_check
from engine.job.statistics import Statistics
from engine.methods import solve
from engine.options import read
from engine.parallel.communicator import Communicator, PartnerLost
from engine.sampling.reconstruction import Reconstruction
from engine.sampling.sampler import State
from kernels.arrays import to_numpy


@contextmanager
def warnings_kept() -> Iterator[list[str]]:
    """Yield a list that grows with the warnings of the engine, for the report."""
    messages: list[str] = []

    class Kept(logging.Handler):
        def emit(self, entry: logging.LogRecord) -> None:
            messages.append(entry.getMessage())

    handler = Kept(logging.WARNING)
    logging.getLogger("engine").addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger("engine").removeHandler(handler)


def checked_job(args: argparse.Namespace, comm: Communicator, engines: Engines) -> Job:
    """The job of some options, with all that would fail later refused now, on all ranks alike.

    Raises
    ------
    InputError
    """
    output = comm.agreed(lambda: read(Output, args))
    comm.agreed(lambda: read(Survival, args))
    job = comm.agreed(lambda: prepare(args, comm, engines))
    _check_all_alike(job, comm)
    job = replace(job, cost=comm.agreed(lambda: cost_of(job)))
    comm.agreed(lambda: results.check_results(job, output))
    return job


def _check_all_alike(job: Job, comm: Communicator) -> None:
    """Refuse ranks that would compute parts of different volumes."""
    first, *others = comm.everyones(job.identity)
    for rank, other in enumerate(others, start=1):
        for key in {**first, **other}:
            if first.get(key) != other.get(key):
                raise InputError(
                    "ranks",
                    f"{key} of rank {rank} as on rank 0, {short(first.get(key))}",
                    f"{short(other.get(key))}",
                    "start all with the same options, and let all see the same files",
                )


def started(job: Job, args: argparse.Namespace, out: Path, resumed: Saved | None, comm: Communicator) -> Saved:
    """The state from which a run starts, in a folder that can be written.

    Raises
    ------
    InputError
        Another run's state, an unfinished run in the folder, no permission or no room.
    """
    if resumed is None and comm.is_root and job.cost is not None:
        # What goes on was meant when it began.
        check_meant(job.cost, read(Consent, args))
    if comm.is_root:
        open_folder(out)
    if resumed is not None:
        check_identity(resumed.identity, job.identity)
    elif comm.is_root and (out / STATE_FILE).exists() and not args.overwrite:
        raise InputError(
            "out",
            "a folder without an unfinished run",
            f"{STATE_FILE} in '{out}'",
            f"go on with --resume {out}, or start anew with --overwrite",
        )
    if comm.is_root:
        results.check_places(out, job, read(Output, args))
        check_room(out, job, args.save_every > 0)
    return resumed or Saved(options_of(args), job.identity, Statistics())


def execute(
    job: Job,
    args: argparse.Namespace,
    out: Path,
    saved: Saved,
    progress: Progress,
    comm: Communicator,
    warnings: Sequence[str] = (),
    signal_of: Callable[[], int] = lambda: 0,
) -> dict[str, Any]:
    """Sample, then write the results.

    Parameters
    ----------
    job : Job
    args : Namespace
        Of its options.
    out : Path
        A folder that can be written.
    saved : Saved
        From `started`.
    progress : Progress
        Inside its context.
    comm : Communicator
        Processes that all make this call.
    warnings : sequence of str
        Grows with those of the run.
    signal_of : function
        The signal that came and was put off, 0 for none: a team stops after the same step.

    Returns
    -------
    dict
        The metrics as written; empty without a truth, and on all ranks but the root.

    Raises
    ------
    InputError
        No room for results, or a result that is not finite.
    KeyboardInterrupt
        Interrupted, and saved.
    PartnerLost
        The message names the rank and the last saved state.
    """
    output, every = read(Output, args), read(Survival, args).save_every
    saver = Saver(out / STATE_FILE, saved, every if job.n_steps else 0, job.decomposition)

    def after_step(state: State, sigma: float) -> None:
        saver.after_step(state, sigma)
        progress.after_step(state, sigma)
        if output.preview_every and state.step % output.preview_every == 0:
            x = state.x.gathered()
            if comm.is_root:
                results.write_meanwhile(out, job, to_numpy(x))
        if comm.size > 1 and (number := int(comm.largest(signal_of()))):
            raise Stopped(number)

    with writing_to(out):
        try:
            # First, because its warning may be a reason to stop.
            check = self_check(job)
            result, statistics = _sampled(job, saved, saver, after_step, progress, comm)
            if not comm.is_root:
                return {}
            # Interrupted here, all steps are done: going on is writing.
            checks = results.Checks(check, residual_check(job, result))
            metrics = results.write_results(out, job, result, statistics, saved.options, output, warnings, checks)
        except KeyboardInterrupt:
            position = saver.interrupt() if job.n_steps else None
            if position:
                progress.say("saved", {"position": position, "path": str(saver.path)})
                said = f"engine.run: stopped, saved {position}; go on with --resume {out}"
                print(in_one_line(said), file=sys.stderr)
            raise
        except PartnerLost as lost:
            kept = f"{saver.position} is saved: go on with --resume {out}" if saver.position else "no step was saved"
            raise PartnerLost(f"{lost} ended before its work was done; {kept}") from lost
        saver.finish()
    progress.say("end", {"out": str(out), "metrics": metrics, "seconds": round(statistics.seconds, 3)})
    return metrics


def _sampled(
    job: Job,
    saved: Saved,
    saver: Saver,
    after_step: Callable[[State, float], None],
    progress: Progress,
    comm: Communicator,
) -> tuple[Reconstruction, Statistics]:
    """Draw the samples that are left; the last one, and the moments of all."""
    statistics, checkpoint, result = saved.statistics, saved.checkpoint, None
    comm.agreed(lambda: _written(saver))
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
    return result, statistics


def _written(saver: Saver) -> None:
    with writing_to(saver.path.parent):
        saver.start()
