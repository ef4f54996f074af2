"""A cone beam's projections as an inverse problem of any plane, and the noise in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import kernels
from engine.errors import InputError
from engine.io.measurements.cone_scan import ConeScan
from engine.operators import WeightedVolume
from engine.problems.cone_acquisition import of_cone
from engine.problems.noise_level import estimated
from engine.volume import NAMED_PLANES, Plane

N, N_VIEWS, WHITE = 24, 20, 3.0
ANGLES = np.linspace(0, 2 * np.pi, N_VIEWS, endpoint=False)
GEOMETRY = kernels.ConeGeometry((N, N - 2, N + 2), ANGLES, 80.0, 40.0, 46, 50)
CORONAL = Plane(NAMED_PLANES["coronal"])


def blobs() -> np.ndarray:
    """Smooth, brighter than nothing and of white about 1, (x, y, z)."""
    shape = CORONAL.volume_shape(GEOMETRY.shape)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    places = [(0.2, -0.1, 0.0, 0.5, 1.0), (-0.3, 0.2, -0.2, 0.3, 0.4)]
    parts = [w * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * r**2)) for a, b, c, r, w in places]
    return np.where(x**2 + y**2 + z**2 < 0.9, sum(parts), 0).astype(np.float32)


def scan(noise: float = 0.0) -> ConeScan:
    data = kernels.cone_forward(CORONAL.slices_of(blobs()), GEOMETRY) * np.float32(WHITE)
    data += np.float32(noise) * np.random.default_rng(0).standard_normal(data.shape, np.float32)
    return ConeScan(data, GEOMETRY, CORONAL, np.diag([2.0, 2.0, 2.0, 1.0]), "here")


@pytest.mark.parametrize("name", NAMED_PLANES)
def test_every_plane_explains_the_same_volume(name):
    plane, truth = Plane.parse(name), blobs()
    measured = of_cone(scan(), white=WHITE)
    assert measured.shape == truth.shape and measured.n_planes == 3
    assert not measured.unsuitable(plane)
    problem = measured.problem(plane)
    assert (problem.plane, problem.shape, problem.is_of_slices) == (plane, truth.shape, False)
    assert (problem.details["beam"], problem.details["views"], problem.details["lines"]) == ("cone", N_VIEWS, 46)
    seen = problem.operator.apply(plane.slices_of(truth))
    np.testing.assert_allclose(seen, problem.measurement, atol=1e-4)
    fdk = problem.classical()
    better, _ = problem.operator.proximal(problem.measurement)(plane.slices_of(fdk), 0.0)
    assert np.linalg.norm(plane.volume_of(better) - truth) < 0.9 * np.linalg.norm(fdk - truth)


def test_white_is_found_by_fdk():
    assert of_cone(scan()).scale == pytest.approx(WHITE * np.percentile(blobs()[blobs() > 0], 99.5), rel=0.1)
    with pytest.raises(InputError, match=r"^white: expected a positive number, got -1; "):
        of_cone(scan(), white=-1)


@pytest.mark.parametrize("level", [0.2, 1.0])
def test_noise_is_found(level):
    problem = of_cone(scan(level), white=WHITE).problem(CORONAL)
    assert estimated(problem.operator, problem.measurement) * WHITE == pytest.approx(level, rel=0.05)


def test_without_noise_there_is_hardly_any():
    problem = of_cone(scan(), white=WHITE).problem(CORONAL)
    assert estimated(problem.operator, problem.measurement) < 0.003 * problem.sample_rms


def test_weights_make_noise_of_one_strength():
    """Noise that is stronger in half of the lines, weighed by it, has one level; and FDK is as it was."""
    plain = scan()
    strength = np.where(np.arange(GEOMETRY.n_lines) % 2, 2.0, 0.5).astype(np.float32)[:, None]
    noise = np.random.default_rng(1).standard_normal(plain.data.shape, np.float32)
    weights = np.broadcast_to(1 / strength**2, plain.data.shape)
    weighed = of_cone(replace(plain, data=plain.data + strength * noise, weights=weights), white=WHITE)
    problem = weighed.problem(Plane.parse("axial"))
    assert isinstance(problem.operator, WeightedVolume)
    residual = problem.operator.apply(problem.plane.slices_of(blobs())) - problem.measurement
    assert residual.std() * WHITE == pytest.approx(1, rel=0.02)
    unweighed = of_cone(replace(plain, data=plain.data + strength * noise), white=WHITE)
    np.testing.assert_allclose(problem.classical(), unweighed.problem(CORONAL).classical(), atol=1e-5)
