"""The training loop: it learns, and its checkpoints load and resume as if nothing had stopped it."""

from __future__ import annotations

import csv
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.errors import InputError
from engine.volume import Plane
from networks import load_checkpoint
from networks.checkpoint import read_stored
from tests.training.conftest import TINY, new_network
from training import loop
from training.loop import LossScale, Schedule, log_uniform_sigma, score_matching_loss
from training.patches import PatchSampler


def curve_of(training):
    with training.out.with_suffix(".csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


class Changed(PatchSampler):
    """A sampler whose draw number `n_draws` + 1 raises an error, or gives NaN where there is none."""

    def __init__(self, sampler, n_draws=-1, error=None, **attributes):
        self.__dict__.update(vars(sampler) | attributes)
        self.left, self.error = n_draws, error

    def draw(self, n, seed):
        self.left -= 1
        if self.left == -1 and self.error:
            raise self.error
        return super().draw(n, seed) * (float("nan") if self.left == -1 else 1.0)


class Clock:
    """Advances by a fixed time at every look."""

    def __init__(self, step_s):
        self.now, self.step_s = 0.0, step_s

    def monotonic(self):
        self.now += self.step_s
        return self.now


def test_loss_of_known_scores():
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.rand(3, 1, 8, 8, generator=generator), torch.randn(3, 1, 8, 8, generator=generator)
    sigma = torch.tensor([0.1, 1.0, 30.0])
    s = sigma[:, None, None, None]
    nothing = score_matching_loss(lambda x, sigma: torch.zeros_like(x), clean, sigma, noise)
    torch.testing.assert_close(nothing, noise.square().mean(dim=(1, 2, 3)))
    perfect = score_matching_loss(lambda x, sigma: (clean - x) / s**2, clean, sigma, noise)
    # (x + σz) − x in float32 at σ = 0.1 keeps six digits of z.
    assert perfect.max() < 1e-9


def test_noise_levels_are_stratified():
    sigma = log_uniform_sigma(16, 0.01, 50.0, torch.Generator().manual_seed(0)).double()
    t = torch.log(sigma / 0.01) / np.log(50.0 / 0.01)
    # One level in each sixteenth of the logarithmic range; 1e-6: float32 rounding at the borders.
    assert (t >= torch.arange(16) / 16 - 1e-6).all()
    assert (t <= torch.arange(1, 17) / 16 + 1e-6).all()


def test_rate_rises_then_falls_to_nothing_by_steps_or_by_time():
    schedule = Schedule(steps=100, minutes=10.0, warmup=10, learning_rate=1.0)
    assert schedule.rate(0, 0.0) == pytest.approx(0.1)
    assert schedule.rate(50, 0.0) == pytest.approx(0.5)
    assert schedule.rate(20, 5.0) == pytest.approx(0.5)
    assert schedule.rate(100, 0.0) == pytest.approx(0.0) == schedule.rate(20, 11.0)


def test_loss_falls_and_the_checkpoint_loads(new_training, sampler):
    training = new_training(40, learning_rate=3e-3, validation=sampler, save_every=20)
    before = training.validate()
    training.run(progress=False)
    after = training.validate()
    loaded, info = load_checkpoint(training.out)
    # An untrained network predicts almost no noise, a loss of 1.
    assert all(0.9 < loss < 1.1 for loss in before.values())
    low, *_, high = after
    # Forty steps remove half of it at strong noise, and leave it where it was at the weakest.
    assert all(loss < most for loss, most in zip(after.values(), (1.05, 0.95, 0.75, 0.55), strict=True))
    assert loaded.architecture == TINY
    assert (info["step"], info["plane"], info["image_size"]) == (40, "all", 16)
    rows = curve_of(training)
    assert [int(row["step"]) for row in rows] == [20, 40]
    assert {name: float(rows[-1][name]) for name in after} == after
    assert (low, high) == ("sigma 0.005 to 0.0188", "sigma 0.266 to 1")


def test_validation_is_of_the_averaged_weights(new_training, sampler):
    training = new_training(5, validation=sampler)
    training.run(progress=False)
    averaged = training.validate()
    with torch.no_grad():
        for parameter in training.trained.values():
            parameter.zero_()
    assert training.validate() == averaged


def test_average_is_in_the_order_of_the_trained_parameters(new_training):
    # Decay 0: the average is the last weights, so every entry of the nameless list can be told.
    training = new_training(3, ema=0.0)
    training.run(progress=False)
    stored = read_stored(training.out)
    names = [name for name in stored["model"] if name not in ("module.sigmas", "module.all_modules.0.W")]
    for name, average in zip(names, stored["ema"]["shadow_params"], strict=True):
        assert torch.equal(stored["model"][name], average), name
    frequencies = stored["model"]["module.all_modules.0.W"]
    assert torch.equal(frequencies, new_network().state_dict()["all_modules.0.W"])


def test_average_lags_behind(new_training):
    training = new_training(5, ema=0.9)
    training.run(progress=False)
    (last, _), (average, _) = load_checkpoint(training.out, ema=False), load_checkpoint(training.out)
    assert any(not torch.equal(a, b) for a, b in zip(last.parameters(), average.parameters(), strict=True))


@pytest.mark.parametrize("stop", [3, 4])
def test_resumed_training_ends_with_the_same_bytes(new_training, sampler, stop):
    whole = new_training(8, save_every=4, validation=sampler)
    loss = whole.run(progress=False)
    stored, rows = read_stored(whole.out), curve_of(whole)
    killed = new_training(8, save_every=4, validation=sampler, patches=Changed(sampler, stop, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        killed.run(progress=False)
    assert read_stored(killed.out)["step"] == stop
    # Other random weights than the first run's: all must come from the file.
    resumed = new_training(8, save_every=4, validation=sampler, network=new_network(seed=9))
    resumed.resume()
    assert resumed.run(progress=False) == loss
    again = read_stored(resumed.out)
    for entry in ("model", "ema", "optimizer"):
        torch.testing.assert_close(again[entry], stored[entry], rtol=0, atol=0)
    assert [{**row, "minutes": ""} for row in curve_of(resumed)] == [{**row, "minutes": ""} for row in rows]


def test_other_seed_other_weights(new_training):
    losses = [new_training(3, seed=seed).run(progress=False) for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_interruption_before_the_first_step_leaves_the_old_file(new_training, sampler):
    old = new_training(2)
    old.run(progress=False)
    before = old.out.read_bytes()
    for resume in (False, True):
        training = new_training(9, patches=Changed(sampler, 0, KeyboardInterrupt()))
        if resume:
            training.resume()
        with pytest.raises(KeyboardInterrupt):
            training.run(progress=False)
        assert old.out.read_bytes() == before


def test_loss_that_is_not_finite_stops_with_good_weights(new_training, sampler):
    training = new_training(9, patches=Changed(sampler, 2))
    with pytest.raises(InputError, match="finite loss and gradient, got nan and nan at step 2"):
        training.run(progress=False)
    assert load_checkpoint(training.out)[1]["step"] == 2


def test_minutes_include_those_before_a_resume(new_training, sampler, monkeypatch):
    # One look at the clock when the run starts and one after each step: 6 s a step, ten steps a minute.
    monkeypatch.setattr(loop, "time", Clock(6.0))
    rates = []
    rate = Schedule.rate
    monkeypatch.setattr(Schedule, "rate", lambda *args: rates.append(rate(*args)) or rates[-1])
    first = new_training(10_000, minutes=2.0, patches=Changed(sampler, 8, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        first.run(progress=False)
    second = new_training(10_000, minutes=2.0)
    second.resume()
    second.run(progress=False)
    assert read_stored(second.out)["step"] == 20
    # After the five steps of warm-up the rate only falls, nearly to zero; the step that was interrupted comes twice.
    assert rates[8] == rates[9]
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[5:]))
    assert rates[-1] < 0.01 * max(rates)
    with pytest.raises(InputError, match=r"minutes: expected more than the 2 done so far, got 1.5; raise --minutes"):
        new_training(10_000, minutes=1.5).resume()


@pytest.mark.parametrize("steps", [2, 3])
def test_resume_of_a_finished_run(new_training, steps):
    training = new_training(3)
    training.run(progress=False)
    with pytest.raises(InputError, match=f"steps: expected more than the 3 done so far, got {steps}"):
        new_training(steps).resume()


def test_resume_with_other_options_is_refused(new_training, sampler):
    with pytest.raises(InputError, match="got nothing"):
        new_training(2).resume()
    new_training(2).run(progress=False)
    with pytest.raises(InputError, match="resume: expected architecture"):
        new_training(4, network=new_network(architecture=replace(TINY, sigma_max=60.0))).resume()
    for name, value in {"plane": Plane.parse("coronal"), "size": 32, "voxel_mm": (0.5, 2.0)}.items():
        other = Changed(sampler, **{name: value})
        with pytest.raises(InputError, match=r"resume: expected .* repeat the first run's options"):
            new_training(4, patches=other).resume()


def test_losses_count_alike_at_all_levels():
    scale = LossScale(0.01, 1.0)
    sigma = torch.tensor([0.0101, 0.9])
    np.testing.assert_array_equal(scale(sigma), 1)
    for _ in range(500):
        scale.update(sigma, torch.tensor([0.5, 0.02]), decay=0.95)
    np.testing.assert_allclose(scale(sigma), [0.5, 0.02], rtol=1e-5)
    # What was trained on no band keeps the loss of a network that returns zero.
    assert float(scale(torch.tensor([0.1]))) == 1
