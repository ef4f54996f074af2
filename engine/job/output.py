"""The folder of the results: the formats of its files, and its room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import InputError
from engine.job.job import Job
from engine.options import Options, option

#: Endings of files by format; a DICOM series is a folder.
ENDINGS = {"nifti": ".nii.gz", "npy": ".npy", "tif": ".tif", "dicom": ""}
#: Room that pictures, records and the report need, in bytes, beside the volumes.
_SMALL_FILES = 32 << 20


@dataclass(frozen=True)
class Output(Options):
    """Results, and their files."""

    samples: int = option(
        1,
        low=1,
        high=10_000,
        help="runs with seeds from --seed on; their mean is the result, their standard deviation a map of its "
        "uncertainty",
        remedy="8 show where results are uncertain",
    )
    format: str = option(
        "nifti",
        choices=tuple(ENDINGS),
        help="of the volumes: nifti (.nii.gz), npy, tif, or dicom, a derived series in a folder",
    )
    keep_tags: tuple[str, ...] = option(
        (),
        metavar="KEYWORDS",
        needs={"format": ("dicom",)},
        help="tags to copy from the series that was read, such as PatientID,StudyInstanceUID; no other that identifies "
        "is",
    )
    no_report: bool = option(False, help="do not write report.html")
    preview_every: int = option(
        0,
        low=0,
        high=1_000_000,
        metavar="STEPS",
        help="show the state in preview.png meanwhile; 0: never",
        remedy="leave it out for none",
    )


@contextmanager
def new_folder(out: Path, is_root: bool = True) -> Iterator[None]:
    """Take away the empty folders that a run which ended early has made for its results."""
    made = [folder for folder in (out, *out.parents) if is_root and not folder.exists()]
    try:
        yield
    finally:
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def open_folder(out: Path) -> None:
    """Make sure that results can be written.

    Raises
    ------
    InputError
        It cannot be made, is no folder, or cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except (OSError, ValueError) as error:  # the second of names that no file system has
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            "out", "a folder that can be written", f"'{out}' ({reason})", "choose another with --out"
        ) from error


def check_room(out: Path, job: Job, saves: bool) -> None:
    """Refuse a disk without room for results and states.

    Raises
    ------
    InputError
    """
    n_bytes = 4 * int(np.prod(job.problem.shape))
    # Result, classical reconstruction, and with several samples a deviation; each replaces an older one, which stays
    # until it is complete.
    n_files = 2 + (job.problem.operator is not None) + (job.n_samples > 1)
    # Two states at a time, of x, two more for methods that split, and two moments of double precision.
    n_states = 2 * (1 + 2 + (4 if job.n_samples > 1 else 0)) if saves else 0
    needed = n_bytes * (n_files + n_states) + _SMALL_FILES
    free = shutil.disk_usage(out).free
    if free < needed:
        raise InputError(
            "out",
            f"{needed / 2**20:.0f} MB free for results and states in '{out}'",
            f"{free / 2**20:.0f} MB",
            "make room or choose another with --out",
        )
