"""Noise levels follow the published discretisation, and the plan follows K."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.errors import InputError
from engine.sampling.schedule import Levels, Schedule, plan_of, turns

PUBLISHED = Schedule(0.01, 378.0, 2000)
CASES = [PUBLISHED, Schedule(0.01, 50.0, 12), Schedule(0.5, 2.0, 2), Schedule(1e-3, 1.0, 3)]


@pytest.mark.parametrize("schedule", CASES, ids=str)
def test_sigmas_are_geometric_in_times_from_1_to_1e_5(schedule):
    n = schedule.n_steps
    expected = []
    for i in range(n):
        t = 1 + (1e-5 - 1) * i / (n - 1)
        expected.append(math.exp((1 - t) * math.log(schedule.sigma_min) + t * math.log(schedule.sigma_max)))
    # Both sides are float64; the exponent is of the order of ten.
    np.testing.assert_allclose(schedule.sigmas, expected, rtol=1e-13)


@pytest.mark.parametrize("schedule", CASES, ids=str)
def test_variance_drops_are_differences_of_geometric_levels(schedule):
    n = schedule.n_steps
    ratio = (schedule.sigma_max / schedule.sigma_min) ** (1 / (n - 1))
    levels = [schedule.sigma_min * ratio**j for j in range(n)]
    for i in range(n):
        j = n - 1 - i
        below = levels[j - 1] if j > 0 else 0.0
        # The difference of neighbouring squares cancels at most three digits of float64 at 2000 levels.
        assert schedule.variance_drops[i] == pytest.approx(levels[j] ** 2 - below**2, rel=1e-10)


@pytest.mark.parametrize("schedule", CASES, ids=str)
def test_first_and_last_levels(schedule):
    assert schedule.sigmas[0] == pytest.approx(schedule.sigma_max, rel=1e-13)
    # The last time is 1e-5, not 0: the level stays above the smallest by that power of the whole ratio.
    assert schedule.sigmas[-1] / schedule.sigma_min == pytest.approx(
        (schedule.sigma_max / schedule.sigma_min) ** 1e-5, rel=1e-13
    )
    assert schedule.sigmas[-1] > schedule.sigma_min
    # Below the smallest discrete level there is none: the last drop takes all that is left.
    assert schedule.variance_drops[-1] == pytest.approx(schedule.sigma_min**2, rel=1e-12)
    assert schedule.variance_drops.sum() == pytest.approx(schedule.sigma_max**2, rel=1e-12)
    assert (np.diff(schedule.sigmas) < 0).all()
    assert (schedule.variance_drops > 0).all()


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.1, math.nan), (0.1, math.inf)],
)
def test_sigma_range_out_of_order_is_refused(low, high):
    with pytest.raises(InputError, match=r"^sigma: expected .*, got .*; .*$"):
        Schedule(low, high, 10)


@pytest.mark.parametrize("n_steps", [1, 0, -5])
def test_fewer_than_two_steps_are_refused(n_steps):
    with pytest.raises(InputError, match=rf"^steps: expected 2 to 1000000, got {n_steps}; "):
        Schedule(0.01, 1.0, n_steps)


@pytest.mark.parametrize("seed", [0, 1])
def test_integer_K_gives_the_auxiliary_every_kth_step(seed):
    assert turns(2, 5, seed).tolist() == [True, False, True, False, True]
    assert turns(3, 7, seed).tolist() == [True, True, False, True, True, False, True]
    assert turns(10, 4, seed).all()


def test_integer_K_of_numpy_is_an_integer():
    np.testing.assert_array_equal(turns(np.int64(3), 9, 0), turns(3, 9, 0))


@pytest.mark.parametrize("K", [2.0, 2.7, 1.25, 10.0])
def test_float_K_gives_the_auxiliary_a_share_of_one_in_K(K):
    n = 20000
    share = 1 - turns(K, n, seed=3).mean()
    # Five standard deviations of a binomial share.
    assert share == pytest.approx(1 / K, abs=5 * math.sqrt((1 / K) * (1 - 1 / K) / n))


def test_float_K_depends_on_the_seed_alone():
    np.testing.assert_array_equal(turns(2.7, 500, 1), turns(2.7, 500, 1))
    assert (turns(2.7, 500, 1) != turns(2.7, 500, 2)).any()
    # A run of other length begins with the same turns.
    np.testing.assert_array_equal(turns(2.7, 500, 1)[:100], turns(2.7, 100, 1))


def test_a_whole_number_with_a_point_is_drawn_at_random():
    assert (turns(2.0, 200, 0) != turns(2, 200, 0)).any()


def test_K_of_one_with_a_point_leaves_the_primary_no_turn():
    assert not turns(1.0, 1000, 0).any()


@pytest.mark.parametrize("K", [1, 0, -1, 0.5, 0.0, -1.0, 0.999, math.nan, math.inf, -math.inf])
def test_K_out_of_range_is_refused(K):
    with pytest.raises(InputError, match=r"^K: expected .*, got .*; .*$"):
        turns(K, 10, 0)


# --- levels of the samplers of first and second order


@pytest.mark.parametrize("power", [1.0, 3.0, 7.0, 50.0])
def test_levels_fall_in_equal_steps_of_a_root(power):
    levels = Levels(0.01, 50.0, 12, power)
    roots = levels.sigmas ** (1 / power)
    np.testing.assert_allclose(np.diff(roots), np.diff(roots)[0], rtol=1e-9)
    assert levels.sigmas[0] == pytest.approx(50.0)
    assert levels.sigmas[-1] == pytest.approx(0.01)
    assert [levels[i + 1] for i in range(12)] == [*levels.sigmas[1:], 0.0]


@pytest.mark.parametrize(("low", "high", "n"), [(0.0, 1.0, 5), (1.0, 1.0, 5), (0.1, math.inf, 5), (0.1, 1.0, 1)])
def test_levels_out_of_range_are_refused(low, high, n):
    with pytest.raises(InputError, match=r"^(sigma|steps): expected .*, got .*; .*$"):
        Levels(low, high, n)


# --- whose turn it is among several priors


def test_a_plan_follows_the_turns():
    np.testing.assert_array_equal(plan_of(2, 2.7, 100, 4) == 0, turns(2.7, 100, 4))
    assert plan_of(1, 2, 5, 0).tolist() == [0] * 5


def test_auxiliary_priors_share_their_turns():
    assert plan_of(3, 2, 8, 0).tolist() == [0, 1, 0, 2, 0, 1, 0, 2]
    assert plan_of(3, 3, 9, 0).tolist() == [0, 0, 1, 0, 0, 2, 0, 0, 1]
