"""What a study tells while it works: a bar for people, or lines of JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TextIO

from tqdm import tqdm

from engine.job.progress import Silent
from engine.study.table import FAILED


class Bar(Silent):
    """A bar on standard error: volumes that are done, and how many of them failed.

    Parameters
    ----------
    n_volumes : int
    n_done : int
        By earlier calls.
    """

    def __init__(self, n_volumes: int, n_done: int):
        self._bar = tqdm(total=n_volumes, initial=n_done, unit="volume", dynamic_ncols=True)
        self._n_failed = 0

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def say(self, event: str, details: Mapping[str, Any]) -> None:
        if event != "volume":
            return
        self._n_failed += details["status"] == FAILED
        self._bar.set_postfix_str(f"failed {self._n_failed}", refresh=False)
        self._bar.update()


class Lines(Silent):
    """One JSON object a line, each with the name of an event.

    - plan: what --dry-run shows
    - start: volumes, done (by earlier calls), workers, out
    - begin: input, attempt counted from 1, host, node, worker
    - retry: input, and why it is begun again
    - volume: the row of the table, of a volume that is done or failed
    - end: done, failed, seconds, out
    - error: message, code

    Parameters
    ----------
    stream : text file
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def say(self, event: str, details: Mapping[str, Any]) -> None:
        print(json.dumps({"event": event, **details}), file=self._stream, flush=True)
