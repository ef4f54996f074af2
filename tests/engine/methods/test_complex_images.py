"""Images with a phase: every method finds magnitude and phase, and none does worse than zero-filling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine import demo
from engine.errors import InputError
from engine.methods import METHODS, solve
from engine.methods.phase_choice import phase_choice
from engine.operators import CoilFourier, MaskedFourier
from engine.problems.pose import csmri
from engine.sampling import Settings
from engine.sampling.image_phase import turned
from engine.sampling.posterior_mean import Prior
from engine.sampling.problem import InverseProblem
from engine.sampling.reconstruction import Checkpoint, reconstruct
from engine.volume import Plane
from tests.engine.sampling.test_sampler import Gaussian

AXIAL, CORONAL = Plane.parse("axial"), Plane.parse("coronal")
SHAPE = (8, 64, 64)
SETTINGS = Settings(sampler="ddim", guidance="proximal", n_steps=8)


def image_of(kind: str) -> np.ndarray:
    """An ellipse with a bright disc, of another size in every slice, complex64, in the layout of MaskedFourier."""
    n, h, w = SHAPE
    y, x = (np.mgrid[:h, :w] - h // 2) / 32
    slices = [
        ((x / 0.7) ** 2 + (y / 0.8) ** 2 < 1) * (0.6 + 0.4 * ((x - 0.2) ** 2 + (y - s / 12) ** 2 < 0.05))
        for s in range(n)
    ]
    phase = {
        "real": 0 * x,
        # 4 rad within 6 pixels, as near air or metal.
        "fast": 4 * np.exp(-((y + 0.3) ** 2 + x**2) / 0.02),
        # 1.5 π across the object.
        "smooth": 1.2 * x + 1.5 * y + 2 * x * y + 1.5 * y**2 - 0.8 * x**2,
        "echo": 2 * np.pi * 3 * (np.arange(w) - w // 2) / w,
    }[kind]
    return (np.array(slices) * np.exp(1j * phase)).astype(np.complex64)


def mask_of() -> np.ndarray:
    """13 lines in the middle and a quarter of the others."""
    taken = np.random.default_rng(0).random(64) < 0.25
    taken[26:39] = True
    return np.broadcast_to(taken, (64, 64)).astype(np.float32)


def problem_of(kind: str, n_coils: int = 0) -> InverseProblem:
    mask, image = mask_of(), image_of(kind)
    if n_coils:
        rows = np.linspace(0, 1, 64)[:, None]
        maps = np.stack([np.exp(1j * c * rows) * np.cos(c - rows) for c in range(n_coils)]) * np.ones((64, 64))
        maps = (maps / np.sqrt((abs(maps) ** 2).sum(0))).astype(np.complex64)
        operator = CoilFourier(mask, maps, np.complex64)
        posed = csmri(operator.apply(image), mask, maps, plane=AXIAL)
    else:
        posed = csmri(MaskedFourier(mask, np.complex64).apply(image), mask, plane=AXIAL)
    return replace(posed, shows_magnitude=True).of_complex_images()


def error(volume: np.ndarray, kind: str) -> float:
    return float(np.linalg.norm(AXIAL.slices_of(volume) - abs(image_of(kind))))


@pytest.fixture(scope="module")
def priors() -> tuple[Prior, ...]:
    return demo.prior("axial"), demo.prior("coronal")


@pytest.mark.parametrize("n_coils", [0, 3])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_magnitude_and_phase(method, n_coils):
    priors = (Prior(Gaussian(0.3), AXIAL), Prior(Gaussian(0.3), CORONAL))
    problem = problem_of("smooth", n_coils)
    result = solve(method, problem, priors, replace(SETTINGS, n_steps=3))
    assert result.volume.shape == result.phase.shape == (64, 64, 8)
    assert result.volume.dtype == result.phase.dtype == np.float32
    assert result.volume.min() >= 0 and abs(result.phase).max() <= np.float32(np.pi)
    # Both together explain what was measured, as far as the method does.
    operator, y = problem.measured()
    image = turned(AXIAL.slices_of(result.volume), AXIAL.slices_of(result.phase))
    assert np.linalg.norm(operator.apply(image) - y) < 0.05 * np.linalg.norm(y)


@pytest.mark.parametrize("kind", ["fast", "smooth", "echo"])
@pytest.mark.parametrize("method", ["wavelet", "dds", "tpdm"])
def test_no_method_does_worse_than_zero_filling(method, kind, priors):
    problem = problem_of(kind)
    zero_filled = error(problem.classical(), kind)
    settings = replace(SETTINGS, n_steps=20)
    assert error(solve(method, problem, priors, settings).volume, kind) < 0.9 * zero_filled


def test_all_samples_give_the_magnitude():
    """The real part alone would be dark wherever the phase turns."""
    image, full = image_of("fast"), np.ones((64, 64), np.float32)
    for operator in (MaskedFourier(full, np.complex64), CoilFourier(full, np.ones((1, 64, 64), "c8"), np.complex64)):
        maps = operator.maps if isinstance(operator, CoilFourier) else None
        posed = replace(csmri(operator.apply(image), full, maps, plane=AXIAL), shows_magnitude=True)
        for problem in (posed, posed.of_complex_images()):
            result = solve("classical", problem, (), SETTINGS)
            np.testing.assert_allclose(AXIAL.slices_of(problem.classical()), abs(image), atol=1e-5)
            np.testing.assert_allclose(AXIAL.slices_of(result.volume), abs(image), atol=1e-5)
            tissue = abs(image) > 0.1
            found = np.exp(1j * AXIAL.slices_of(result.phase))[tissue]
            np.testing.assert_allclose(found, (image / abs(np.where(tissue, image, 1)))[tissue], atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "heun", "pc"])
def test_a_checkpoint_keeps_the_phase(sampler):
    problem, priors = problem_of("fast"), (Prior(Gaussian(0.3), AXIAL), Prior(Gaussian(0.3), CORONAL))
    settings, saved = replace(SETTINGS, n_steps=5, sampler=sampler), []
    whole = reconstruct(problem, priors, settings, callback=lambda state, _: saved.append((state.step, state.arrays())))
    step, arrays = saved[2]
    assert step == 3 and arrays["image_phase"].shape == (64, 64, 8)
    rest = reconstruct(problem, priors, settings, checkpoint=Checkpoint(step, arrays, [0.0] * 3))
    assert rest.volume.tobytes() == whole.volume.tobytes()
    assert rest.phase.tobytes() == whole.phase.tobytes()


def test_gradients_through_the_network_are_refused():
    with pytest.raises(InputError, match=r"^guidance: expected proximal for an image with a phase of its own, got dps"):
        solve("tpdm", problem_of("fast"), (Prior(Gaussian(0.3), AXIAL),), replace(SETTINGS, guidance="dps"))


@pytest.mark.parametrize("method", ["wavelet", "tpdm"])
@pytest.mark.parametrize(("kind", "is_real"), [("real", True), ("fast", False), ("smooth", False)])
def test_held_out_samples_tell_real_images_from_others(method, kind, is_real, priors):
    problem = problem_of(kind)
    settings = METHODS[method].resolved(replace(SETTINGS, n_steps=20), problem, priors[0].denoiser.sigma_range)
    choice = phase_choice(problem, method, priors, settings)
    assert choice.n_slices == 4
    assert choice.is_real == is_real
    assert (choice.real_error < choice.complex_error) == is_real
    assert choice.record()["chosen"] == ("estimate" if is_real else "joint")
