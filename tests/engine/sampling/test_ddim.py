"""Samplers of first and second order with a denoiser whose flow and posterior are known."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from engine.operators import ThickSlices
from engine.parallel.stack import Stack
from engine.sampling.ddim import Ddim
from engine.sampling.dps import Dps
from engine.sampling.heun import Heun
from engine.sampling.noise import CounterNoise, Phase
from engine.sampling.posterior_mean import ALL, PosteriorMean, Prior
from engine.sampling.proximal import ProximalConsistency
from engine.sampling.sampler import State
from engine.sampling.schedule import Levels, plan_of
from engine.volume import Plane
from tests.engine.sampling.test_sampler import Gaussian

AXIAL, CORONAL, SAGITTAL = (Plane.parse(name) for name in ("axial", "coronal", "sagittal"))
S, SHAPE = 1.3, (10, 12, 8)


def sampler_of(kind, levels, *, planes=(AXIAL, CORONAL), eta=0.0, mix_all=False, denoiser=None, **consistency):
    priors = tuple(Prior(denoiser or Gaussian(S), plane) for plane in planes)
    n = len(priors)
    plan = np.full(levels.n_steps, ALL) if mix_all else plan_of(n, 2, levels.n_steps, 0)
    shares = (1 / n,) * n
    return kind(PosteriorMean(priors, plan, shares, **consistency), levels, CounterNoise(5), eta)


def of(x):
    return Stack.scattered(x, AXIAL)


def volume(state):
    return state.x.gathered()


def run(sampler, x, n=None):
    state = State(of(x))
    for _ in range(sampler.levels.n_steps if n is None else n):
        state = sampler.step(state)
    return state


def start(sigma, shape=SHAPE):
    normal = CounterNoise(1).draw(0, Phase.START, AXIAL, shape)
    return AXIAL.volume_of(np.float32(sigma) * normal)


def flow(x, one, other):
    """The probability flow of a normal of standard deviation S."""
    return x * np.sqrt((S**2 + other**2) / (S**2 + one**2))


@pytest.mark.parametrize(("kind", "order"), [(Ddim, 1), (Heun, 2)])
def test_error_falls_with_the_order(kind, order):
    """Twice the steps: half the error, or a quarter."""
    x = start(20.0)
    errors = []
    for n in (40, 80, 160):
        # The last step jumps to zero noise, which for the flow ends in the last x̂₀ instead: compare before it.
        levels = Levels(0.05, 20.0, n)
        found = volume(run(sampler_of(kind, levels), x, n - 1))
        errors.append(np.abs(found - flow(x, 20.0, 0.05)).max())
    for one, other in pairwise(errors):
        assert one / other == pytest.approx(2**order, rel=0.25)


@pytest.mark.parametrize("kind", [Ddim, Heun])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_noise_levels_are_kept(kind, eta):
    """A run through the levels, started with the right spread, keeps the spread that each level asks for."""
    shape, levels = (40, 40, 40), Levels(0.5, 20.0, 60)
    sampler = sampler_of(kind, levels, eta=eta)
    x = start(np.hypot(S, 20.0), shape)
    state = State(of(x))
    for i in range(levels.n_steps - 1):
        state = sampler.step(state)
        expected = levels.sigmas[i + 1] ** 2
        # η = 1 takes x̂₀ for the truth, which lacks the variance that the noise has hidden: never more than the prior's.
        assert expected * 0.95 < state.x.data.var() < (expected + S**2) * 1.05
    if eta == 0:
        assert state.x.data.var() == pytest.approx(S**2 + levels.sigmas[-1] ** 2, rel=0.1)


@pytest.mark.parametrize("kind", [Ddim, Heun])
def test_all_new_noise_is_the_plug_and_play_iteration(kind):
    levels = Levels(0.1, 2.0, 5)
    sampler = sampler_of(kind, levels, eta=1.0)
    x = start(2.0)
    for i in range(2):
        sigma, after = levels.sigmas[i], levels[i + 1]
        z = AXIAL.volume_of(sampler.noise.draw(i, Phase.PREDICTOR, AXIAL, SHAPE))
        expected = S**2 / (S**2 + sigma**2) * x + after * z
        found = volume(sampler.step(State(of(x), i)))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        x = found


@pytest.mark.parametrize("kind", [Ddim, Heun])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_less_noise_is_added_where_that_is_asked_for(kind, eta):
    """What differs between two scales is that part of the new noise, and nothing of what the network is told."""
    levels, x = Levels(0.1, 2.0, 5), start(2.0)
    found = {}
    for scale in (1.0, 0.25, 0.0):
        sampler = replace(sampler_of(kind, levels, eta=eta), noise_scale=scale)
        found[scale] = volume(sampler.step(State(of(x))))
    new = levels[1] * eta * AXIAL.volume_of(sampler.noise.draw(0, Phase.PREDICTOR, AXIAL, SHAPE))
    for scale in (1.0, 0.25):
        np.testing.assert_allclose(found[scale] - found[0.0], scale * new, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Ddim, Heun])
def test_the_last_step_ends_in_the_estimate(kind):
    levels = Levels(0.1, 2.0, 5)
    x = start(0.5)
    found = volume(sampler_of(kind, levels).step(State(of(x), 4)))
    np.testing.assert_allclose(found, S**2 / (S**2 + 0.1**2) * x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", [Ddim, Heun])
def test_evaluations_are_counted_right(kind, eta):
    class Counted(Gaussian):
        calls = 0

        def _denoise(self, x, sigma):
            Counted.calls += 1
            return super()._denoise(x, sigma)

    sampler = sampler_of(kind, Levels(0.1, 2.0, 6), eta=eta, denoiser=Counted(S))
    run(sampler, start(2.0))
    assert Counted.calls == sampler.n_estimates


def test_a_second_slope_is_the_next_turns():
    """Where two priors alternate, both are seen in every step."""

    class Named(Gaussian):
        seen: tuple = ()

        def __init__(self, name):
            super().__init__(S)
            self.name = name

        def _denoise(self, x, sigma):
            Named.seen += ((self.name, round(sigma, 6)),)
            return super()._denoise(x, sigma)

    levels = Levels(0.1, 2.0, 4)
    priors = (Prior(Named("P"), AXIAL), Prior(Named("A"), CORONAL))
    sampler = Heun(PosteriorMean(priors, plan_of(2, 2, 4, 0), (0.5, 0.5)), levels, CounterNoise(0))
    run(sampler, start(2.0), 2)
    s = [round(float(x), 6) for x in levels.sigmas]
    assert Named.seen == (("P", s[0]), ("A", s[1]), ("A", s[1]), ("P", s[2]))


# --- the product of priors


@pytest.mark.parametrize("planes", [(AXIAL, CORONAL), (AXIAL, CORONAL, SAGITTAL)], ids=["two", "three"])
def test_a_sum_of_equal_priors_is_one_of_them(planes):
    levels = Levels(0.1, 2.0, 5)
    x = start(2.0)
    alone = volume(run(sampler_of(Ddim, levels, planes=(AXIAL,)), x))
    mixed, turns = (volume(run(sampler_of(Ddim, levels, planes=planes, mix_all=m), x)) for m in (True, False))
    np.testing.assert_allclose(mixed, alone, atol=1e-5)
    # A prior of single voxels does not know its plane.
    np.testing.assert_allclose(turns, alone, atol=1e-5)


def test_a_sum_weighs_by_shares():
    x = start(1.0)
    priors = (Prior(Gaussian(0.5), AXIAL), Prior(Gaussian(2.0), SAGITTAL))
    posterior_mean = PosteriorMean(priors, np.full(2, ALL), (0.25, 0.75))
    found, _ = posterior_mean(of(x), 1.0, 0)
    expected = (0.25 * 0.25 / 1.25 + 0.75 * 4 / 5) * x
    np.testing.assert_allclose(found.gathered(), expected, rtol=1e-5, atol=1e-6)
    assert posterior_mean.plane_at(0) == AXIAL


# --- with a measurement


def thick(truth):
    operator = ThickSlices(AXIAL.shape_of(SHAPE)[1:], 2, axis=2)
    return operator, operator.apply(AXIAL.slices_of(truth))


@pytest.mark.parametrize("mix_all", [False, True], ids=["alternate", "sum"])
@pytest.mark.parametrize(("kind", "eta"), [(Ddim, 1.0), (Ddim, 0.3), (Heun, 0.0)])
def test_proximal_result_agrees_with_the_measurement_in_any_planes_turn(kind, eta, mix_all):
    truth = start(S)
    operator, y = thick(truth)
    sampler = sampler_of(
        kind, Levels(0.01, 2.0, 9), eta=eta, planes=(AXIAL, CORONAL, SAGITTAL), mix_all=mix_all,
        consistency=ProximalConsistency(operator, y),
    )  # fmt: skip
    state = run(sampler, start(2.0))
    np.testing.assert_allclose(operator.apply(state.x.to(AXIAL).data), y, atol=1e-4)
    assert float(state.residual) > 0


@pytest.mark.parametrize("kind", [Ddim, Heun])
def test_dps_lowers_the_residual(kind):
    truth = start(S)
    operator, y = thick(truth)
    sampler = sampler_of(kind, Levels(0.01, 2.0, 30), dps=Dps(operator, y, 0.5, stable=True))
    without = replace(sampler, posterior_mean=replace(sampler.posterior_mean, dps=None))
    x = start(2.0)

    def residual(x):
        return np.linalg.norm(operator.apply(AXIAL.slices_of(x)) - y)

    assert residual(volume(run(sampler, x))) < 0.3 * residual(volume(run(without, x)))


@pytest.mark.parametrize(("kind", "eta"), [(Ddim, 0.0), (Ddim, 1.0), (Heun, 0.3), (Heun, 0.0)])
def test_a_step_is_pure_and_the_same_in_every_library(xp, to_numpy, kind, eta):
    truth = start(S)
    operator, y = thick(truth)
    levels = Levels(0.1, 2.0, 4)
    ours = sampler_of(kind, levels, eta=eta, consistency=ProximalConsistency(operator, y))
    same = sampler_of(kind, levels, eta=eta, consistency=ProximalConsistency(operator, xp.asarray(y)))
    state = State(of(start(2.0)))
    there = replace(state, x=state.x.of(xp.asarray(state.x.data)))
    for _ in range(levels.n_steps):
        before = state.x.data.tobytes()
        state.x.data.flags.writeable = False
        after = ours.step(state)
        assert state.x.data.tobytes() == before
        assert after.x.data.tobytes() == ours.step(state).x.data.tobytes()
        assert after.x.data.dtype == np.float32
        there = same.step(there)
        assert isinstance(there.x.data, xp.ndarray)
        assert isinstance(there.residual, xp.ndarray)
        np.testing.assert_allclose(to_numpy(there.x.data), after.x.data, atol=1e-5)
        state = after
