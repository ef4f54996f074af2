"""Reconstruction methods by name: the product of priors, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.errors import InputError
from engine.estimator import Prior
from engine.methods import classical, single, total_variation, tpdm
from engine.reconstruct import Callback, Reconstruction, Settings
from engine.tasks import Task


@dataclass(frozen=True)
class Method:
    """A way from a measurement to a volume.

    Parameters
    ----------
    title : str
        For tables.
    n_priors : int or None
        How many priors it takes, the first of those given; None takes all.
    solve : function
        Of task, priors, shape, settings and callback. Its arguments have been checked by `solve` below.
    needs_measurement : bool
        Whether it can do nothing without one.
    """

    title: str
    n_priors: int | None
    solve: Callable[[Task, Sequence[Prior], tuple[int, int, int], Settings, Callback | None], Reconstruction]
    needs_measurement: bool = True


METHODS: dict[str, Method] = {
    "tpdm": Method("TPDM (perpendicular priors)", None, tpdm.solve, needs_measurement=False),
    "single": Method("one prior, slice by slice", 1, single.solve, needs_measurement=False),
    "tv": Method("total variation, 3D", 0, total_variation.solve),
    "classical": Method("classical (zero-filled, filtered back-projection, cubic)", 0, classical.solve),
}


def solve(
    name: str,
    task: Task,
    priors: Sequence[Prior],
    shape: tuple[int, int, int],
    settings: Settings,
    callback: Callback | None = None,
) -> Reconstruction:
    """Reconstruct a volume by the method of that name.

    Parameters
    ----------
    name : str
        One of `METHODS`.
    task : Task
        From `engine.tasks.simulate`.
    priors : sequence of Prior
        The first one's plane is the task's; a method takes as many as it needs and leaves the others alone.
    shape : (int, int, int)
        Of the volume.
    settings : Settings
        A method reads those that concern it. In the result are those that were used.
    callback : function, optional
        Called after every noise level; never by methods without a prior.

    Returns
    -------
    Reconstruction

    Raises
    ------
    InputError
        An unknown name, too few priors, a task without a measurement where one is needed, or what the method refuses.
    """
    check(name, task, len(priors))
    method = METHODS[name]
    return method.solve(task, priors[: method.n_priors], shape, settings, callback)


def check(name: str, task: Task, n_priors: int) -> None:
    """Refuse what a method cannot do, before anything is computed.

    Raises
    ------
    InputError
        An unknown name, too few priors, or a task without a measurement where one is needed.
    """
    if name not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}, got '{name}'; choose one")
    method = METHODS[name]
    if method.needs_measurement and (task.operator is None or task.measurement is None):
        free = " or ".join(name for name, other in METHODS.items() if not other.needs_measurement)
        raise InputError(
            f"task: expected one with a measurement for the method {name}, got '{task.name}'; choose the method {free}"
        )
    n_needed = 1 if method.n_priors is None else method.n_priors
    if n_priors < n_needed:
        raise InputError(
            f"priors: expected at least {n_needed} for the method {name}, got {n_priors}; pass the primary plane's"
        )
