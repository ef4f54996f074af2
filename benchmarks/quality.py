"""Reconstruct volumes by every method and compare with the truth: ``python benchmarks/quality.py``.

What is done is kept in the results' folder ``cells``, and not done again: the command may be interrupted at any time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kernels
from benchmarks.lib.cells import Cell, Laboratory, Store, Truth
from benchmarks.lib.command import parser_of, report_of, write
from benchmarks.lib.configurations import (
    MULTIPLES,
    PC_STEPS,
    PROBLEMS,
    SWEEPS,
    Configuration,
    Problem,
    at_steps,
    configurations,
    search,
    sweep,
    with_weight,
)
from benchmarks.lib.machine import slug
from benchmarks.lib.machine import title as title_of
from benchmarks.peers.bart import PEERS
from benchmarks.reports import quality as quality_report
from benchmarks.reports.quality import Record
from engine import demo
from engine.backends.shipped import PriorSet, suiting
from engine.cli import exit_code
from engine.errors import InputError
from engine.methods import METHODS
from engine.sampling.reconstruction import Settings

#: What the pictures show beside the truth.
_SHOWN = ("classical", "tv", "pc", "fast")


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    truths: list[Truth]
    problems: list[Problem]
    configurations: list[Configuration]
    n_seeds: int
    pc_steps: int

    def cells(self, chosen: Sequence[Configuration], truth: Truth, problem: Problem) -> list[Cell]:
        """Methods without a network know no chance: one seed; and one finds the published sampler's λ."""
        return [
            Cell(truth, problem, configuration.for_problem(problem), seed)
            for configuration in chosen
            if configuration.serves(problem)
            for seed in range(self.n_seeds if configuration.uses_priors and configuration.group != "search" else 1)
        ]

    def searches(self, truth: Truth, problem: Problem) -> list[Cell]:
        """Short runs that the searched configurations wait for."""
        if not any(configuration.is_searched for configuration in self.configurations):
            return []
        return self.cells(search(self.pc_steps), truth, problem)

    @property
    def pairs(self) -> list[tuple[Truth, Problem]]:
        return [(truth, problem) for truth in self.truths for problem in self.problems]

    def known(self) -> list[Cell]:
        """All that no search has to come before; the searches included, and last."""
        plain = [configuration for configuration in self.configurations if not configuration.is_searched]
        found = [cell for pair in self.pairs for cell in self.cells(plain, *pair)]
        return found + [cell for pair in self.pairs for cell in self.searches(*pair)]

    def searched(self, pair: tuple[Truth, Problem], weight: float) -> list[Cell]:
        """What waits for λ, with λ."""
        waiting = [with_weight(c, weight) for c in self.configurations if c.is_searched]
        return self.cells(waiting, *pair)


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)

    def body() -> int:
        plan, laboratory = plan_of(args), Laboratory(args.threads, priors_of(args))
        # Before anything runs: a prior that is not there.
        for cell in plan.known():
            laboratory.identity(cell)
        if args.list:
            print(listed(plan))
            return 0
        args.results.mkdir(parents=True, exist_ok=True)
        store = Store(args.results / "cells")
        records = run(plan, laboratory, store)
        report = {**report_of("quality", argv), "threads": args.threads, **collected(records)}
        print(quality_report.tables(report["summaries"]))
        print(f"\n{quality_report.claims_text(report['claims'])}")
        write_all(report, records, plan, store, args.results, args.name)
        return 0

    return exit_code("quality", body, interrupted="the same command goes on where this one stopped")


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("quality", "Reconstruct volumes by every method and compare with the truth.")
    parser.add_argument(
        "--volumes", nargs="+", default=["demo"], metavar="FILE", help="NIfTI or .npy; demo: the demonstration's head"
    )
    parser.add_argument(
        "--voxel-mm",
        type=float,
        metavar="MM",
        help="bring whole volumes to cubic voxels of this size (default: cubes of 64 voxels of 3 mm around the tissue)",
    )
    parser.add_argument(
        "--axial-slices", type=int, metavar="N", help="cut volumes to N axial slices in their middle (default: whole)"
    )
    parser.add_argument("--prior", help="set of priors, as of engine.run (default: the shipped one for the voxels)")
    parser.add_argument("--tasks", nargs="+", help=f"of {', '.join(PROBLEMS)}, or a task's name for all of its own")
    parser.add_argument(
        "--methods",
        nargs="*",
        help=f"of {', '.join(configurations())} (default: all but BART's, which has to be "
        "installed; with --sweep: fast and classical)",
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of every method that uses chance")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[], help="further numbers of steps, but for the published sampler"
    )
    parser.add_argument("--pc-steps", type=int, default=PC_STEPS, help="steps of the published sampler")
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="NAME=v1,v2,…",
        help=f"one setting of fast changed, of {', '.join(SWEEPS)}; dps_weight: multiples of the default, short runs "
        "of the published sampler; planes: joined by +, the measured one first",
    )
    parser.add_argument("--threads", type=int, default=kernels.available_cores(), help="for networks and operators")
    parser.add_argument("--name", default="quality", help="what the names of the written files begin with")
    parser.add_argument("--list", action="store_true", help="show what would be run")
    return parser


def priors_of(args: argparse.Namespace) -> PriorSet:
    """The priors of all cells."""
    if args.prior:
        return PriorSet.of(args.prior)
    return suiting([args.voxel_mm or demo.VOXEL_MM] * 3, from_noise=False)


def plan_of(args: argparse.Namespace) -> Plan:
    """Everything that is to be run.

    Raises
    ------
    InputError
        A name or a number that does not suit.
    """
    for name in ("seeds", "threads", "axial_slices"):
        number = getattr(args, name)
        if number is not None and number < 1:
            raise InputError(name, "at least 1", f"{number}", "ask for more")
    for n_steps in (*args.steps, args.pc_steps):
        Settings(n_steps=n_steps)
    problems = list(PROBLEMS.values())
    if args.tasks:
        known = {*PROBLEMS, *(problem.task for problem in problems)}
        _check("tasks", args.tasks, sorted(known))
        problems = [p for p in problems if p.name in args.tasks or p.task in args.tasks]
    every = configurations(args.pc_steps)
    names = (
        args.methods
        if args.methods is not None
        else ["fast", "classical"]
        if args.sweep
        else [n for n in every if n not in PEERS]
    )
    _check("methods", names, list(every))
    chosen = [configuration for name, configuration in every.items() if name in names]
    _check("methods", [configuration.method for configuration in chosen], [*METHODS, *PEERS])
    chosen += at_steps(chosen, args.steps)
    chosen += [configuration for text in args.sweep for configuration in sweep(text)]
    if not chosen:
        raise InputError("methods", "at least one", "none", "name some, or a --sweep")
    truths = [Truth.read(file, args.voxel_mm, args.axial_slices) for file in args.volumes]
    names = [truth.name for truth in truths]
    if len(set(names)) < len(names):
        raise InputError("volumes", "files of different names", f"{', '.join(names)}", "rename one")
    return Plan(truths, problems, chosen, args.seeds, args.pc_steps)


def _check(argument: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise InputError(argument, f"some of {', '.join(known)}", f"'{name}'", "choose from these")


def listed(plan: Plan) -> str:
    """The cells as text; those that wait for λ say so."""
    lines = [cell.label for cell in plan.known()]
    waiting = [configuration for configuration in plan.configurations if configuration.is_searched]
    for pair in plan.pairs:
        lines += [
            f"{cell.label}, λ × the best of {', '.join(f'{m:g}' for m in MULTIPLES)}"
            for cell in plan.cells(waiting, *pair)
        ]
    return "\n".join([*lines, f"{len(lines)} cells"])


def run(plan: Plan, laboratory: Laboratory, store: Store) -> list[Record]:
    """Run what is not done yet; return all."""
    known = plan.known()
    n_cells = len(listed(plan).splitlines()) - 1
    records: list[Record] = []

    def take(cell: Cell) -> Record:
        records.append(finished(cell, laboratory, store))
        print(f"[{len(records)}/{n_cells}] {cell.label}: {_outcome(records[-1])}", flush=True)
        return records[-1]

    for cell in known:
        take(cell)
    for truth, problem in plan.pairs:
        tried = [r for r in records if (r["volume"], r["problem"], r["group"]) == (truth.name, problem.name, "search")]
        for cell in plan.searched((truth, problem), best_weight(tried)):
            take(cell)
    return records


def finished(cell: Cell, laboratory: Laboratory, store: Store) -> Record:
    """A cell's record, from the store where it is there."""
    identity = laboratory.identity(cell)
    kept = store.read(identity)
    is_new = kept is None
    if kept is None:
        kept, volume = laboratory.run(cell)
        store.write(identity, kept, volume)
    configuration = cell.configuration
    return {
        "volume": cell.truth.name,
        "problem": cell.problem.name,
        "configuration": configuration.name,
        "title": configuration.title,
        "group": configuration.group,
        "seed": cell.seed,
        "is_new": is_new,
        "identity": identity,
        **kept,
    }


def best_weight(tried: Sequence[Record]) -> float:
    """The multiple of λ with the best volume PSNR; the default one where all failed."""
    done = [record for record in tried if record["figures"] is not None]
    if not done:
        return 1.0
    best = max(done, key=lambda record: record["figures"]["psnr_db"])
    return float(best["identity"]["dps_weight_multiple"])


def _outcome(record: Record) -> str:
    if record["figures"] is None:
        return f"failed: {record['failure']}"
    of = record["figures"]
    return f"{of['psnr_db']:.2f} dB in {of['seconds']:.3g} s" + ("" if record["is_new"] else ", kept from before")


def collected(records: Sequence[Record]) -> dict[str, Any]:
    """What the result file holds of the cells."""
    entries = quality_report.summaries(records)
    return {
        "claims": quality_report.claims(entries),
        "summaries": entries,
        "cells": [{name: value for name, value in record.items() if name != "is_new"} for record in records],
    }


def write_all(
    report: dict[str, Any], records: Sequence[Record], plan: Plan, store: Store, folder: Path, name: str
) -> None:
    """The result file, the plot, and a picture of every task's hardest problem on the first volume."""
    stem = write(report, folder, f"{name}-{slug(report['machine'])}").stem
    written = []
    caption = f"{title_of(report['machine'])}, --threads {report['threads']}, {report['date']}"
    if any(record["figures"] for record in records):
        quality_report.plot(report["summaries"], folder / f"{stem}.png", caption)
        written.append(f"{stem}.png")
    truth = plan.truths[0]
    for problem in {problem.task: problem for problem in plan.problems}.values():
        shown = {}
        for shown_name in _SHOWN:
            for record in records:
                wanted = truth.name, problem.name, shown_name, 0
                if (record["volume"], record["problem"], record["configuration"], record["seed"]) == wanted:
                    volume = store.volume(record["identity"])
                    if volume is not None:
                        psnr = f"{record['figures']['worst_plane_psnr_db']:.1f} dB"
                        shown[f"{record['title'].split(',')[0]}, {psnr}"] = volume
        if shown:
            title = f"{truth.name}, {problem.title}: PSNR of the worst plane"
            quality_report.picture(truth.data, shown, folder / f"{stem}-{problem.name}.png", title)
            written.append(f"{stem}-{problem.name}.png")
    if written:
        print("pictures: " + ", ".join(str(folder / name) for name in written))


if __name__ == "__main__":
    sys.exit(main())
