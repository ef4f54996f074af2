"""What a run tells while it works: a bar for people, or lines of JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from engine.options import Options, option
from engine.sampling.sampler import State

PROGRESS = ("bar", "lines", "none")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Told(Options):
    """What a program says while it works."""

    progress: str = option(
        "bar", choices=PROGRESS, help="bar; lines: JSON objects on standard output, for machines; none"
    )
    log_level: str = option("warning", choices=LOG_LEVELS, help="least important messages on standard error")
    quiet: bool = option(False, help="no progress, errors only")


class Progress(Protocol):
    """Listens to a run; a context manager."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, event: str, details: Mapping[str, Any]) -> None:
        """Something other than a step happened."""

    def after_step(self, state: State, sigma: float) -> None:
        """A step is done."""


class Silent:
    """Says nothing, and reads nothing from a GPU while that works."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, event: str, details: Mapping[str, Any]) -> None:
        pass

    def after_step(self, state: State, sigma: float) -> None:
        pass


class Bar(Silent):
    """A bar on standard error with noise level and residual.

    Parameters
    ----------
    n_steps : int
        Of all samples.
    n_done : int
        Steps that an earlier process did.
    """

    def __init__(self, n_steps: int, n_done: int = 0):
        self._bar = tqdm(total=n_steps, initial=n_done, unit="step", dynamic_ncols=True)

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def after_step(self, state: State, sigma: float) -> None:
        residual = "–" if state.residual is None else f"{float(state.residual):.4g}"
        self._bar.set_postfix_str(f"σ {sigma:.3g}, residual {residual}", refresh=False)
        self._bar.update()


class Lines(Silent):
    """One JSON object a line on standard output, each with the name of an event.

    - plan: what --dry-run shows
    - start: task, shape, method, n_steps, n_samples, out
    - step: step, counted from 1 within a sample, sigma, and the data residual or null
    - saved: where a state was saved
    - sample: number of a finished sample
    - end: out, metrics, seconds
    - error: message, code
    """

    def say(self, event: str, details: Mapping[str, Any]) -> None:
        print(json.dumps({"event": event, **details}), flush=True)

    def after_step(self, state: State, sigma: float) -> None:
        residual = None if state.residual is None else float(np.float64(state.residual))
        self.say("step", {"step": state.step, "sigma": sigma, "residual": residual})


def progress_of(kind: str, n_steps: int, n_done: int) -> Progress:
    """The one of a name: bar, lines or none."""
    if kind == "lines":
        return Lines()
    return Bar(n_steps, n_done) if kind == "bar" and n_steps else Silent()
