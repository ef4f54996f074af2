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
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from engine.backends.engines import Engines
from engine.cli import exit_code, stopped_by_signals
from engine.errors import InputError
from engine.job import results
from engine.job.configuration import parse
from engine.job.execution import checked_job, execute, started, warnings_kept
from engine.job.output import new_folder
from engine.job.parser import build_parser
from engine.job.plan import describe
from engine.job.progress import Lines, Silent, progress_of
from engine.job.saving import STATE_FILE, Saved, load
from engine.parallel.communicator import Communicator, PartnerLost, connect

#: How long another rank leaves it to the root to say who is lost, in seconds.
_ROOT_SPEAKS_S = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code("engine.run", lambda: _on_all_ranks(words, connect()))


def _on_all_ranks(words: list[str], comm: Communicator) -> int:
    """Run on one process or many, which end with the same code."""
    if comm.size == 1:
        return Run(words, comm).ended()
    try:
        with _root_alone_speaks(comm):
            code = Run(words, comm).ended()
        # All leave with the root's code, and not before it has written the results.
        return int(comm.of_root(code))
    except PartnerLost as lost:
        # One message is enough: the root's, if that is still there to write it.
        if not comm.is_root:
            time.sleep(_ROOT_SPEAKS_S)
        print(f"engine.run: ranks: expected all of them to the end, but {lost}", file=sys.stderr)
    except Exception:
        print(f"engine.run: rank {comm.rank} of {comm.size} failed:", file=sys.stderr)
        traceback.print_exc()
    comm.abort(1)
    return 1


@contextmanager
def _root_alone_speaks(comm: Communicator) -> Iterator[None]:
    """What all ranks would say alike, one says."""
    if comm.is_root:
        yield
        return
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


class Run:
    """One call of the command.

    Parameters
    ----------
    words : list of str
        Of the command line.
    comm : Communicator
    """

    def __init__(self, words: list[str], comm: Communicator):
        self._words, self._comm = words, comm
        self._lines: Silent = Silent()

    def ended(self) -> int:
        """Run to the end; return the exit code."""
        return exit_code("engine.run", self._run, told=self._tell)

    def _tell(self, sentence: str) -> None:
        self._lines.say("error", {"message": sentence, "code": 2})

    def _run(self) -> None:
        try:
            resumed, args = self._comm.agreed(lambda: parsed(self._words))
            with warnings_kept() as warnings, closing(Engines()) as engines:
                self._do(args, resumed, engines, warnings)
        except MemoryError as error:
            if self._comm.size == 1:
                raise
            # The other ranks wait for this one, which has to end them.
            raise RuntimeError("no memory is left for this rank") from error

    def _do(self, args: argparse.Namespace, resumed: Saved | None, engines: Engines, warnings: list[str]) -> None:
        comm, out = self._comm, args.out or Path("runs") / args.task
        quiet = args.quiet or not comm.is_root
        kind = "none" if quiet else args.progress
        _show(logging.ERROR if quiet else int(logging.getLevelName(args.log_level.upper())))
        if kind == "lines":
            self._lines = Lines()
        job = checked_job(args, comm, engines)
        if kind != "lines" and (not quiet or args.dry_run):
            print(describe(job))
        if args.dry_run:
            self._lines.say("plan", {"lines": describe(job).splitlines()})
            return
        with closing(job.selection), new_folder(out, comm.is_root):
            saved = comm.agreed(lambda: started(job, args, out, resumed, comm))
            n_done = saved.statistics.n * job.n_steps + (saved.checkpoint.step if saved.checkpoint else 0)
            with (
                stopped_by_signals(at_once=comm.size == 1) as signal_of,
                progress_of(kind, job.n_steps * job.n_samples, n_done) as progress,
            ):
                start: dict[str, Any] = {"task": args.task, "method": job.method, "shape": list(job.problem.shape)}
                counts = {"n_steps": job.n_steps, "n_samples": job.n_samples}
                progress.say("start", {**start, **counts, "out": str(out)})
                metrics = execute(job, args, out, saved, progress, comm, warnings, signal_of)
        if not quiet and kind != "lines":
            print(results.summary(metrics, out))


def _show(level: int) -> None:
    """Show messages from this level on; warnings are made anyhow, for the report and the record."""
    shown = logging.StreamHandler()
    shown.setLevel(level)
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", handlers=[shown])
    logging.getLogger("engine").setLevel(min(level, logging.WARNING))


def parsed(words: list[str]) -> tuple[Saved | None, argparse.Namespace]:
    """The options, and the saved state of the run that they resume.

    Raises
    ------
    InputError
    """
    # Its options come from there, and so before the others.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--resume", type=Path)
    folder: Path | None = first.parse_known_args(words)[0].resume
    if folder is None:
        return None, parse(build_parser(), words)
    saved = load(folder / STATE_FILE)
    args = parse(build_parser(), words, {**saved.options, "out": str(folder)})
    if args.out != folder:
        raise InputError("out", f"none beside --resume {folder}", args.out, "drop --out")
    if args.overwrite:
        raise InputError("overwrite", "none beside --resume", "both", "choose one of them")
    return saved, args


if __name__ == "__main__":
    sys.exit(main())
