"""The command line of ``python -m engine.run``, made of the options that its parts declare."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from engine.cli import HelpFormatter
from engine.io.measurements.kspace_options import KSpaceReading
from engine.io.measurements.sinogram_options import Reading
from engine.job.adaptation import Adaptation
from engine.job.choices import Choice, default_steps
from engine.job.consent import Consent
from engine.job.measurement import MeasuredFile, NoiseLevel, VolumeFile
from engine.job.output import Output
from engine.job.prepare import Machine
from engine.job.priors import PriorFiles
from engine.job.progress import Told
from engine.job.saving import Survival
from engine.options import Options, add_options, option
from engine.problems.tasks import TASKS, Measurement
from engine.sampling.settings import Settings


@dataclass(frozen=True)
class Call(Options):
    """A run, apart from its details."""

    task: str = option(choices=TASKS, help="measurement: k-space, thick slices, few CT views, or nothing")
    out: Path | None = option(None, default_words="runs/<task>", help="folder for the results")
    dry_run: bool = option(False, help="check everything and show the plan, but do not sample")
    config: Path | None = option(
        None,
        metavar="FILE",
        help="YAML file whose keys are options, or the run.json of an earlier run, to repeat it; options beside it "
        "count more",
    )


#: Options by the title of their group.
GROUPS: dict[str, tuple[type, ...]] = {
    "measurement simulated from a known volume": (VolumeFile, Measurement),
    "noise in the measurement": (NoiseLevel,),
    "measurement from a file": (MeasuredFile, KSpaceReading),
    "sinogram from a file": (Reading,),
    "priors": (PriorFiles, Adaptation),
    "sampler": (Choice, Settings),
    "results": (Output,),
    "long runs": (Survival, Consent),
    "machine": (Machine, Told),
}


def build_parser() -> argparse.ArgumentParser:
    """All options, with their defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.run",
        usage="%(prog)s --task {csmri,mrzsr,svct,uncond} [OPTIONS]",
        description="Reconstruct a volume with two perpendicular 2D diffusion priors.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser, Call)
    for title, groups in GROUPS.items():
        add_options(parser.add_argument_group(title), *groups, default_words={"n_steps": default_steps()})
    return parser
