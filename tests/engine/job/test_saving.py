"""State files: whole or not at all, checked when read, and refused where they belong to another run."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InputError
from engine.job.saving import Saved, Saver, check_identity, load, save
from engine.job.statistics import Statistics
from engine.parallel.stack import Stack
from engine.sampling.reconstruction import Checkpoint
from engine.sampling.sampler import State
from engine.volume import Plane

RANDOM = np.random.default_rng(0)
SHAPE = (3, 4, 5)


def volume() -> np.ndarray:
    return RANDOM.standard_normal(SHAPE).astype(np.float32)


def of(x: np.ndarray) -> Stack:
    return Stack.scattered(x, Plane.parse("coronal"))


def saved(step: int = 7, splitting: bool = False, n_samples: int = 0) -> Saved:
    statistics = Statistics()
    for _ in range(n_samples):
        statistics = statistics.with_sample(volume(), 1.5)
    state = State(of(volume()), step, np.asarray(2.5), {"z": volume()[1:], "u": volume()[1:]} if splitting else {})
    checkpoint = Checkpoint(step, state.arrays(), [float("nan"), *range(1, step)], 3.25)
    return Saved({"task": "csmri", "K": 2.0}, {"setting K": 2.0, "shape": [3, 4, 5]}, statistics, checkpoint)


@pytest.mark.parametrize("splitting", [False, True])
@pytest.mark.parametrize("n_samples", [0, 1, 3])
def test_what_is_saved_is_loaded(tmp_path, splitting, n_samples):
    one = saved(7, splitting, n_samples)
    save(tmp_path / "state.npz", one)
    other = load(tmp_path / "state.npz")
    assert (other.options, other.identity, other.position) == (one.options, one.identity, one.position)
    assert other.checkpoint.arrays["x"].tobytes() == one.checkpoint.arrays["x"].tobytes()
    assert other.checkpoint.step == 7
    assert float(other.checkpoint.arrays["residual"]) == 2.5
    assert other.checkpoint.seconds == 3.25
    np.testing.assert_equal(other.checkpoint.residuals, one.checkpoint.residuals)
    for name in ("z", "u") if splitting else ():
        assert other.checkpoint.arrays[name].tobytes() == one.checkpoint.arrays[name].tobytes()
    assert set(other.checkpoint.arrays) == {"x", "residual"} | ({"z", "u"} if splitting else set())
    assert (other.statistics.n, other.statistics.seconds) == (n_samples, 1.5 * n_samples)
    np.testing.assert_equal(other.statistics.mean, one.statistics.mean)
    np.testing.assert_equal(other.statistics.squares, one.statistics.squares)
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]


@pytest.mark.parametrize("at", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_state_is_refused(tmp_path, at, damage):
    path = tmp_path / "state.npz"
    save(path, saved())
    content = bytearray(path.read_bytes())
    where = int(at * len(content))
    if damage == "cut":
        del content[where:]
    else:
        content[where] ^= 0x55
    path.write_bytes(content)
    try:
        found = load(path)
    except InputError as error:
        assert str(error).startswith("resume: expected an intact state")
        assert "\n" not in str(error)
    else:
        # A bit of a time stamp, of which nothing depends.
        assert damage == "flipped"
        assert found.checkpoint.arrays["x"].shape == SHAPE


def test_none_is_refused_with_the_way_to_repeat_a_finished_run(tmp_path):
    with pytest.raises(InputError, match=r"resume: expected a saved state, got no .*--config .*run\.json"):
        load(tmp_path / "state.npz")


def test_another_run_is_refused_by_what_differs():
    identity = saved().identity
    check_identity(identity, dict(identity))
    with pytest.raises(InputError, match=r"resume: expected setting K as in the saved run \(2.0\), got 3;"):
        check_identity(identity, {**identity, "setting K": 3})
    with pytest.raises(InputError, match="resume: expected measurement as in the saved run"):
        check_identity(identity, {**identity, "measurement": "abc"})


def test_a_saver_saves_every_so_many_steps(tmp_path):
    path = tmp_path / "state.npz"
    saver = Saver(path, Saved({}, {"shape": list(SHAPE)}, Statistics()), every=3)
    saver.start()
    assert load(path).checkpoint is None
    for step in range(1, 6):
        saver.after_step(State(of(volume()), step, np.asarray(float(step))), 0.1)
        assert load(path).position == f"step {step // 3 * 3}"
    assert load(path).checkpoint.residuals == [1.0, 2.0, 3.0]
    assert saver.interrupt() == "step 5"
    assert load(path).checkpoint.residuals == [1.0, 2.0, 3.0, 4.0, 5.0]
    saver.finish()
    assert not path.exists()


def test_a_resumed_saver_goes_on_counting(tmp_path):
    path = tmp_path / "state.npz"
    before = saved(7)
    saver = Saver(path, before, every=1)
    saver.after_step(State(of(volume()), 8, np.asarray(0.5)), 0.1)
    found = load(path).checkpoint
    np.testing.assert_equal(found.residuals, [*before.checkpoint.residuals, 0.5])
    assert found.seconds >= before.checkpoint.seconds


def test_without_an_interval_only_an_interruption_saves(tmp_path):
    path = tmp_path / "state.npz"
    saver = Saver(path, Saved({}, {"shape": list(SHAPE)}, Statistics()), every=0)
    saver.start()
    saver.after_step(State(of(volume()), 1), 0.1)
    assert not path.exists()
    assert saver.interrupt() == "step 1"
    assert load(path).position == "step 1"


def test_an_interruption_before_the_first_step_leaves_nothing(tmp_path):
    path = tmp_path / "state.npz"
    saver = Saver(path, Saved({}, {"shape": list(SHAPE)}, Statistics()), every=5)
    saver.start()
    assert saver.interrupt() is None
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_earlier_state_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    path = tmp_path / "state.npz"
    saver = Saver(path, Saved({}, {"shape": list(SHAPE)}, Statistics()), every=1)
    saver.after_step(State(of(volume()), 1), 0.1)

    def full(file, **arrays):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.job.saving.np.savez", full)
    saver.after_step(State(of(volume()), 2), 0.1)
    assert "could not be saved (No space left on device); an earlier one is kept" in caplog.text
    assert load(path).position == "step 1"
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]


def test_statistics_are_those_of_numpy():
    volumes = [volume() for _ in range(5)]
    found = Statistics()
    assert found.deviation is None
    for one in volumes:
        found = found.with_sample(one)
    np.testing.assert_allclose(found.mean, np.mean(volumes, axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(found.deviation, np.std(volumes, axis=0, ddof=1, dtype=np.float64), rtol=1e-6)
    assert Statistics().with_sample(volumes[0]).deviation is None
