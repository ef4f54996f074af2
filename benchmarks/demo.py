"""Run the demonstration of every task with its defaults: ``python benchmarks/demo.py``.

Each task runs in a process of its own, as a user would run it, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

# The script is run by its path: the packages that it measures lie one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import machine
from engine.problems.tasks import TASKS

HERE = Path(__file__).resolve().parent


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/demo.py", description="Run the demonstration of every task."
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for the JSON file")
    parser.add_argument("--pictures", type=Path, default=HERE.parent / "docs", help="folder for the previews")
    args = parser.parse_args(argv)
    report: dict[str, object] = {
        "command": "python benchmarks/demo.py",
        "date": date.today().isoformat(),
        "machine": machine(),
    }
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
    report["tasks"] = tasks
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / f"demo-{machine()['cores']}cores-{date.today().isoformat()}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
