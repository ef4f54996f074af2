"""Reconstruct a volume: ``python -m engine.run --task csmri``.

Without further arguments the demonstration runs: shipped priors, a head that they have never seen, a simulated
measurement.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

from engine.cli import Stopped, no_room, stopped_by_signals
from engine.errors import InputError, in_one_line
from engine.job import results
from engine.job.configuration import options_of, parse
from engine.job.parser import build_parser
from engine.job.prepare import Job, describe, prepare
from engine.job.progress import Progress, progress_of
from engine.job.saving import STATE_FILE, Saved, Saver, check_identity, load, short
from engine.job.statistics import Statistics
from engine.methods import METHODS, solve
from engine.parallel.communicator import Communicator, PartnerLost, SerialCommunicator, connect
from engine.sampling.sampler import State
from kernels.arrays import to_numpy

#: How long another rank leaves it to the root to say who is lost, in seconds.
_ROOT_SPEAKS_S = 2.0


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

    def save_and_say() -> None:
        position = saver.interrupt() if has_steps else None
        if position:
            progress.say("saved", {"position": position, "path": str(saver.path)})
            said = f"engine.run: stopped, saved {position}; go on with --resume {out}"
            print(in_one_line(said), file=sys.stderr)

    statistics, checkpoint, result = saved.statistics, saved.checkpoint, None
    try:
        comm.agreed(lambda: _writing(out, saver.start))
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


def _writing(out: Path, do: Callable[[], None]) -> None:
    """Do something, and turn what the system says against it into one sentence."""
    try:
        do()
    except OSError as error:
        raise no_room(out, error) from error


class Complaints(logging.Handler):
    """Keeps warnings for the report."""

    def __init__(self, level: int):
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, entry: logging.LogRecord) -> None:
        self.messages.append(entry.getMessage())


def _start(args: argparse.Namespace, job: Job, out: Path, resumed: Saved | None, comm: Communicator) -> Saved:
    """Where the run starts, having checked that it may, and that the folder can be written."""
    if comm.is_root:
        results.open_folder(out)
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
        results.check_room(out, job, args.save_every > 0)
    return resumed or Saved(options_of(args), job.identity, Statistics())


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


@contextmanager
def _root_alone_speaks(comm: Communicator) -> Iterator[None]:
    """What all ranks would say alike, one says."""
    if comm.is_root:
        yield
        return
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


def check_results(args: argparse.Namespace) -> None:
    """Refuse what would fail only when results are written."""
    if args.keep_tags and args.format != "dicom":
        raise InputError("keep-tags", "--format dicom", f"{args.format}, which has no tags", "drop --keep-tags")
    if not args.no_report and importlib.util.find_spec("nilearn") is None:
        raise InputError(
            "report",
            "nilearn, which holds its viewer",
            "none",
            "`pip install -c constraints.txt -e '.[demo]'`, or pass --no-report",
        )


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):
        # Names of files may hold what is no letter in any encoding.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        comm = connect()
    except InputError as error:
        return _failed(progress_of("none", 0, 0), str(error))
    if comm.size == 1:
        return _run(words, comm)
    try:
        with _root_alone_speaks(comm):
            code = _run(words, comm)
        # All leave with the root's code, and not before it has written the results.
        return int(comm.of_root(code))
    except PartnerLost as lost:
        # One message is enough: the root's, if that is still there to write it.
        if not comm.is_root:
            time.sleep(_ROOT_SPEAKS_S)
        print(f"engine.run: ranks: expected all of them to the end, but {lost}", file=sys.stderr)
        comm.abort(1)
    except Exception:
        print(f"engine.run: rank {comm.rank} of {comm.size} failed:", file=sys.stderr)
        traceback.print_exc()
        comm.abort(1)
    return 1


def _run(words: list[str], comm: Communicator) -> int:
    complaints = Complaints(logging.WARNING)
    out, progress = None, progress_of("none", 0, 0)
    made: list[Path] = []
    try:
        resumed, args = comm.agreed(lambda: _parsed(words))
        logging.getLogger("engine").addHandler(complaints)
        quiet = args.quiet or not comm.is_root
        logging.basicConfig(level="ERROR" if quiet else args.log_level.upper(), format="%(levelname)s: %(message)s")
        kind = "none" if quiet else args.progress
        progress = progress_of(kind, 0, 0) if kind == "lines" else progress
        out = args.out or Path("runs") / args.task
        comm.agreed(lambda: check_results(args))
        job = comm.agreed(lambda: prepare(args, comm))
        _check_all_alike(job, comm)
        comm.agreed(lambda: results.check_format(job, args.format, args.keep_tags))
        if kind != "lines" and (not quiet or args.dry_run):
            print(describe(job))
        if args.dry_run:
            progress.say("plan", {"lines": describe(job).splitlines()})
            return 0
        made = [folder for folder in (out, *out.parents) if comm.is_root and not folder.exists()]
        saved = comm.agreed(lambda: _start(args, job, out, resumed, comm))
        n_steps = job.settings.n_steps if METHODS[job.method].n_priors != 0 else 0
        n_done = saved.statistics.n * n_steps + (saved.checkpoint.step if saved.checkpoint else 0)
        with (
            stopped_by_signals(at_once=comm.size == 1) as signal_of,
            progress_of(kind, n_steps * job.n_samples, n_done) as progress,
        ):
            progress.say("start", {"task": job.problem.name, "method": job.method, "shape": list(job.acquisition.shape),
                                   "n_steps": n_steps, "n_samples": job.n_samples, "out": str(out)})  # fmt: skip
            metrics = execute(job, args, out, saved, progress, complaints.messages, comm, signal_of)
    except InputError as error:
        return _failed(progress, str(error))
    except OSError as error:
        return _failed(progress, str(no_room(out, error)))
    except MemoryError:
        if comm.size > 1:
            raise
        return _failed(progress, "memory: expected room for the volume and its measurement, got none; give a smaller "
                                 "volume, or start it where there is more")  # fmt: skip
    except KeyboardInterrupt as error:
        print("engine.run: interrupted", file=sys.stderr)
        return 128 + (error.signal_number if isinstance(error, Stopped) else 2)
    finally:
        logging.getLogger("engine").removeHandler(complaints)
        # A run that ended early leaves no empty folder behind.
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    if not quiet and kind != "lines":
        print(results.summary(metrics, out))
    return 0


def _parsed(words: list[str]) -> tuple[Saved | None, argparse.Namespace]:
    """The options, and the saved state of the run that they resume."""
    folder = _resumed_folder(words)
    if folder is None:
        return None, parse(build_parser(), words)
    saved = load(folder / STATE_FILE)
    args = parse(build_parser(), words, {**saved.options, "out": str(folder)})
    if args.out != folder:
        raise InputError("out", f"none beside --resume {folder}", args.out, "drop --out")
    if args.overwrite:
        raise InputError("overwrite", "none beside --resume", "both", "choose one of them")
    return saved, args


def _resumed_folder(words: list[str]) -> Path | None:
    """What --resume says: its options come from there, and so before the others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", type=Path)
    folder: Path | None = parser.parse_known_args(words)[0].resume
    return folder


def _failed(progress: Progress, message: str) -> int:
    message = in_one_line(message)
    progress.say("error", {"message": message, "code": 2})
    print(f"engine.run: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
