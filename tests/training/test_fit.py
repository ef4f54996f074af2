"""Fitting a prior: it learns, its checkpoints load and resume, and bad options end in one sentence."""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import InputError
from engine.io.volumes import Volume
from engine.volume import Plane
from networks import Architecture, NCSNpp, load_checkpoint
from networks.checkpoint import read_stored
from training import fit as fit_module
from training.fit import fit, main, score_matching_loss
from training.slices import Augmentation, SliceSampler

ROOT = Path(__file__).parents[2]
TINY = Architecture(nf=8, ch_mult=(1, 2), n_res_blocks=1, progressive_input="residual", sigma_max=50.0)


def ellipsoids(n=20):
    line = np.linspace(-1, 1, n)
    x, y, z = np.meshgrid(line, line, line, indexing="ij")
    head = 1.0 * ((x / 0.7) ** 2 + (y / 0.85) ** 2 + (z / 0.75) ** 2 < 1)
    head[((x - 0.2) / 0.25) ** 2 + (y / 0.4) ** 2 + (z / 0.5) ** 2 < 1] = 0.4
    return head.astype(np.float32)


@pytest.fixture
def sampler():
    volume = Volume(ellipsoids(), np.eye(4), 1.0, "ellipsoids")
    return SliceSampler([volume], Plane.parse("axial"), 16, 1.25, Augmentation(), torch.device("cpu"))


@pytest.fixture
def volume_file(tmp_path):
    path = tmp_path / "head.npy"
    np.save(path, ellipsoids())
    return path


def new_network(seed=0, architecture=TINY):
    torch.manual_seed(seed)
    return NCSNpp(architecture)


def run(sampler, out, n_steps, **options):
    """Fit a new network; returns it with its mean loss."""
    network = new_network()
    loss = fit(network, sampler, out, n_steps=n_steps, batch_size=4, warmup=5, progress=False, **options)
    return network, loss


def curve_of(out):
    with out.with_suffix(".loss.csv").open(newline="") as stream:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(stream)]


class StopsAfter(SliceSampler):
    """A sampler whose draw number `n_draws` + 1 raises."""

    def __init__(self, sampler, n_draws, error):
        self.__dict__.update(vars(sampler))
        self.left, self.error = n_draws, error

    def draw(self, n, generator):
        if self.left == 0:
            raise self.error
        self.left -= 1
        return super().draw(n, generator)


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
    torch.testing.assert_close(nothing, noise.square().mean())
    perfect = score_matching_loss(lambda x, sigma: (clean - x) / s**2, clean, sigma, noise)
    # (x + σz) − x in float32 at σ = 0.1 keeps six digits of z.
    assert perfect < 1e-9


def test_loss_falls_and_the_checkpoint_loads(sampler, tmp_path):
    out = tmp_path / "prior.pt"
    network, _ = run(sampler, out, 60, learning_rate=3e-3)
    generator = torch.Generator().manual_seed(1)
    clean = sampler.draw(32, generator)
    sigma = torch.logspace(-1, 1.5, 32)
    noise = torch.randn(clean.shape, generator=generator)
    loaded, info = load_checkpoint(out)
    with torch.no_grad():
        before, last, average = (
            float(score_matching_loss(n, clean, sigma, noise)) for n in (new_network(), network, loaded)
        )
    # An untrained network predicts almost no noise, a loss of 1; sixty steps remove at least half of it.
    assert 0.9 < before < 1.1
    assert last < 0.5
    assert average < 0.5
    assert loaded.architecture == TINY
    assert (info["step"], info["plane"], info["image_size"]) == (60, [2, 0, 1], 16)


def test_average_is_in_the_order_of_the_trained_parameters(sampler, tmp_path):
    out = tmp_path / "prior.pt"
    # Decay 0: the average is the last weights, so every entry of the nameless list can be told.
    run(sampler, out, 3, ema_decay=0.0)
    stored = read_stored(out)
    names = [name for name in stored["model"] if name not in ("module.sigmas", "module.all_modules.0.W")]
    shadow = stored["ema"]["shadow_params"]
    assert len(names) == len(shadow)
    for name, average in zip(names, shadow, strict=True):
        assert torch.equal(stored["model"][name], average), name
    frequencies = stored["model"]["module.all_modules.0.W"]
    assert torch.equal(frequencies, new_network().state_dict()["all_modules.0.W"])


def test_average_lags_behind(sampler, tmp_path):
    out = tmp_path / "prior.pt"
    run(sampler, out, 5, ema_decay=0.9)
    (last, _), (average, _) = load_checkpoint(out, ema=False), load_checkpoint(out)
    assert any(not torch.equal(a, b) for a, b in zip(last.parameters(), average.parameters(), strict=True))


def test_same_seed_same_weights(sampler, tmp_path):
    one, two, other = (run(sampler, tmp_path / "prior.pt", 3, seed=seed)[0] for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_resume_goes_on_from_the_stored_state(sampler, tmp_path):
    out = tmp_path / "prior.pt"
    first, _ = run(sampler, out, 4)
    before = read_stored(out)
    assert before["step"] == 4
    seen: dict[str, dict[str, torch.Tensor]] = {}

    class Watches(StopsAfter):
        def draw(self, n, generator):
            seen.setdefault("weights", {k: v.clone() for k, v in network.state_dict().items()})
            return super().draw(n, generator)

    # Other random weights than the first run's: all must come from the file.
    network = new_network(seed=9)
    fit(network, Watches(sampler, -1, None), out, n_steps=7, batch_size=4, progress=False, resume=True)
    assert all(torch.equal(seen["weights"][name], tensor) for name, tensor in first.state_dict().items())
    after = read_stored(out)
    assert after["step"] == 7
    # Adam counts its own steps: the optimiser went on too.
    assert {int(state["step"]) for state in after["optimizer"]["state"].values()} == {7}
    assert after["minutes"] > before["minutes"] > 0


def test_curve_is_whole_after_several_saves_and_a_resume(sampler, tmp_path, monkeypatch):
    monkeypatch.setattr(sampler, "size", 8)
    out = tmp_path / "prior.pt"
    run(sampler, out, 101, save_every=50)
    first = curve_of(out)
    assert [step for step, _ in first] == [100]
    run(sampler, out, 200, resume=True)
    assert [step for step, _ in curve_of(out)] == [100, 200]
    assert curve_of(out)[:1] == first
    # A new run at the same place starts its own curve.
    run(sampler, out, 1)
    assert curve_of(out) == []


def test_rows_after_the_checkpoint_are_dropped_on_resume(sampler, tmp_path):
    out = tmp_path / "prior.pt"
    run(sampler, out, 2)
    out.with_suffix(".loss.csv").write_text("step,loss\n1,0.9\n2,0.8\n3,0.7\n")
    run(sampler, out, 3, resume=True)
    assert curve_of(out) == [(1, 0.9), (2, 0.8)]


def test_interruption_saves_the_steps_done(sampler, tmp_path):
    out = tmp_path / "prior.pt"
    network = new_network()
    with pytest.raises(KeyboardInterrupt):
        fit(network, StopsAfter(sampler, 3, KeyboardInterrupt), out, n_steps=9, batch_size=4, progress=False)
    assert read_stored(out)["step"] == 3
    last, _ = load_checkpoint(out, ema=False)
    assert all(torch.equal(a, b) for a, b in zip(last.parameters(), network.parameters(), strict=True))
    run(sampler, out, 9, resume=True)
    assert read_stored(out)["step"] == 9


def test_interruption_before_the_first_step_leaves_the_old_file(sampler, tmp_path):
    out = tmp_path / "prior.pt"
    run(sampler, out, 2)
    before = out.read_bytes()
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            run(StopsAfter(sampler, 0, KeyboardInterrupt), out, 9, resume=resume)
        assert out.read_bytes() == before


def test_loss_that_is_not_finite_stops_with_good_weights(sampler, tmp_path, monkeypatch):
    out = tmp_path / "prior.pt"
    network = new_network()

    class Poisoned(StopsAfter):
        def draw(self, n, generator):
            self.left -= 1
            return SliceSampler.draw(self, n, generator) * (float("nan") if self.left < 0 else 1.0)

    with pytest.raises(InputError, match="finite loss and gradient, got nan and nan at step 2"):
        fit(network, Poisoned(sampler, 2, None), out, n_steps=9, batch_size=4, progress=False)
    assert load_checkpoint(out)[1]["step"] == 2


def test_minutes_end_the_run_with_the_steps_done(sampler, tmp_path, monkeypatch):
    # One look at the clock when the run starts, one before each step: 6 s each, so ten steps are the first minute.
    monkeypatch.setattr(fit_module, "time", Clock(6.0))
    out = tmp_path / "prior.pt"
    run(sampler, out, 10_000, minutes=1.0)
    assert read_stored(out)["step"] == 9


def test_minutes_include_those_before_a_resume(sampler, tmp_path, monkeypatch):
    out = tmp_path / "prior.pt"
    rates = []

    class Recorded(torch.optim.Adam):
        def step(self, *args, **options):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*args, **options)

    monkeypatch.setattr(torch.optim, "Adam", Recorded)
    monkeypatch.setattr(fit_module, "time", Clock(6.0))
    with pytest.raises(KeyboardInterrupt):
        run(StopsAfter(sampler, 8, KeyboardInterrupt), out, 10_000, minutes=2.0, learning_rate=1.0e-4)
    assert 0.8 < read_stored(out)["minutes"] < 1.2
    run(sampler, out, 10_000, minutes=2.0, learning_rate=1.0e-4, resume=True)
    # Twenty looks at the clock in all; the save in between takes two of them.
    assert 16 <= read_stored(out)["step"] <= 19
    # After the five steps of warm-up the rate only falls, across the interruption too, nearly to zero.
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[5:]))
    assert rates[-1] < 0.05e-4
    with pytest.raises(InputError, match=r"minutes: expected more than the 2.* spent so far, got 1.5; raise --minutes"):
        run(sampler, out, 10_000, minutes=1.5, resume=True)


@pytest.mark.parametrize("n_steps", [2, 3])
def test_resume_of_a_finished_run(sampler, tmp_path, n_steps):
    out = tmp_path / "prior.pt"
    run(sampler, out, 3)
    before = out.read_bytes()
    with pytest.raises(InputError, match=f"steps: expected more than the 3 done so far, got {n_steps}"):
        run(sampler, out, n_steps, resume=True)
    assert out.read_bytes() == before


def test_resume_with_other_options_is_refused(sampler, tmp_path):
    out = tmp_path / "prior.pt"
    with pytest.raises(InputError, match="got nothing"):
        run(sampler, out, 2, resume=True)
    run(sampler, out, 2)
    with pytest.raises(InputError, match="resume: expected architecture"):
        fit(
            new_network(architecture=replace(TINY, sigma_max=60.0)),
            sampler,
            out,
            n_steps=4,
            progress=False,
            resume=True,
        )
    for name, value in {"plane": Plane.parse("coronal"), "size": 32, "voxel_mm": 2.0}.items():
        other = StopsAfter(sampler, -1, None)
        setattr(other, name, value)
        with pytest.raises(InputError, match=r"resume: expected .* repeat the first run's options"):
            run(other, out, 4, resume=True)


def options(volume, out, **changed):
    given = {
        "volumes": volume, "plane": "axial", "out": out, "size": 16, "voxel-mm": 1.25, "steps": 2, "batch-size": 2,
        "nf": 8, "ch-mult": "1 2", "attention-levels": "1", "device": "cpu",
    }  # fmt: skip
    given.update({name.replace("_", "-"): value for name, value in changed.items()})
    return [word for name, value in given.items() for word in (f"--{name}", *str(value).split())]


def test_command_line(volume_file, tmp_path):
    out = tmp_path / "prior.pt"
    assert main(options(volume_file, out)) == 0
    assert main([*options(volume_file, out, steps=3), "--resume", "--no-elastic"]) == 0
    loaded, info = load_checkpoint(out)
    assert info["step"] == 3
    assert loaded.architecture == replace(TINY, attention_levels=(1,))


@pytest.mark.parametrize(
    ("changed", "argument"),
    [
        ({"plane": "oblique"}, "plane"),
        ({"plane": "0,0,1"}, "plane"),
        ({"volumes": "absent.nii.gz"}, "volume"),
        ({"size": 17}, "size"),
        ({"size": 8}, "size"),
        ({"size": 0}, "size"),
        ({"voxel_mm": -1}, "voxel_mm"),
        ({"voxel_mm": "nan"}, "voxel_mm"),
        ({"steps": 0}, "steps"),
        ({"minutes": 0}, "minutes"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"warmup": -1}, "warmup"),
        ({"ema": 1.5}, "ema"),
        ({"sigma_min": 0}, "sigma_min"),
        ({"sigma_max": 0.001}, "sigma_max"),
        ({"nf": 2}, "nf"),
        ({"nf": 52, "ch_mult": "1 2 3", "size": 32}, "nf"),
        ({"ch_mult": "1 0"}, "nf"),
        ({"attention_levels": "2"}, "attention_levels"),
        ({"res_blocks": 0}, "res_blocks"),
        ({"save_every": 0}, "save_every"),
        ({"threads": 0}, "threads"),
        ({"device": "abacus"}, "device"),
    ],
)
def test_bad_options_end_in_one_sentence(volume_file, tmp_path, capsys, changed, argument):
    out = tmp_path / "prior.pt"
    assert main(options(volume_file, out, **changed)) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"training.fit: {argument}: expected ")
    assert message.count("\n") == 1
    assert not out.exists()


def test_bad_places_end_in_one_sentence(volume_file, tmp_path, capsys):
    assert main(options(volume_file, tmp_path)) == 2
    assert "is a folder; name a file in it" in capsys.readouterr().err
    damaged = tmp_path / "damaged.pt"
    damaged.write_text("no checkpoint")
    assert main([*options(volume_file, damaged), "--resume"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert Path(damaged).read_text() == "no checkpoint"


def test_interrupted_command_says_how_to_go_on(volume_file, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_module, "fit", interrupted)
    assert main(options(volume_file, tmp_path / "prior.pt")) == 130
    assert "--resume" in capsys.readouterr().err


def test_init_starts_from_the_averages_of_another_planes_prior(sampler, volume_file, tmp_path, monkeypatch):
    other, out = tmp_path / "axial.pt", tmp_path / "sagittal.pt"
    # A short average: the last weights are others.
    run(sampler, other, 5, ema_decay=0.9)
    (averages, _), (last, _) = load_checkpoint(other), load_checkpoint(other, ema=False)
    seen = {}

    def watched(network, sampler, *args, **options):
        seen["weights"] = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        return fit(network, sampler, *args, **options)

    monkeypatch.setattr(fit_module, "fit", watched)
    given = options(volume_file, out, plane="sagittal", attention_levels="", save_every=1)
    assert main([*given, "--init", str(other)]) == 0
    assert all(torch.equal(seen["weights"][name], tensor) for name, tensor in averages.state_dict().items())
    assert any(not torch.equal(seen["weights"][name], tensor) for name, tensor in last.state_dict().items())
    stored = read_stored(out)
    assert (stored["step"], stored["plane"]) == (2, [0, 1, 2])
    # The optimiser is new: Adam has seen these two steps alone.
    assert {int(state["step"]) for state in stored["optimizer"]["state"].values()} == {2}
    assert any(not torch.equal(stored["model"][f"module.{k}"], v) for k, v in seen["weights"].items())


def test_init_that_cannot_be_used_ends_in_one_sentence(sampler, volume_file, tmp_path, capsys):
    other, out = tmp_path / "axial.pt", tmp_path / "sagittal.pt"
    run(sampler, other, 1)
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(other.read_bytes()[:1000])
    matching = {"attention_levels": ""}
    for changed, words, reason in (
        (matching, ["--init", str(other), "--resume"], "got --resume"),
        (matching, ["--init", str(tmp_path / "absent.pt")], "got nothing"),
        (matching, ["--init", str(damaged)], "cannot be read"),
        ({"attention_levels": "", "nf": 16}, ["--init", str(other)], "(nf 16), got nf 8"),
        ({}, ["--init", str(other)], "(attention_levels [1]), got attention_levels []"),
    ):
        assert main([*options(volume_file, out, **changed), *words]) == 2
        message = capsys.readouterr().err
        assert message.startswith("training.fit: init: expected ") and reason in message, message
        assert message.count("\n") == 1 and message.count("; ") == 1
        assert not out.exists()


def test_without_torch_one_sentence_names_the_extra():
    """In an installation for runs alone: a process of its own, because here PyTorch is loaded already."""
    hide = "import runpy, sys; sys.modules['torch'] = None; runpy.run_module('training.fit', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", hide], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "expected the packages of the extra `train`, got no torch" in done.stderr
