"""Reconstruct many volumes over a cluster: ``python -m engine.batch --inputs 'study/*.nii.gz' --as volume --out …``."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import TextIOBase
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from engine.cli import HelpFormatter, Stopped, exit_code, stopped_by_signals, writing_to
from engine.errors import InputError, in_one_line
from engine.job.output import new_folder, open_folder
from engine.job.progress import Silent, Told
from engine.options import Options, add_options, option, read
from engine.study.cluster import Needs, connected
from engine.study.pool import Pool
from engine.study.progress import Bar, Lines
from engine.study.study import (
    CSV,
    KINDS,
    PARQUET,
    Study,
    Volume,
    check_same,
    forget,
    inputs_of,
    is_done,
    record_of,
    study_of,
    volumes_of,
)
from engine.study.table import DONE, FAILED, Row, Table, figures_of, read_csv
from engine.study.worker import Place

log = logging.getLogger("engine")

#: Exit code where volumes failed; the others are done.
SOME_FAILED = 1


@dataclass(frozen=True)
class Call(Options):
    """A study, apart from the options of its runs."""

    out: Path = option(
        Path("runs/study"),
        metavar="FOLDER",
        help=f"folder of the study: a folder of results for each input, named like it, and {CSV} and {PARQUET} with a "
        "row for each",
    )
    overwrite: bool = option(False, help="start anew, also what is finished")
    dry_run: bool = option(False, help="check everything and show the plan, but do not sample")


@dataclass(frozen=True)
class Workers(Options):
    """The workers of a study."""

    ray: str = option(
        "local",
        metavar="{local,auto,ADDRESS}",
        help="local: workers on this machine; auto: the running cluster of RAY_ADDRESS or of this machine; or where "
        "the cluster is",
    )
    workers: int | None = option(
        None, low=1, metavar="N", default_words="as many as have room", help="volumes at a time", remedy="leave it out"
    )
    retries: int = option(
        3, low=0, metavar="N", help="attempts to go on with a volume that lost its worker", remedy="leave it out"
    )


def build_parser() -> argparse.ArgumentParser:
    """The options of a study; all others are those of `engine.run`."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.batch",
        usage="%(prog)s --inputs PATTERN [PATTERN …] [OPTIONS] [OPTIONS OF engine.run]",
        description="Reconstruct many volumes with the same options, each as `tpdm run` does, on the workers of a Ray "
        "cluster. Other options, such as --task or --steps, are those of `tpdm run --help`. Called again, a study goes "
        "on: volumes that are finished are left as they are, others start from their saved state, also after a worker "
        "died. All machines have to see the inputs, the engines and the results under the same absolute paths.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--inputs",
        nargs="+",
        required=True,
        metavar="PATTERN",
        help="files or folders, or patterns in quotes: 'study/*.nii.gz', ** for any folders",
    )
    parser.add_argument(
        "--as",
        dest="kind",
        choices=tuple(KINDS),
        default="volume",
        help="option that each input is for; it says the task where --task does not (a volume: csmri). stacks: each "
        "input is a folder with several stacks of thick slices of one person",
    )
    add_options(parser, Call)
    add_options(parser.add_argument_group("cluster"), Workers, Needs)
    add_options(parser.add_argument_group("progress"), Told)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args, words = build_parser().parse_known_args(argv)
    # None of a study's own options says when it has an effect.
    args.given = {}
    logging.basicConfig(level="ERROR" if args.quiet else args.log_level.upper(), format="%(levelname)s: %(message)s")
    shown: Silent = Lines(sys.stdout) if args.progress == "lines" and not args.quiet else Silent()

    def tell(sentence: str) -> None:
        shown.say("error", {"message": sentence, "code": 2})

    return exit_code(
        "engine.batch", lambda: _checked(args, words, shown), told=tell, interrupted="called again, it goes on"
    )


def _checked(args: argparse.Namespace, words: Sequence[str], shown: Silent) -> int:
    """Refuse what is wrong on this machine, and do the study."""
    args.out = args.out.absolute()
    workers, needs = read(Workers, args), read(Needs, args)
    for library in ("ray", "pyarrow"):
        if importlib.util.find_spec(library) is None:
            raise InputError(
                "batch", f"{library}, which it needs", "none", "`pip install -c constraints.txt -e '.[cluster]'`"
            )
    study = study_of(args.kind, words)
    device = study.options.get("device", "auto")
    if not needs.gpus and device.startswith("cuda"):
        raise InputError("gpus-per-volume", f"more than 0 for --device {device}", "0", "pass 1, or a part of one")
    volumes = volumes_of(inputs_of(args.inputs), args.out)
    with new_folder(args.out), writing_to(args.out):
        open_folder(args.out)
        if not args.overwrite:
            check_same(study, volumes)
        return _study(args, workers, needs, study, volumes, shown)


def _study(
    args: argparse.Namespace, workers: Workers, needs: Needs, study: Study, volumes: list[Volume], shown: Silent
) -> int:
    """Do what is left of a study; return the exit code."""
    out, started = args.out, time.monotonic()
    done = [] if args.overwrite else [volume for volume in volumes if is_done(study, volume)]
    to_do = [volume for volume in volumes if volume not in done]
    table = Table(out, _rows_of(out, done))
    if to_do or args.dry_run:
        # What Ray prints is for its own logs.
        with redirect_stdout(_ToLog()), connected(workers.ray, needs, workers.workers) as room:
            n_workers = min(room if workers.ray == "local" else workers.workers or room, len(to_do) or 1)
            pool = Pool(study, needs, 1 if args.dry_run else n_workers, workers.retries)
            plan = ""
            if args.dry_run or not done:
                plan = pool.plan(to_do or done, lambda volume, why: _is_about(study, volume, why))
            if not args.dry_run:
                if args.overwrite:
                    forget(volumes)
                shown.say("start", {"volumes": len(volumes), "done": len(done), "workers": n_workers, "out": str(out)})
                with Bar(len(volumes), len(done)) if _with_bar(args) else shown as progress, logging_redirect_tqdm():
                    _work(pool, to_do, table, progress)
        if args.dry_run:
            plan += f"\nstudy      {len(volumes)} volumes, {len(done)} of them done; {n_workers} workers"
            shown.say("plan", {"lines": plan.strip().splitlines()})
            if not isinstance(shown, Lines):
                print(plan.strip())
            return 0
    table.finish()
    n_done, n_failed = table.n(DONE), table.n(FAILED)
    seconds = round(time.monotonic() - started, 3)
    shown.say("end", {"done": n_done, "failed": n_failed, "seconds": seconds, "out": str(out)})
    if n_failed:
        print(f"engine.batch: {n_failed} of {len(volumes)} volumes failed; see {out / CSV}", file=sys.stderr)
    elif not args.quiet and not isinstance(shown, Lines):
        print(f"{n_done} volumes done; results in {out}, their table in {out / CSV}")
    return SOME_FAILED if n_failed else 0


def _with_bar(args: argparse.Namespace) -> bool:
    return args.progress == "bar" and not args.quiet


def _work(pool: Pool, volumes: Sequence[Volume], table: Table, progress: Silent) -> None:
    """Reconstruct volumes; interrupted, let running ones save their state, and write the table so far."""

    def begin(volume: Volume, attempt: int, place: Place) -> None:
        details = {"host": place.host, "node": place.node, "worker": place.process}
        progress.say("begin", {"input": str(volume.source), "attempt": attempt, **details})

    def end(row: Row, trace: str) -> None:
        table.add(row)
        progress.say("volume", row.cells())
        if row.status == FAILED:
            log.error("%s", in_one_line(f"{row.input}: {row.message}"))
        if trace:
            log.error("%s", trace)

    def lost(volume: Volume, why: str) -> None:
        progress.say("retry", {"input": str(volume.source), "why": why})
        log.warning("%s: %s; it goes on from its saved state with another one", volume.source, why)

    number = 0
    with stopped_by_signals() as came:
        try:
            pool.run(volumes, begin, end, lost)
        except KeyboardInterrupt:
            # Inside Ray it is a plain interrupt, whatever the signal raised.
            number = came() or signal.SIGINT
    if not number:
        return
    # From here on another signal ends it at once.
    log.warning("stopping: volumes save their state after the current step")
    try:
        pool.stop(end)
    finally:
        table.finish()
    raise Stopped(number)


def _is_about(study: Study, volume: Volume, complaint: InputError) -> bool:
    """Whether a complaint is about one input, and not about the options of all."""
    return complaint.argument in (study.option, "inputs") or str(volume.source) in str(complaint)


def _rows_of(out: Path, done: Sequence[Volume]) -> list[Row]:
    """The rows of volumes that an earlier call finished: what their files say, and who did it if the table tells."""
    earlier = read_csv(out / CSV) if done else {}
    rows = []
    for volume in done:
        row = earlier.get(str(volume.source))
        if row is None or row.status != DONE:
            row = Row(str(volume.source), DONE)
        record = record_of(volume.folder)
        assert record is not None
        rows.append(replace(row, figures=figures_of(volume.folder, record)))
    return rows


class _ToLog(TextIOBase):
    """A standard output whose lines go to the log, as its least important ones."""

    def write(self, text: str) -> int:
        if text.strip():
            log.debug("%s", text.rstrip())
        return len(text)


if __name__ == "__main__":
    sys.exit(main())
