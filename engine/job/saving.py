"""The state of a run on disk, from which it goes on to the very same result."""

from __future__ import annotations

import json
import logging
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.io.files import replacing
from engine.job.statistics import Statistics
from engine.options import Options, option
from engine.parallel.decomposition import UNDIVIDED, Decomposition
from engine.sampling.reconstruction import Checkpoint
from engine.sampling.sampler import State
from kernels.arrays import to_numpy

log = logging.getLogger("engine")

#: Name of the file in the folder of the results; it is gone once they are complete.
STATE_FILE = "state.npz"
_FORMAT = 1
#: Arrays that are none of the sampler's state.
_OTHERS = ("header", "residuals", "mean", "squares")


@dataclass(frozen=True)
class Survival(Options):
    """How a run survives an interruption."""

    save_every: int = option(
        10,
        low=0,
        high=1_000_000,
        metavar="STEPS",
        help="save the state in the folder of the results; 0: only when interrupted",
        remedy="10 is usual",
    )
    resume: Path | None = option(
        None,
        metavar="FOLDER",
        help="go on with the interrupted run in a folder, with its options, to the very same result",
    )
    overwrite: bool = option(False, help="start anew where an interrupted run could be resumed")


@dataclass(frozen=True)
class Saved:
    """What a state file holds.

    Parameters
    ----------
    options : dict
        Options of the command line that were given, by their names.
    identity : dict
        What has to be the same for the result to be: settings, and hashes of measurement and engines.
    statistics : Statistics
        Of the samples that are finished.
    checkpoint : Checkpoint or None
        Where the next sample is; None before its first step.
    """

    options: dict[str, Any]
    identity: dict[str, Any]
    statistics: Statistics
    checkpoint: Checkpoint | None = None

    @property
    def position(self) -> str:
        """For messages."""
        step = 0 if self.checkpoint is None else self.checkpoint.step
        return f"step {step}" + (f" of sample {self.statistics.n + 1}" if self.statistics.n else "")


def save(path: Path, saved: Saved) -> None:
    """Write a state, atomically: what was there before stays until the new one is complete.

    Raises
    ------
    OSError
        No room, or no permission; the earlier state is untouched.
    """
    arrays = saved.statistics.arrays()
    numbers: dict[str, Any] = {"n_samples": saved.statistics.n, "seconds_of_samples": saved.statistics.seconds}
    if saved.checkpoint is not None:
        arrays |= saved.checkpoint.arrays
        arrays["residuals"] = np.asarray(saved.checkpoint.residuals, np.float64)
        numbers |= {"step": saved.checkpoint.step, "seconds": saved.checkpoint.seconds}
    header = {"format": _FORMAT, "options": saved.options, "identity": saved.identity, **numbers}
    arrays["header"] = np.array(json.dumps(header))
    on_host: Any = {name: to_numpy(a) for name, a in arrays.items()}
    with replacing(path) as temporary:
        np.savez(temporary, **on_host)


def load(path: Path) -> Saved:
    """Read a state.

    Raises
    ------
    InputError
        There is none, or it is damaged.
    """
    if not path.is_file():
        raise InputError(
            "resume",
            "a saved state",
            f"no '{path}'",
            f"a finished run has none, and is repeated with --config {path.parent / 'run.json'}",
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.zip.infolist()):
                raise ValueError("compressed, which states are not")
            # Reading checks each array's CRC.
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(str(arrays["header"]))
        if header["format"] != _FORMAT:
            raise ValueError(f"format {header['format']}, this program reads {_FORMAT}")
        shape = tuple(header["identity"]["shape"])
        checkpoint = None
        if "step" in header:
            step, residuals = int(header["step"]), arrays["residuals"].tolist()
            of_state = {name: array for name, array in arrays.items() if name not in _OTHERS}
            checkpoint = Checkpoint(step, of_state, residuals, float(header["seconds"]))
            x = of_state["x"]
            if x.shape != shape or x.dtype != np.float32 or not 0 <= step == len(residuals):
                raise ValueError(f"{x.shape} of {x.dtype} after {step} steps for {shape}")
        statistics = Statistics.from_arrays(int(header["n_samples"]), arrays, float(header["seconds_of_samples"]))
        if statistics.n < 0 or (statistics.mean is not None and statistics.mean.shape != shape):
            raise ValueError(f"the mean of {statistics.n} samples for {shape}")
        return Saved(dict(header["options"]), dict(header["identity"]), statistics, checkpoint)
    except Exception as error:  # NumPy's and zipfile's readers raise what they like on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            "resume", "an intact state", f"'{path}', which cannot be read ({reason})", "start anew with --overwrite"
        ) from error


def check_identity(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with something else than what was saved.

    Raises
    ------
    InputError
        Names the first difference.
    """
    for key in {**saved, **now}:
        ours, theirs = saved.get(key), now.get(key)
        if ours != theirs:
            raise InputError(
                "resume",
                f"{key} as in the saved run ({short(ours)})",
                f"{short(theirs)}",
                "leave out what differs, or start anew with --overwrite",
            )


def short(value: Any) -> str:
    """For messages, in one line."""
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"


class Saver:
    """Saves a run's state every so many steps, and when it is interrupted.

    Parameters
    ----------
    path : Path
    saved : Saved
        Where the run starts.
    every : int
        Steps from one save to the next; 0 saves on interruption only.
    decomposition : Decomposition
        Where the slices are. Every rank makes the same calls; the root writes.

    Attributes
    ----------
    position : str or None
        Of the last state that was written.
    """

    def __init__(self, path: Path, saved: Saved, every: int, decomposition: Decomposition = UNDIVIDED):
        self.path, self.every, self._decomposition = path, every, decomposition
        self.position = saved.position if saved.checkpoint is not None or saved.statistics.n else None
        self._saved = saved
        self._started = time.monotonic()
        self._residuals: list[Any] = []
        self._state: State | None = None

    def start(self) -> None:
        """Write the state before the first step, so that there is one from now on; a resumed run has one."""
        if self.every and self._saved.checkpoint is None and self._saved.statistics.n == 0:
            self._save(self._saved)

    def after_step(self, state: State, sigma: float) -> None:
        """A `engine.sampling.reconstruction.Callback`: keep the state, and save it where its turn is."""
        self._state = state
        self._residuals.append(state.residual)
        if self.every and state.step % self.every == 0:
            self._try()

    def after_sample(self, statistics: Statistics) -> None:
        """Go on to the next sample, which starts from nothing."""
        self._saved = replace(self._saved, statistics=statistics, checkpoint=None)
        self._state, self._residuals, self._started = None, [], time.monotonic()
        if self.every:
            self._try()

    def interrupt(self) -> str | None:
        """Save the last state that is complete; return where that is, None where there is nothing to save yet."""
        saved = self._now()
        if saved.checkpoint is None and saved.statistics.n == 0:
            self.finish()
            return None
        self._save(saved)
        return saved.position

    def finish(self) -> None:
        """The results are complete: nothing is left to go on with."""
        if self._decomposition.is_root:
            self.path.unlink(missing_ok=True)

    def _now(self) -> Saved:
        if self._state is None:
            return self._saved
        before = self._saved.checkpoint
        numbers = [float("nan") if r is None else float(r) for r in self._residuals]
        checkpoint = Checkpoint(
            self._state.step,
            self._state.arrays(),
            [*(before.residuals if before else []), *numbers],
            (before.seconds if before else 0.0) + time.monotonic() - self._started,
        )
        return replace(self._saved, checkpoint=checkpoint)

    def _save(self, saved: Saved) -> None:
        if self._decomposition.is_root:
            save(self.path, saved)
        self.position = saved.position

    def _try(self) -> None:
        saved = self._now()
        try:
            self._save(saved)
        except OSError as error:
            # The result is worth more than the state: the run goes on, and the earlier state is still there.
            log.warning("the state at %s could not be saved (%s); an earlier one is kept", saved.position,
                        error.strerror or error)  # fmt: skip
