"""Whether a run that takes long, or much memory, was meant."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from engine.errors import InputError
from engine.job.cost import Cost
from engine.options import Options, option

#: Longer runs are asked about, in seconds.
LONG_S = 3600.0


@dataclass(frozen=True)
class Consent(Options):
    """Runs that are not to start by accident."""

    yes: bool = option(
        False, help="start without asking also what takes more than an hour, or more memory than the machine has"
    )


def check_meant(cost: Cost, consent: Consent, *, can_ask: bool | None = None) -> None:
    """Ask, or where nobody can answer refuse, before a run takes more than an hour or the machine's memory.

    Parameters
    ----------
    cost : Cost
    consent : Consent
    can_ask : bool, optional
        Whether somebody reads and answers; None: whether input and messages are a terminal's.

    Raises
    ------
    InputError
        Nobody was asked, or the answer was no.
    """
    is_long = cost.seconds is not None and cost.seconds > LONG_S
    if consent.yes or not (is_long or cost.n_bytes > cost.machine_bytes):
        return
    if can_ask is None:
        can_ask = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
    got = f"{cost}"
    if can_ask:
        sys.stderr.write(f"this run takes {got}; start it? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
        got += ", and no yes"
    raise InputError(
        "yes",
        "--yes for more than an hour or the machine's memory",
        got,
        "add --yes, or take fewer --steps or a smaller volume",
    )
