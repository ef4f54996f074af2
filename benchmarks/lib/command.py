"""What every command of the benchmarks does: its options begin alike, and so do the files that it writes."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.lib.machine import described
from engine.cli import HelpFormatter
from engine.io.files import replacing
from engine.versions import versions

RESULTS = ROOT / "benchmarks" / "results"


def parser_of(name: str, description: str) -> argparse.ArgumentParser:
    """The parser of ``benchmarks/<name>.py``, with ``--results``."""
    parser = argparse.ArgumentParser(
        prog=f"python benchmarks/{name}.py", description=description, formatter_class=HelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for what is written")
    return parser


def report_of(
    name: str, argv: Sequence[str] | None, *packages: str, device: str = "cpu", **found: Any
) -> dict[str, Any]:
    """What was found, below the command, date, machine and versions of libraries with which it was.

    Parameters
    ----------
    name : str
        Of the command.
    argv : sequence of str or None
        Its options; None: those of this process.
    *packages : str
        Whose versions matter beside those of every run.
    device : "cpu" or "cuda"
    **found
    """
    return {
        "command": shlex.join(["python", f"benchmarks/{name}.py", *(sys.argv[1:] if argv is None else argv)]),
        "date": date.today().isoformat(),
        "machine": described(device),
        "versions": versions(*packages),
        **found,
    }


def write(report: dict[str, Any], folder: Path, stem: str) -> Path:
    """Write a report as ``<stem>-<date>.json``, whole or not at all, and say so; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{report['date']}.json"
    with replacing(path) as part:
        part.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    print(f"written to {path}")
    return path


def rows_of_today(folder: Path, stem: str) -> list[dict[str, Any]]:
    """The rows of today's report, which an earlier call of a command left unfinished; none where there is none."""
    path = folder / f"{stem}-{date.today().isoformat()}.json"
    return list(json.loads(path.read_text())["rows"]) if path.is_file() else []
