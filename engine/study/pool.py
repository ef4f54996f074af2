"""Workers of a study on a Ray cluster: who has which volume, and what happens when one is lost."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

from engine.errors import InputError
from engine.study.cluster import Needs, library
from engine.study.study import Study, Volume
from engine.study.table import FAILED, STOPPED, Row
from engine.study.worker import Outcome, Place, Worker

log = logging.getLogger("engine")

#: How often a wait is left for signals that came meanwhile.
_LOOK_S = 0.2


class _Slot:
    """A worker, where it is, and what it has."""

    def __init__(self, actor: Any):
        self.actor = actor
        self.place: Place | None = None
        self.volume: Volume | None = None
        self.since = 0.0


#: Called with a volume, the number of the attempt, and where it is made.
OnBegin = Callable[[Volume, int, Place], None]
#: Called with a volume, and with what became of it and a traceback, which is empty unless that is a defect.
OnEnd = Callable[[Row, str], None]
#: Called with a volume that is to be tried again, and why.
OnLost = Callable[[Volume, str], None]


class Pool:
    """Workers, each a Ray actor that is started again, on any node with room, when it dies.

    A volume whose worker dies is the next that any worker takes: Ray's own retries would have it wait for the same
    actor, which may be without a node.

    Parameters
    ----------
    study : Study
    needs : Needs
    n_workers : int
    n_retries : int
        How often a volume may lose its worker and be begun again.
    """

    def __init__(self, study: Study, needs: Needs, n_workers: int, n_retries: int):
        ray = library()
        self._ray, self._n_retries = ray, n_retries
        kind = ray.remote(
            **needs.reserved(),
            max_restarts=-1,
            max_task_retries=0,
            # A worker is told to stop while it works.
            concurrency_groups={"control": 1},
            scheduling_strategy="SPREAD",
        )(Worker)
        self._slots = [_Slot(kind.remote(study, needs.cpus, needs.gpus > 0)) for _ in range(n_workers)]
        self._pending: dict[Any, _Slot] = {}
        self._lost: Counter[Volume] = Counter()
        self._begun: Counter[Volume] = Counter()
        self._seconds: defaultdict[Volume, float] = defaultdict(float)
        for slot in self._slots:
            self._await(slot)

    def plan(self, volumes: Sequence[Volume], is_about: Callable[[Volume, InputError], bool]) -> str:
        """What would be done with the first volume that can be prepared, on a worker; "" where none can be.

        Parameters
        ----------
        volumes : sequence of Volume
        is_about : function
            Whether a complaint is about one volume, so that the next one may do without it.

        Raises
        ------
        InputError
            The options are wrong, or no worker lives that long.
        """
        ready, _ = self._ray.wait([*self._pending], num_returns=1)
        slot = self._pending[ready[0]]
        for volume in volumes:
            try:
                plan, complaint = self._of_study(
                    slot.actor.plan.options(max_task_retries=self._n_retries).remote(volume)
                )
            except _Lost as loss:
                raise InputError(
                    "workers", f"one that lives until '{volume.source}' is planned", f"none ({loss})", "see Ray's logs"
                ) from loss
            if plan:
                return str(plan)
            if not is_about(volume, complaint):
                raise complaint
        return ""

    def run(self, volumes: Sequence[Volume], begin: OnBegin, end: OnEnd, lost: OnLost) -> None:
        """Reconstruct volumes, each once.

        Raises
        ------
        InputError
            No worker can be started.
        """
        waiting = deque(volumes)
        idle: list[_Slot] = []
        while waiting or any(slot.volume for slot in self._pending.values()):
            if not self._pending and not idle:
                raise InputError("workers", "one at least that can be started", "none", "see Ray's logs")
            while waiting and idle:
                self._give(idle.pop(), waiting.popleft(), begin)
            # What nobody waits for may be of use to others.
            for slot in idle:
                self._ray.kill(slot.actor)
            idle.clear()
            ready, _ = self._ray.wait([*self._pending], num_returns=1, timeout=_LOOK_S)
            if not ready:
                continue
            reference = ready[0]
            slot = self._pending.pop(reference)
            volume, slot.volume = slot.volume, None
            if volume is None:
                if self._is_ready(slot, reference):
                    idle.append(slot)
                continue
            try:
                self._end(slot, volume, self._of_study(reference), end)
                idle.append(slot)
            except _Lost as loss:
                self._seconds[volume] += time.monotonic() - slot.since
                self._lost[volume] += 1
                if self._lost[volume] <= self._n_retries:
                    lost(volume, f"{_named(slot)} was lost ({loss})")
                    waiting.appendleft(volume)
                else:
                    why = InputError(
                        "retries",
                        "a worker that lives until the volume is done",
                        f"{self._lost[volume]} that did not, the last being {_named(slot)} ({loss})",
                        "see Ray's logs there, and raise --memory-per-volume or --retries",
                    )
                    end(self._row(slot, volume, Outcome(FAILED, str(why))), "")
                self._await(slot)

    def stop(self, end: OnEnd) -> None:
        """Let running volumes save their state; those that end meanwhile are done."""
        busy = {reference: slot for reference, slot in self._pending.items() if slot.volume is not None}
        for slot in busy.values():
            slot.actor.stop.options(concurrency_group="control").remote()
        for reference, slot in busy.items():
            volume, slot.volume = slot.volume, None
            try:
                outcome = self._of_study(reference)
            except _Lost:
                # Its last state is there all the same.
                continue
            if volume is not None and outcome.status != STOPPED:
                self._end(slot, volume, outcome, end)

    def _give(self, slot: _Slot, volume: Volume, begin: OnBegin) -> None:
        assert slot.place is not None
        slot.volume, slot.since = volume, time.monotonic()
        self._begun[volume] += 1
        begin(volume, self._begun[volume], slot.place)
        self._pending[slot.actor.run.remote(volume)] = slot

    def _end(self, slot: _Slot, volume: Volume, outcome: Outcome, end: OnEnd) -> None:
        self._seconds[volume] += time.monotonic() - slot.since
        end(self._row(slot, volume, outcome), outcome.trace)

    def _row(self, slot: _Slot, volume: Volume, outcome: Outcome) -> Row:
        place = slot.place or Place("", "", 0)
        return Row(
            *(str(volume.source), outcome.status, outcome.message, self._begun[volume]),
            *(place.host, place.node, place.process, round(self._seconds[volume], 3)),
            outcome.figures,
        )

    def _await(self, slot: _Slot) -> None:
        """Have a worker say where it is, as soon as it lives, has room and nothing else to do."""
        self._pending[slot.actor.place.options(max_task_retries=-1).remote()] = slot

    def _is_ready(self, slot: _Slot, reference: Any) -> bool:
        try:
            slot.place = self._of_study(reference)
        except _Lost as loss:
            log.warning("a worker cannot be started (%s)", loss)
            return False
        return True

    def _of_study(self, reference: Any) -> Any:
        """What a call returned.

        Raises
        ------
        _Lost
            Whoever should have returned it is gone.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError:
            # A defect of ours: workers turn all that a volume can do into an outcome.
            raise
        except errors.RayError as error:
            raise _Lost(type(error).__name__) from error


class _Lost(Exception):
    """A worker, or its node, is gone."""


def _named(slot: _Slot) -> str:
    return "a worker" if slot.place is None else f"process {slot.place.process} on {slot.place.host}"
