"""Reconstruct a volume: ``python -m engine.run --task csmri``.

Without further arguments the demonstration runs: shipped priors, a head that they have never seen, a simulated
measurement.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from io import StringIO, TextIOWrapper
from pathlib import Path

from engine.cli import REFUSED, exit_code, refuse, removing_if_empty, writing_to
from engine.errors import InputError, in_one_line
from engine.job import results
from engine.job.configuration import parse
from engine.job.execution import begin, complaints, execute
from engine.job.job import Job
from engine.job.parser import build_parser
from engine.job.plan import describe
from engine.job.prepare import prepare
from engine.job.progress import Progress, progress_of
from engine.job.saving import STATE_FILE, Saved, load, short, stopped_by_signals
from engine.methods import METHODS
from engine.parallel.communicator import Communicator, PartnerLost, connect

PROGRAM = "engine.run"
#: How long another rank leaves it to the root to say who is lost, in seconds.
_ROOT_SPEAKS_S = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):
        # Names of files may hold what is no letter in any encoding.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        comm = connect()
    except InputError as error:
        return refuse(PROGRAM, error)
    if comm.size == 1:
        return _command(words, comm)
    try:
        with _root_alone_speaks(comm):
            code = _command(words, comm)
        # All leave with the root's code, and not before it has written the results.
        return int(comm.of_root(code))
    except PartnerLost as lost:
        # One message is enough: the root's, if that is still there to write it.
        if not comm.is_root:
            time.sleep(_ROOT_SPEAKS_S)
        print(f"{PROGRAM}: ranks: expected all of them to the end, but {lost}", file=sys.stderr)
        comm.abort(1)
    except Exception:
        print(f"{PROGRAM}: rank {comm.rank} of {comm.size} failed:", file=sys.stderr)
        traceback.print_exc()
        comm.abort(1)
    return 1


def _command(words: list[str], comm: Communicator) -> int:
    progress = [progress_of("none", 0, 0)]

    def tell(error: InputError) -> None:
        progress[0].say("error", {"message": in_one_line(error), "code": REFUSED})

    return exit_code(PROGRAM, lambda: _run(words, comm, progress), refused=tell)


def _run(words: list[str], comm: Communicator, told: list[Progress]) -> int:
    """Parse, prepare, execute; `told` holds who is told of a refusal."""
    resumed, args = comm.agreed(lambda: _parsed(words))
    quiet = args.quiet or not comm.is_root
    logging.basicConfig(level="ERROR" if quiet else args.log_level.upper(), format="%(levelname)s: %(message)s")
    kind = "none" if quiet else args.progress
    if kind == "lines":
        told[0] = progress_of(kind, 0, 0)
    out: Path = args.out or Path("runs") / args.task
    with complaints() as warnings, writing_to(out):
        comm.agreed(lambda: results.check_options(args))
        job = comm.agreed(lambda: prepare(args, comm))
        _check_all_alike(job, comm)
        comm.agreed(lambda: results.check_format(job, args.format, args.keep_tags))
        if kind != "lines" and (not quiet or args.dry_run):
            print(describe(job))
        if args.dry_run:
            told[0].say("plan", {"lines": describe(job).splitlines()})
            return 0
        with removing_if_empty(out) if comm.is_root else nullcontext():
            saved = comm.agreed(lambda: begin(args, job, out, resumed, comm))
            n_steps = job.settings.n_steps if METHODS[job.method].n_priors != 0 else 0
            n_done = saved.statistics.n * n_steps + (saved.checkpoint.step if saved.checkpoint else 0)
            with (
                stopped_by_signals(at_once=comm.size == 1) as signal_of,
                progress_of(kind, n_steps * job.n_samples, n_done) as progress,
            ):
                told[0] = progress
                progress.say("start", {"task": job.problem.name, "method": job.method,
                                       "shape": list(job.acquisition.shape), "n_steps": n_steps,
                                       "n_samples": job.n_samples, "out": str(out)})  # fmt: skip
                metrics = execute(job, args, out, saved, progress, warnings, comm, signal_of)
    if not quiet and kind != "lines":
        print(results.summary(metrics, out))
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
