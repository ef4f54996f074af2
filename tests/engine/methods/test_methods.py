"""Methods by name: what each does, and what it refuses."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from engine.errors import InputError
from engine.methods import METHODS, solve
from engine.problems.tasks import Measurement, simulate
from engine.sampling import Settings, reconstruct
from engine.sampling.posterior_mean import Prior
from engine.sampling.problem import InverseProblem
from engine.volume import Plane
from tests.engine.sampling.test_sampler import Gaussian

AXIAL, CORONAL = Plane.parse("axial"), Plane.parse("coronal")
PRIORS = (Prior(Gaussian(0.3), AXIAL), Prior(Gaussian(0.3), CORONAL))
SIDE = 16
SHAPE = (SIDE, SIDE, SIDE)
SETTINGS = Settings(n_steps=4)


def boxes() -> np.ndarray:
    """A volume of few edges: what total variation is made for."""
    x = np.zeros(SHAPE, np.float32)
    x[3:13, 2:12, 4:14] = 0.6
    x[6:10, 5:9, 6:11] = 1.0
    return x


def task_of(name: str, priors=PRIORS) -> InverseProblem:
    how = Measurement(acceleration=3, factor=4, views=9)
    return simulate(name, None if name == "uncond" else boxes(), priors[0].plane, how, SHAPE)


def error(volume: np.ndarray) -> float:
    return float(np.linalg.norm(volume - boxes()))


def test_the_product_of_priors_takes_all_of_them():
    task = task_of("csmri")
    expected = reconstruct(task, PRIORS, SETTINGS)
    assert solve("tpdm", task, PRIORS, SETTINGS).volume.tobytes() == expected.volume.tobytes()
    assert set(expected.plan) == {0, 1}


@pytest.mark.parametrize("guidance", ["dps", "proximal"])
def test_one_prior_leaves_the_others_alone(guidance):
    class Untouchable(Gaussian):
        def _denoise(self, x, sigma):
            raise AssertionError("the other prior was asked")

    priors = (PRIORS[0], Prior(Untouchable(0.3), CORONAL))
    result = solve("single", task_of("csmri"), priors, Settings(n_steps=4, guidance=guidance))
    assert (result.plan == 0).all()
    assert result.n_evaluations == 4


@pytest.mark.parametrize("name", ["csmri", "svct"])
def test_the_classical_picture_is_the_tasks_own(name):
    task = task_of(name)
    result = solve("classical", task, (), SETTINGS)
    np.testing.assert_array_equal(result.volume, task.classical())
    assert result.n_evaluations == 0
    assert result.residuals[-1] == pytest.approx(
        np.linalg.norm(task.operator.apply(AXIAL.slices_of(result.volume)) - task.measurement), rel=1e-5
    )


def test_thick_slices_are_interpolated():
    """A cubic through the centres of thick slices, of what changes slowly, is nearer than repeated slices."""
    plane = PRIORS[1].plane
    wave = np.sin(np.linspace(0, np.pi, SIDE, dtype=np.float32))
    truth = np.broadcast_to(wave, SHAPE).copy()
    task = simulate("mrzsr", truth, plane, Measurement(factor=4))
    found = solve("classical", task, (), SETTINGS).volume
    repeated = plane.volume_of(task.operator.repeated(task.measurement))
    inner = np.s_[:, :, 3:-3]
    assert np.abs((found - truth)[inner]).max() < 0.5 * np.abs((repeated - truth)[inner]).max()


@pytest.mark.parametrize("name", ["csmri", "svct"])
def test_total_variation_restores_a_volume_of_few_edges(name):
    task = task_of(name)
    result = solve("tv", task, (), SETTINGS)
    assert error(result.volume) < 0.5 * error(solve("classical", task, (), SETTINGS).volume)
    assert result.n_evaluations == 0
    assert result.settings.sparsity_weight > 0


def test_units_do_not_change_what_total_variation_finds():
    task = task_of("csmri")
    large = simulate("csmri", 100 * boxes(), AXIAL, Measurement(acceleration=3))
    one, other = (solve("tv", t, (), SETTINGS).volume for t in (task, large))
    np.testing.assert_allclose(other / 100, one, atol=1e-3)


def test_total_variation_falls():
    def variation(x):
        return sum(np.abs(np.diff(x, axis=axis)).sum() for axis in range(3))

    task = task_of("csmri")
    zero_filled = solve("classical", task, (), SETTINGS).volume
    assert variation(solve("tv", task, (), SETTINGS).volume) < 0.8 * variation(zero_filled)


@pytest.mark.parametrize("name", ["csmri", "svct", "mrzsr"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_does_every_task(method, name):
    priors = PRIORS[::-1] if name == "mrzsr" else PRIORS
    result = solve(method, task_of(name, priors), priors, SETTINGS)
    assert result.volume.shape == SHAPE and result.volume.dtype == np.float32
    assert np.isfinite(result.volume).all()
    assert np.isfinite(result.residuals).all()


@pytest.mark.parametrize("method", ["dds", "diffusionmbir"])
def test_the_seed_decides_all_chance(method):
    task = task_of("svct")
    one, same, other = (
        solve(method, task, PRIORS, Settings(n_steps=3, seed=seed)).volume.tobytes() for seed in (1, 1, 2)
    )
    assert one == same != other


@pytest.mark.parametrize(("method", "n_evaluations"), [("dds", 4), ("diffusionmbir", 8)])
def test_methods_across_slices_leave_the_other_priors_alone(method, n_evaluations):
    class Untouchable(Gaussian):
        def _denoise(self, x, sigma):
            raise AssertionError("the other prior was asked")

    seen = []
    priors = (PRIORS[0], Prior(Untouchable(0.3), CORONAL))
    callback = lambda state, sigma: seen.append((state.step, sigma))  # noqa: E731
    result = solve(method, task_of("csmri"), priors, SETTINGS, callback)
    assert result.n_evaluations == n_evaluations
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert (np.diff([sigma for _, sigma in seen]) < 0).all()
    assert result.settings.sparsity_weight > 0 and result.settings.sigma_max == seen[0][1]


# --- what is refused


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match=r"^method: expected one of tpdm, .*, got 'magic'; choose one$"):
        solve("magic", task_of("csmri"), PRIORS, SETTINGS)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.needs_measurement])
def test_a_task_without_measurement_is_refused_where_one_is_needed(name):
    with pytest.raises(InputError, match=rf"^task: expected one with a measurement for the method {name}"):
        solve(name, task_of("uncond"), PRIORS, SETTINGS)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.n_priors != 0])
def test_a_task_measured_in_another_plane_is_refused(name):
    with pytest.raises(InputError, match=r"^problem: expected a measurement in the primary prior's plane .* swap"):
        solve(name, task_of("csmri"), PRIORS[::-1], SETTINGS)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.n_priors != 0])
def test_too_few_priors_are_refused(name):
    with pytest.raises(InputError, match=rf"^priors: expected at least 1 for the method {name}, got 0"):
        solve(name, task_of("csmri"), (), SETTINGS)


@pytest.mark.parametrize("name", ["tv", "wavelet"])
def test_without_sigpy_its_methods_say_what_to_install(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "sigpy", None)
    with pytest.raises(InputError, match=rf"^method: expected sigpy, whose solver {name} uses, got none; `pip"):
        solve(name, task_of("csmri"), (), SETTINGS)


@pytest.mark.parametrize("name", ["tv", "wavelet", "dds", "diffusionmbir"])
def test_a_problem_of_the_users_own_needs_a_weight(name):
    nameless = replace(task_of("csmri"), name="")
    with pytest.raises(InputError, match=r"^sparsity_weight: expected a weight for a problem that is not csmri"):
        solve(name, nameless, PRIORS, SETTINGS)
    stated = replace(SETTINGS, sparsity_weight=1e-4)
    assert np.isfinite(solve(name, nameless, PRIORS, stated).volume).all()
