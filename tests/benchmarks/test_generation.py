"""The generation benchmark: spectra and distances are right where the answer is known, and samples are kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

import kernels
from benchmarks import generation
from benchmarks.generation import BANDS, compared, distances, intensity_distance, spectral_distance, spectrum
from engine.sampling.posterior_mean import Prior


@pytest.fixture(autouse=True)
def threads():
    """Threads, which the command sets for the whole process, as they were."""
    before = kernels.get_threads()
    yield
    kernels.set_threads(before)


def random(shape: tuple[int, ...] = (16, 16, 16), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_sinusoid_has_one_frequency(axis):
    n, cycles = 32, 5
    line = np.cos(2 * np.pi * cycles * np.arange(n) / n)
    volume = np.broadcast_to(np.expand_dims(line, [a for a in range(3) if a != axis]), (n, n, n))
    frequency, power = spectrum(volume)
    (at,) = np.flatnonzero(power > 1e-10 * power.max())
    assert frequency[at] == cycles / n
    # Two of the shell's frequencies hold (n³/2)² / n³ each.
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(*[np.fft.fftfreq(n) * n] * 3)))
    assert power[at] == pytest.approx(2 * n**3 / 4 / (np.rint(radius) == cycles).sum())


def test_all_power_is_counted_once():
    n = 15
    volume = random((n, n, n))
    frequency, power = spectrum(volume)
    radius = np.rint(n * np.sqrt(sum(a**2 for a in np.meshgrid(*[np.fft.fftfreq(n)] * 3))))
    counts = np.array([(radius == round(n * f)).sum() for f in frequency])
    # Parseval: of all frequencies Σ|F x|² / n³ = Σ x²; the zero one and the corners are not in the spectrum.
    full = abs(np.fft.fftn(volume)) ** 2 / volume.size
    outside = full[(radius == 0) | (radius > n // 2)].sum()
    assert (counts * power).sum() + outside == pytest.approx((volume.astype(np.float64) ** 2).sum())


def test_white_noise_has_its_variance_at_every_frequency():
    _, power = spectrum(3 * random((48, 48, 48)))
    # Beyond the first few shells thousands of frequencies are averaged.
    np.testing.assert_allclose(power[8:], 9, rtol=0.1)


def test_sides_may_differ():
    frequency, power = spectrum(random((8, 12, 20)))
    np.testing.assert_allclose(frequency, np.arange(1, 11) / 20)
    assert np.isfinite(power).all()


def test_nothing_is_far_from_itself():
    assert distances(random(), random()) == {"intensity": 0, **dict.fromkeys(BANDS, 0)}


def test_distances_are_what_they_say():
    volume = random()
    assert intensity_distance(volume, volume + 0.25) == pytest.approx(0.25, rel=1e-5)
    assert spectral_distance(volume, 10 * volume) == pytest.approx(dict.fromkeys(BANDS, 2.0), rel=1e-5)
    # Where the voxels lie does not matter to intensities.
    assert intensity_distance(volume, volume[::-1, :, ::-1]) == 0


def test_samples_are_compared_with_every_head():
    heads = {"one": random(seed=1), "other": 2 * random(seed=2)}
    found = compared(heads, {"exact": [heads["one"]], "pair": [heads["one"], heads["other"]]})
    (pair,) = found["heads"]
    exact, both = (found["samplers"][name]["distances"] for name in ("exact", "pair"))
    assert exact["one"]["intensity"] == 0 and exact["other"]["intensity"] == pair["intensity"] > 0
    assert both["one"]["fine"] == pytest.approx(pair["fine"] / 2)
    assert set(found["histogram"]["share"]) == set(found["spectrum"]["power"]) == {"one", "other", "exact", "pair"}


class Shrinking:
    """Instead of a network: all is a fraction of what it is."""

    from engine.device import CPU as device

    sigma_range = (0.0, float("inf"))

    def denoise(self, x, sigma):
        return np.float32(0.5) * x


def test_the_command_writes_figures_and_picture_and_draws_once(tmp_path, capsys, monkeypatch):
    priors_of = generation._priors

    def fake(n_threads):
        priors, bundles = priors_of(n_threads)
        return [Prior(Shrinking(), prior.plane) for prior in priors], bundles

    monkeypatch.setattr(generation, "_priors", fake)
    for name in ("one", "other"):
        np.save(tmp_path / f"{name}.npy", abs(random((64, 64, 64), seed=len(name))))
    command = ["--volumes", *(str(tmp_path / f"{name}.npy") for name in ("one", "other"))]
    command += ["--samplers", "ddim-100", "--steps", "2", "--threads", "1", "--results", str(tmp_path / "results")]
    assert generation.main(command) == 0
    (file,) = (tmp_path / "results").glob("generation-*.json")
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    first = json.loads(file.read_text())
    assert first["samplers"]["ddim-100"]["n_evaluations"] == 2
    assert "one – other" in capsys.readouterr().out
    monkeypatch.setattr(generation, "solve", lambda *args: pytest.fail("drawn again"))
    assert generation.main(command) == 0
    assert json.loads(file.read_text())["samplers"] == first["samplers"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], "volumes"),
        (["--volumes", "one.npy"], "volumes"),
        (["--volumes", "a.npy", "b.npy"], "volume"),
        (["--volumes", "a.npy", "b.npy", "--seeds", "0"], "seeds"),
        (["--volumes", "a.npy", "b.npy", "--threads", "0"], "threads"),
        (["--volumes", "a.npy", "b.npy", "--samplers", "best"], "samplers"),
    ],
)
def test_wrong_input_is_refused_in_one_line(tmp_path, capsys, options, named):
    assert generation.main([*options, "--results", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"generation: {named}: expected ") and "; " in line
