"""The comparison with BART: its files and conventions, with the program itself where it is installed."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest

from benchmarks.lib.configurations import PROBLEMS, configurations
from benchmarks.peers import bart
from engine.errors import InputError
from engine.problems import simulate
from engine.problems.tasks import Measurement
from engine.report.metrics import psnr
from engine.volume import Plane

#: What ``bart pics`` solves where all is sampled: the image of a centred, unitary transform.
_STAND_IN = """
import sys, numpy as np
from pathlib import Path
*_, pattern, kspace, maps, image = map(Path, sys.argv)
header = kspace.with_suffix(".hdr").read_text()
shape = [int(n) for n in header.splitlines()[1].split()][:3]
read = lambda p: np.fromfile(p.with_suffix(".cfl"), np.complex64).reshape(shape, order="F")
assert header.startswith("# Dimensions") and len(header.split()) == 18 and (read(maps) == 1).all()
k = read(kspace) * read(pattern)
x = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(k), norm="ortho"))
for axis, n in enumerate(shape):
    x = np.roll(x * np.exp(2j * np.pi * (n // 2) ** 2 / n), n % 2, axis)
x.astype(np.complex64).ravel(order="F").tofile(image.with_suffix(".cfl"))
"""


@pytest.fixture
def volume() -> np.ndarray:
    """Boxes off the middle, with sides that are even and odd, float32 (20, 17, 6)."""
    x = np.zeros((20, 17, 6), np.float32)
    x[3:12, 4:11, 1:4], x[8:17, 9:14, 2:5] = 0.5, 1.0
    return x


needs_bart = pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")


def problem_of(volume: np.ndarray, acceleration: float):
    return simulate("csmri", volume, Plane.parse("axial"), Measurement(acceleration=acceleration))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    program = tmp_path / "bart"
    program.write_text(f"#!{sys.executable}\n{_STAND_IN}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_what_goes_out_and_in_is_in_the_programs_conventions(stand_in, volume):
    problem = problem_of(volume, 1.0)
    slices = bart.pics(problem, "T", 0.01, 1)
    np.testing.assert_allclose(slices, problem.plane.slices_of(volume), atol=2e-6)


def test_unmeasured_samples_stay_unmeasured(stand_in, volume):
    problem = problem_of(volume, 3.0)
    zero_filled = problem.plane.slices_of(problem.classical())
    np.testing.assert_allclose(bart.pics(problem, "T", 0.01, 1), zero_filled, atol=2e-6)


def test_the_best_weight_is_kept(monkeypatch, volume):
    problem = problem_of(volume, 1.0)
    slices = problem.plane.slices_of(volume)
    monkeypatch.setattr(bart, "pics", lambda problem, letter, weight, n: slices + np.float32(abs(weight - 0.003)))
    trial = bart.best(problem, "bart-tv", volume, 1)
    assert trial.weight == 0.003
    np.testing.assert_array_equal(trial.result.volume, volume)


def test_without_the_program_one_sentence_says_so(monkeypatch, volume):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"expected the program bart, got none; `apt-get install bart`"):
        bart.pics(problem_of(volume, 2.0), "T", 0.01, 1)


def test_a_refusal_of_the_program_is_passed_on(tmp_path, monkeypatch, volume):
    program = tmp_path / "bart"
    program.write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(InputError, match="no such thing"):
        bart.pics(problem_of(volume, 2.0), "T", 0.01, 1)


def test_other_tasks_are_left_out():
    peer = configurations()["bart-tv"]
    assert [name for name, problem in PROBLEMS.items() if peer.serves(problem)] == ["csmri-4", "csmri-8"]
    assert not peer.uses_priors


@needs_bart
@pytest.mark.parametrize("sides", [(16, 20, 4), (18, 17, 5), (15, 14, 6)])
def test_bart_returns_what_is_fully_sampled(sides):
    volume = np.random.default_rng(0).random(sides, np.float32)
    problem = problem_of(volume, 1.0)
    found = problem.plane.volume_of(bart.pics(problem, "T", 1e-6, 1))
    assert psnr(volume, found, 1.0) > 50


@needs_bart
@pytest.mark.parametrize("letter", ["T", "W"])
def test_bart_gains_over_zeros(letter):
    rng = np.random.default_rng(0)
    volume = np.kron(rng.random((8, 8, 4)), np.ones((8, 8, 4))).astype(np.float32)
    problem = problem_of(volume, 2.0)
    found = problem.plane.volume_of(bart.pics(problem, letter, 1e-3, 1))
    assert psnr(volume, found, 1.0) > psnr(volume, problem.classical(), 1.0) + 3
