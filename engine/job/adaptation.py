"""Priors that are adapted to the scan that they are to reconstruct."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.backends.bundle import MANIFEST, Bundle
from engine.backends.engines import Engines
from engine.errors import InputError
from engine.io.volumes import save_nifti
from engine.job.job import digest_of, key_of
from engine.options import Options, option
from engine.problems.acquisition import Acquisition
from engine.sampling.problem import InverseProblem

log = logging.getLogger("engine")

#: Raised by hand where the same scan, prior and minutes would lead to another bundle.
_VERSION = 1
_NEEDED = ("torch", "onnx")


@dataclass(frozen=True)
class Adaptation(Options):
    """Training on the scan itself."""

    adapt: float | None = option(
        None,
        above=0,
        metavar="MINUTES",
        needs={"task": ("mrzsr",)},
        help="train the prior on the scan's own slices for so many minutes beforehand; needs PyTorch; kept for the "
        "next run with this scan",
        remedy="5 is usual",
    )


def adapted(
    bundles: Mapping[str, Bundle],
    measured: Acquisition,
    problem: InverseProblem,
    minutes: float,
    n_threads: int | None,
    engines: Engines,
) -> dict[str, Bundle]:
    """The bundles of a run, trained on the thick slices that were measured.

    What was adapted lies in the user's cache, under a name made of prior, scan and minutes. Training is a process of
    its own, because a run needs no PyTorch: when it is interrupted, the next call goes on where it stopped.

    Parameters
    ----------
    bundles : mapping of str to Bundle
    measured : Acquisition
    problem : InverseProblem
        Of thick slices.
    minutes : float
        For each of the bundles that differ.
    n_threads : int or None
    engines : Engines

    Raises
    ------
    InputError
        No PyTorch, or a refusal of the training.
    """
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(
            "adapt",
            "the packages of the extra `train`",
            f"no {missing[0]}",
            "`pip install -c constraints.txt -e '.[train,export]'`, or drop --adapt",
        )
    _, y = problem.measured_slices()
    thick = problem.plane.volume_of(y)
    found = {}
    for role, bundle in bundles.items():
        name = [_VERSION, key_of(bundle), digest_of(thick), measured.voxel_mm.tolist(), measured.thick_axis, minutes]
        folder = _cache() / hashlib.sha256(repr(name).encode()).hexdigest()[:24]
        if not (folder / MANIFEST).is_file():
            _train(bundle, thick, measured, minutes, n_threads, folder)
        found[role] = engines.bundle(folder)
    return found


def _cache() -> Path:
    """Folder of adapted bundles: where the system keeps what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tpdm" / "adapted"


def _train(
    bundle: Bundle, thick: np.ndarray, measured: Acquisition, minutes: float, n_threads: int | None, folder: Path
) -> None:
    """Run `training.adapt`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    voxel_mm = measured.voxel_mm.copy()
    axis = measured.thick_axis
    assert axis is not None
    voxel_mm[axis] *= measured.shape[axis] / thick.shape[axis]
    log.info("adapting the prior to the scan for %g minutes", minutes)
    with tempfile.TemporaryDirectory() as scratch:
        scan = Path(scratch) / "thick.nii"
        save_nifti(scan, thick, np.diag([*voxel_mm, 1.0]))
        words = [
            "--bundle",
            bundle.folder,
            "--thick",
            scan,
            "--thick-axis",
            axis,
            "--minutes",
            minutes,
            "--out",
            folder,
        ]
        threads = [] if n_threads is None else ["--threads", n_threads]
        child = subprocess.Popen(
            [sys.executable, "-m", "training.adapt", *map(str, [*words, *threads])],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            # Ctrl-C reaches it once, from here: a second one would cut its saving short.
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            said = child.communicate()[1].splitlines()
        except BaseException:
            # It saves what was trained.
            child.send_signal(signal.SIGINT)
            child.communicate()
            raise
    if child.returncode:
        why = (said or ["it ended without a word"])[-1].removeprefix("training.adapt: ")
        raise InputError("adapt", "a scan and a prior that training takes", f"a refusal ({why})", "drop --adapt")
