"""The parts of a step add up to it, whichever threads they were spent in."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.step import ARITHMETIC, NETWORK, NOISE, OPERATOR, ORDER, Stopwatch, shares, table


def test_parts_are_core_time_and_add_up():
    # Two cores: 7 s each in graphs, 1 s each in cotangents, then 0.5 s of both.
    parts = Counter({NETWORK: 14.0, OPERATOR: 2.0, ARITHMETIC: 0.25, NOISE: 0.15, ORDER: 0.1})
    found = shares([10.0] * 3, [parts] * 3, cores=2)
    medians = {name: part["median"] for name, part in found["parts"].items()}
    assert medians == pytest.approx(
        {NETWORK: 7.0, OPERATOR: 1.0, ARITHMETIC: 0.25, NOISE: 0.15, ORDER: 0.1, "rest": 1.5}
    )
    assert sum(medians.values()) == pytest.approx(found["seconds"]["median"])
    assert found["share_outside_network"]["median"] == pytest.approx(0.15)
    assert found["share_rest"]["median"] == pytest.approx(0.15)
    assert "15.00 %" in table({"row": found})


def test_a_stopwatch_adds_the_time_of_every_thread():
    watch = Stopwatch()
    sleep = watch.timed(OPERATOR, time.sleep)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(sleep, [0.05] * 4))
    with pytest.raises(ZeroDivisionError):
        watch.timed(NETWORK, lambda: 1 / 0)()
    taken = watch.take()
    assert taken[OPERATOR] >= 4 * 0.05
    assert taken[NETWORK] > 0
    assert not watch.take()
