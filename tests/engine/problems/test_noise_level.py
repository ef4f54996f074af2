"""Noise is found where it is, none where there is none, and what cannot be judged is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import kernels
from engine import demo
from engine.errors import InputError
from engine.operators import CoilFourier, LinearOperator, MaskedFourier, Radon, ThickSlices
from engine.problems import mrzsr
from engine.problems.noise_level import estimated, with_noise_level
from engine.problems.tasks import Measurement, simulate
from engine.sampling.problem import InverseProblem
from engine.volume import NAMED_PLANES, Plane

AXIAL, CORONAL = Plane(NAMED_PLANES["axial"]), Plane(NAMED_PLANES["coronal"])
PROBLEMS = [
    *(("csmri", {"acceleration": a}) for a in (4.0, 8.0)),
    *(("svct", {"views": v}) for v in (9, 20, 36)),
    *(("mrzsr", {"factor": f}) for f in (2, 3, 4, 5)),
]


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    pytest.importorskip("nilearn")
    return demo.volume().data


def measure(head: np.ndarray, name: str, how: dict, noise: float) -> InverseProblem:
    plane = CORONAL if name == "mrzsr" else AXIAL
    return simulate(name, head, plane, Measurement(noise=noise, **how))


def smooth_stack(n: int = 12, side: int = 32) -> np.ndarray:
    """A stack that its borders cut, so that none of it is air."""
    z, row, column = np.meshgrid(*[np.linspace(0, 3, k) for k in (n, side, side)], indexing="ij")
    return (1.5 + np.sin(z + row) * np.cos(2 * column - z)).astype(np.float32)


def noisy(y: np.ndarray, level: float) -> np.ndarray:
    generator = np.random.default_rng(5)
    noise = generator.standard_normal(y.shape)
    if np.iscomplexobj(y):
        noise = noise + 1j * generator.standard_normal(y.shape)
    return (y + level * noise).astype(y.dtype)


@pytest.mark.parametrize("noise", [0.01, 0.02, 0.05, 0.1])
@pytest.mark.parametrize(("name", "how"), PROBLEMS, ids=str)
def test_noise_of_the_demonstration_is_found(head, name, how, noise):
    task = measure(head, name, how, noise)
    # Thick slices have no combination of samples that is free of the image: the edges of the head remain.
    assert estimated(task.operator, task.measurement) == pytest.approx(task.noise_level, rel=0.2)
    if name != "mrzsr":
        assert estimated(task.operator, task.measurement) == pytest.approx(task.noise_level, rel=0.05)


@pytest.mark.parametrize(("name", "how"), PROBLEMS, ids=str)
def test_without_noise_there_is_none(head, name, how):
    task = measure(head, name, how, 0.0)
    # Rounding of float32; for thick slices what the head has of fine differences.
    bound = 0.01 if name == "mrzsr" else 1e-6
    assert estimated(task.operator, task.measurement) <= bound * task.sample_rms


@pytest.mark.parametrize("radius", [np.inf, 26, 18])
def test_a_background_of_zeros_does_not_hide_the_noise_inside(radius):
    y, x = np.mgrid[:64, :64] - 32
    noise = np.random.default_rng(0).normal(0, 0.1, (16, 64, 64))
    slices = np.where(np.hypot(x, y) < radius, 1 + noise, 0).astype(np.float32)
    thick = ThickSlices((64, 64), 4, 1)
    # Rows are the thick axis: slices and columns are the others.
    measured = np.ascontiguousarray(slices.transpose(1, 0, 2))
    assert estimated(thick, measured) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(("signal", "warned"), [(0.0, True), (0.5, False)])
def test_noise_alone_is_warned_of(signal, warned, caplog):
    z, y, x = np.meshgrid(*[np.linspace(0, 6, n) for n in (40, 48, 12)], indexing="ij")
    anatomy = signal * (1 + np.sin(z) * np.cos(y) * np.cos(x))
    thick = (anatomy + np.random.default_rng(1).uniform(0, 1, anatomy.shape)).astype(np.float32)
    problem = with_noise_level(mrzsr(thick, 4), "estimate")
    assert problem.noise_level == pytest.approx(np.sqrt(1 / 12), rel=0.05)
    assert ("looks like noise alone" in caplog.text) == warned


@pytest.mark.parametrize("radius", [np.inf, 26])
def test_noise_beside_tissue_of_one_intensity_is_not_noise_alone(radius, caplog):
    """Ten of a hundred, all there is to vary in a masked head."""
    y, x = np.mgrid[:64, :64] - 32
    noise = np.random.default_rng(0).normal(0, 0.1, (16, 64, 64))
    slices = np.where(np.hypot(x, y) < radius, 1 + noise, 0).astype(np.float32)
    with_noise_level(mrzsr(slices, 4), "estimate")
    assert "looks like noise alone" not in caplog.text


def operators() -> dict[str, LinearOperator]:
    generator = np.random.default_rng(3)
    mask = (generator.random((32, 32)) < 0.5).astype(np.float32)
    maps = (generator.standard_normal((4, 1, 1)) + 1j * np.ones((4, 32, 32))).astype(np.complex64)
    narrow = kernels.ParallelGeometry(32, np.linspace(0, 3, 20), n_bins=30)
    return {
        "real": MaskedFourier(mask),
        "weights": MaskedFourier(mask * (0.5 + generator.random((32, 32))).astype(np.float32)),
        "complex": MaskedFourier(mask, np.complex64),
        "coils": CoilFourier(mask, maps),
        "rays beside the image": Radon(kernels.ParallelGeometry.from_views(32, 6)),
        "no ray beside the image": Radon(narrow),
        "fan": Radon(kernels.FanGeometry((32, 32), np.linspace(0, 6, 7), 60.0, 40.0, 40)),
        "rows": ThickSlices((32, 32), 4, axis=1),
        "columns": ThickSlices((32, 32), 3, axis=2, profile="gaussian", gap=1.0),
    }


@pytest.mark.parametrize(("name", "operator"), operators().items(), ids=lambda x: x if isinstance(x, str) else "")
def test_every_operators_noise_is_found(name, operator):
    y = operator.apply(smooth_stack().astype(operator.image_dtype))
    level = 0.05 * float(np.sqrt(np.mean(abs(y) ** 2)))
    found = estimated(operator, noisy(y, level))
    # The tenth part of a dozen slices is the quietest one: some 200 values, whose deviation is known to a tenth.
    assert found == pytest.approx(level, rel=0.25 if name in ("complex", "coils") else 0.1)


def test_a_level_scales_with_the_measurement():
    operator = ThickSlices((32, 32), 4, axis=1)
    y = noisy(operator.apply(smooth_stack()), 0.1)
    assert estimated(operator, np.float32(1000) * y) == pytest.approx(1000 * estimated(operator, y), rel=1e-5)


def test_a_few_ruined_samples_do_not_matter():
    operator = operators()["real"]
    y = noisy(operator.apply(smooth_stack()), 1.0)
    before = estimated(operator, y)
    y[0, 12:20] = 1e6
    assert estimated(operator, y) == pytest.approx(before, rel=0.1)


def test_too_few_samples_are_refused():
    operator = MaskedFourier(np.ones((4, 4), np.float32))
    with pytest.raises(InputError, match=r"^noise-level: expected at least 150 values .*, got 16; give the level"):
        estimated(operator, operator.apply(np.ones((1, 4, 4), np.float32)))
    empty = MaskedFourier(np.zeros((4, 4), np.float32))
    with pytest.raises(InputError, match=r"^noise-level: expected at least 150 values .*, got 0; give the level"):
        estimated(empty, empty.apply(np.ones((1, 4, 4), np.float32)))


def test_operators_that_it_does_not_know_are_refused():
    class Other(LinearOperator):
        def _apply(self, x):
            return x

        _adjoint = _classical = _apply

    operator = Other((16, 16), (16, 16), np.float32)
    with pytest.raises(InputError, match=r"^noise-level: expected k-space, .*, got Other; give the level as a number"):
        estimated(operator, np.zeros((2, 16, 16), np.float32))


def test_a_stated_level_is_in_the_unit_of_the_simulated_one(head):
    task = measure(head, "svct", {"views": 9}, 0.05)
    assert with_noise_level(task, "known").noise_level == task.noise_level
    stated = with_noise_level(task, 0.05)
    assert stated.noise_level == pytest.approx(task.noise_level)
    assert stated.details == {**task.details, "noise_level": stated.noise_level, "noise_level_source": "stated"}
    assert with_noise_level(task, 0.0).noise_level == 0
    found = with_noise_level(task, "estimate")
    assert (found.noise_level, found.details["noise_level_source"]) == (
        estimated(task.operator, task.measurement),
        "estimate",
    )
    # Nothing else changes.
    again = replace(found, noise_level=task.noise_level, details=task.details)
    assert all(getattr(again, name) is getattr(task, name) for name in ("operator", "measurement", "plane"))


@pytest.mark.parametrize("level", [-0.1, float("nan"), float("inf"), "some"])
def test_levels_without_sense_are_refused(head, level):
    with pytest.raises(InputError, match=rf"^noise-level: expected .*, got '?{level}'?; "):
        with_noise_level(measure(head, "csmri", {}, 0.0), level)


def test_tasks_without_a_measurement_are_refused():
    task = simulate("uncond", None, AXIAL, shape=(8, 8, 8))
    with pytest.raises(InputError, match=r"^noise-level: expected a task with a measurement, got uncond.*; drop"):
        with_noise_level(task, "estimate")
