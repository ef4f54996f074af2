"""Settings: resolved once, within the noise levels that the priors were trained on."""

from __future__ import annotations

import numpy as np
import pytest

from engine.operators import MaskedFourier, Radon
from engine.problems.pose import pose, uncond
from engine.sampling import Settings
from engine.sampling.posterior_mean import Prior
from engine.sampling.reconstruction import reconstruct
from engine.sampling.schedule import Levels, Schedule
from engine.volume import Plane
from kernels import ParallelGeometry
from tests.engine.sampling.test_sampler import Gaussian
from tests.refusals import one_sentence

AXIAL = Plane.parse("axial")
SHAPE = (8, 8, 4)


def csmri():
    operator = MaskedFourier(np.ones((8, 8), np.float32))
    y = operator.apply(np.ones((4, 8, 8), np.float32))
    return pose("csmri", AXIAL, operator, y, {"acceleration": 8.0})


class Trained(Gaussian):
    sigma_range = (0.02, 50.0)


@pytest.mark.parametrize("changes", [{"sigma_max": 5000.0}, {"sigma_min": 0.001}])
def test_levels_outside_of_the_trained_range_are_refused_from_python(changes):
    (name,) = changes
    with one_sentence(name.replace("_", "-"), "0.02 to 50", "trained"):
        reconstruct(csmri(), [Prior(Trained(1.0), AXIAL)], Settings(n_steps=2, **changes))


@pytest.mark.parametrize(
    ("sampler", "first"), [("pc", 378.0), ("ddim", 0.3), ("heun", 0.3)], ids=["pc", "ddim", "heun"]
)
def test_a_run_starts_where_its_priors_know_the_noise(sampler, first):
    settings = Settings(sampler=sampler).resolved(csmri(), (0.01, 378.0))
    assert settings.levels == (0.01, first)
    # Without a measurement nothing but the noise says what to make.
    assert Settings(sampler=sampler).resolved(uncond(SHAPE), (0.01, 378.0)).levels == (0.01, 378.0)


def test_resolved_settings_stay_as_they_are():
    for changes in ({}, {"sampler": "pc"}, {"sampler": "heun"}, {"guidance": "dps", "stable": False}):
        settings = Settings(**changes).resolved(csmri(), (0.01, 50.0))
        assert settings.resolved(csmri(), (0.01, 50.0)) == settings


def test_the_published_sampler_takes_the_published_turns():
    operator = Radon(ParallelGeometry.from_views(8, 5))
    svct = pose("svct", AXIAL, operator, operator.apply(np.ones((4, 8, 8), np.float32)), {"views": 5})
    assert Settings(sampler="pc").resolved(svct).K == 2.7
    assert Settings(sampler="ddim").resolved(svct).K == 2
    assert Settings(sampler="pc", K=3).resolved(svct).K == 3


@pytest.mark.parametrize("kind", [Schedule, Levels])
def test_a_long_schedule_is_computed_once(kind):
    levels = kind(0.01, 50.0, 16_000)
    assert levels.sigmas is levels.sigmas
    assert [levels[i] for i in range(3)] == levels.sigmas[:3].tolist()
