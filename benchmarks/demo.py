"""Run the demonstration of every task with its defaults: ``python benchmarks/demo.py``.

Each task runs in a process of its own, as a user would run it, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import ROOT
from benchmarks.lib.command import parser_of, report_of, write
from benchmarks.lib.machine import slug
from engine.problems.tasks import TASKS


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("demo", "Run the demonstration of every task.")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs", help="folder for the previews")
    args = parser.parse_args(argv)
    tasks: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for task in args.tasks:
            out = Path(folder) / task
            subprocess.run([sys.executable, "-m", "engine.run", "--task", task, "--out", str(out)], check=True)
            run = json.loads((out / "run.json").read_text())
            metrics = json.loads((out / "metrics.json").read_text()) if (out / "metrics.json").exists() else {}
            kept = ("settings", "sampling_seconds", "peak_memory_mb", "threads", "batch_size", "versions")
            tasks[task] = {"metrics": metrics, **{k: run[k] for k in kept}}
            args.pictures.mkdir(parents=True, exist_ok=True)
            (args.pictures / f"demo-{task}.png").write_bytes((out / "preview.png").read_bytes())
    report = report_of("demo", argv, tasks=tasks)
    write(report, args.results, f"demo-{slug(report['machine'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
