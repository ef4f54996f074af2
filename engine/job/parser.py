"""The command line of ``python -m engine.run``, from its declarations."""

from __future__ import annotations

import argparse

from engine import options
from engine.cli import HelpFormatter
from engine.job.options import Call, Choice, Machine, Measured, Networks, NoiseLevel, Results, Simulated, Survival, Told
from engine.problems.tasks import Measurement
from engine.sampling.settings import Settings


def build_parser() -> argparse.ArgumentParser:
    """All options, with their defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.run",
        usage="%(prog)s --task {csmri,mrzsr,svct,uncond} [OPTIONS]",
        description="Reconstruct a volume with two perpendicular 2D diffusion priors.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    options.add_to(parser, Call, task=None)
    for action in parser._actions:
        action.required = action.dest == "task"
    add_simulation(parser.add_argument_group("measurement simulated from a known volume"))
    options.add_to(parser.add_argument_group("noise in the measurement"), NoiseLevel)
    options.add_to(parser.add_argument_group("measurement from a file"), Measured)
    options.add_to(parser.add_argument_group("priors"), Networks)
    sampler = parser.add_argument_group("sampler")
    options.add_to(sampler, Choice)
    options.add_to(sampler, Settings, unset=True, seed=Settings.seed)
    options.add_to(parser.add_argument_group("results"), Results)
    options.add_to(parser.add_argument_group("long runs"), Survival)
    machine = parser.add_argument_group("machine")
    options.add_to(machine, Machine)
    options.add_to(machine, Told)
    return parser


def add_simulation(group: argparse._ArgumentGroup) -> None:
    """Options of a simulated measurement, for all command lines that simulate."""
    options.add_to(group, Simulated)
    # With a scan of thick slices the last two follow from its voxels.
    options.add_to(group, Measurement, factor=None, thick_axis=None)
