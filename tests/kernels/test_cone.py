"""Cone-beam projection, its transpose and FDK against algebra, analysis and their twins."""

from __future__ import annotations

import math

import numpy as np
import pytest

import kernels
from kernels import ConeGeometry, reference_cone


def turn(n, length=2 * math.pi, first=0.1):
    return np.linspace(first, first + length, n, endpoint=False)


# Odd and even sides; detectors that are shifted, coarse, fine, or see a part; a source close by and far away.
GEOMETRIES = {
    "odd": ConeGeometry((9, 12, 10), turn(7), 30.0, 12.0, 11, 17, 1.3, 1.2, 0.3, -0.7),
    "close": ConeGeometry((16, 16, 16), turn(5), 15.0, 0.0, 20, 24),
    "far": ConeGeometry((7, 15, 15), turn(4), 5e4, 10.0, 9, 23),
    "fine": ConeGeometry((6, 9, 14), turn(3), 25.0, 10.0, 40, 60, 0.3, 0.4),
    "coarse": ConeGeometry((12, 20, 11), turn(3), 40.0, 20.0, 5, 7, 4.0, 5.0, -2.0, 3.0),
    "elsewhere": ConeGeometry((5, 8, 8), turn(2), 20.0, 10.0, 6, 6, 1.0, 1.0, 300.0, 0.0),
    "one voxel": ConeGeometry((1, 1, 1), turn(3), 6.0, 2.0, 3, 3),
    "one view": ConeGeometry((20, 17, 19), [0.7], 40.0, 20.0, 30, 31),
    # Rays on both sides of the diagonals, where rows and columns take turns.
    "diagonal": ConeGeometry((8, 9, 9), np.deg2rad([45, 135, 225, 315]), 20.0, 10.0, 13, 14),
}
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())


def random_pair(geometry, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(geometry.shape, np.float32), rng.standard_normal(geometry.data_shape, np.float32)


def relative(got, expected):
    return np.linalg.norm(got - expected) / max(np.linalg.norm(expected), 1e-30)


def dot(a, b):
    return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


@every_geometry
def test_adjoint_passes_both_dot_tests(geometry, xp, to_numpy):
    x, y = random_pair(geometry)
    projected = to_numpy(kernels.cone_forward(xp.asarray(x), geometry))
    for other in (y, projected):
        back = to_numpy(kernels.cone_adjoint(xp.asarray(other), geometry))
        # The weights are the same bits; sums of float32 are rounded.
        gap = abs(dot(projected, other) - dot(x, back))
        assert gap <= 1e-6 * np.linalg.norm(projected) * np.linalg.norm(other)


@every_geometry
def test_native_agrees_with_twin(geometry, xp, to_numpy):
    x, y = random_pair(geometry)
    for name, data in (("cone_forward", x), ("cone_adjoint", y), ("cone_fdk", y)):
        got = getattr(kernels, name)(xp.asarray(data), geometry)
        assert isinstance(got, xp.ndarray)
        assert got.dtype == np.float32
        # The twin sums in float64.
        assert relative(to_numpy(got), getattr(reference_cone, name)(data, geometry)) <= 1e-5, name


@pytest.mark.parametrize("name", ["cone_forward", "cone_adjoint", "cone_fdk"])
def test_linear(name, xp, to_numpy):
    geometry = GEOMETRIES["odd"]
    which = 0 if name == "cone_forward" else 1
    x, y = random_pair(geometry)[which], random_pair(geometry, 1)[which]

    def apply(data):
        return to_numpy(getattr(kernels, name)(xp.asarray(data), geometry))

    combined = apply(np.float32(0.5) * x + np.float32(-3) * y)
    assert relative(combined, 0.5 * apply(x) - 3.0 * apply(y)) <= 2e-6


@pytest.mark.parametrize("name", ["cone_forward", "cone_adjoint", "cone_fdk"])
def test_result_does_not_depend_on_threads(name):
    geometry = GEOMETRIES["one view" if name == "cone_forward" else "close"]
    data = random_pair(geometry)[0 if name == "cone_forward" else 1]
    results = []
    for n in (1, 3):
        with kernels.threads_here(n):
            results.append(getattr(kernels, name)(data, geometry))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", ["cone_forward", "cone_adjoint", "cone_fdk"])
def test_device_code_agrees_with_the_cpu(name, xp, to_numpy):
    geometry = GEOMETRIES["odd"]
    data = random_pair(geometry)[0 if name == "cone_forward" else 1]
    there = to_numpy(getattr(kernels, name)(xp.asarray(data), geometry))
    # The same weights in another order of sums.
    assert relative(there, getattr(kernels, name)(data, geometry)) <= 1e-6


SPHERES = ((0.55, 0.1, -0.15, 0.1, 1.0), (0.2, 0.25, 0.2, -0.3, 0.5))


def spheres(n: int) -> np.ndarray:
    """Spheres of radius, slice, row, column (of half a side) and density, averaged over voxels, float32 (n, n, n)."""
    places = (np.arange(3 * n) + 0.5) / (3 * n) * 2 - 1
    z, r, c = np.meshgrid(places, places, places, indexing="ij", sparse=True)
    fine = sum(
        density * ((z - a) ** 2 + (r - b) ** 2 + (c - d) ** 2 < radius**2) for radius, a, b, d, density in SPHERES
    )
    return np.asarray(fine).reshape(n, 3, n, 3, n, 3).mean(axis=(1, 3, 5)).astype(np.float32)


def chords(geometry: ConeGeometry) -> np.ndarray:
    """Line integrals of the same, float32 (n_views, n_lines, n_bins)."""
    half, middle = geometry.shape[0] / 2, (np.array(geometry.shape) - 1) / 2
    out = np.zeros(geometry.data_shape)
    for view in range(geometry.n_views):
        source, directions = geometry.rays_of(view)
        for radius, *place, density in SPHERES:
            away = middle + half * np.array(place) - source
            squared = (away**2).sum() - (directions @ away) ** 2
            out[view] += density * 2 * np.sqrt(np.maximum((radius * half) ** 2 - squared, 0))
    return out.astype(np.float32)


def scanner(n: int, n_views: int, length=2 * math.pi, **changes) -> ConeGeometry:
    return ConeGeometry((n, n, n), turn(n_views, length), 2.5 * n, 1.25 * n, 2 * n, 2 * n, **changes)


def test_projections_of_spheres_are_their_chords():
    geometry = scanner(48, 7)
    got, exact = kernels.cone_forward(spheres(48), geometry), chords(geometry)
    # What is left are the edges, which voxels blur: chords begin steeply.
    assert relative(got, exact) <= 0.035
    assert got.sum() == pytest.approx(exact.sum(), rel=2e-3)
    assert abs(got - exact).mean() <= 0.003 * exact.max()


@pytest.mark.parametrize(
    ("length", "changes"),
    [(2 * math.pi, {}), (math.radians(250), {}), (2 * math.pi, {"bin_offset": 2.0, "line_offset": -3.0})],
    ids=["turn", "short scan", "offset"],
)
def test_fdk_recovers_spheres(length, changes, xp, to_numpy):
    if xp is not np and changes:
        pytest.skip("one scan is enough for a slow stand-in")
    n = 32
    geometry = scanner(n, 120, length, **changes)
    found, truth = to_numpy(kernels.cone_fdk(xp.asarray(chords(geometry)), geometry)), spheres(n)
    middle = slice(n // 2 - 2, n // 2 + 2)
    # Exact at the source's height; beyond, cones of few degrees lose little.
    assert np.sqrt(np.mean((found[middle] - truth[middle]) ** 2)) <= 0.05
    assert np.sqrt(np.mean((found - truth) ** 2)) <= 0.06
    assert found[17, 14, 17] == pytest.approx(1.0, abs=0.03)


def test_conjugate_gradients_over_the_volume_explain_the_projections():
    geometry = scanner(16, 20)
    truth = spheres(16)
    y = kernels.cone_forward(truth, geometry)
    x = np.zeros_like(truth)
    residual = direction = kernels.cone_adjoint(y, geometry)
    for _ in range(30):
        seen = kernels.cone_forward(direction, geometry)
        step = dot(residual, residual) / dot(seen, seen)
        x = x + np.float32(step) * direction
        left = residual - np.float32(step) * kernels.cone_adjoint(seen, geometry)
        direction = left + np.float32(dot(left, left) / dot(residual, residual)) * direction
        residual = left
    assert relative(kernels.cone_forward(x, geometry), y) <= 2e-3
    assert relative(x, truth) < relative(kernels.cone_fdk(y, geometry), truth) / 2


def test_no_views_give_nothing():
    geometry = ConeGeometry((4, 5, 6), [], 20.0, 5.0, 7, 8)
    assert kernels.cone_forward(np.ones((4, 5, 6), np.float32), geometry).shape == (0, 7, 8)
    for back in (kernels.cone_adjoint, kernels.cone_fdk):
        assert not back(np.empty((0, 7, 8), np.float32), geometry).any()


@pytest.mark.parametrize("name", ["cone_forward", "cone_adjoint", "cone_fdk"])
def test_arrays_of_other_kinds_are_refused(name):
    geometry = GEOMETRIES["odd"]
    good = random_pair(geometry)[0 if name == "cone_forward" else 1]
    call = getattr(kernels, name)
    for wrong, error in [
        (good[0], ValueError),
        (good[:-1], ValueError),
        (good[:, ::-1], ValueError),
        (good.astype(np.float64), TypeError),
        (None, TypeError),
    ]:
        with pytest.raises(error, match=r"(volume|projections): expected \(.*, got .*; "):
            call(wrong, geometry)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"shape": (4, 4)}, "shape"),
        ({"source_distance": 3.0}, "source_distance"),
        ({"detector_distance": -1.0}, "detector_distance"),
        ({"n_lines": 0}, "n_lines"),
        ({"line_spacing": 0.0}, "line_spacing"),
        ({"line_offset": math.nan}, "line_offset"),
        ({"angles_rad": [math.inf]}, "angles_rad"),
    ],
    ids=str,
)
def test_geometries_that_cannot_be_projected_are_refused(changes, named):
    good = {"shape": (4, 4, 4), "angles_rad": [0.0], "source_distance": 20.0, "detector_distance": 5.0}
    with pytest.raises(ValueError, match=f"^{named}: expected"):
        ConeGeometry(**{**good, "n_lines": 5, "n_bins": 5, **changes})


def test_unknown_windows_are_refused():
    geometry = GEOMETRIES["odd"]
    with pytest.raises(ValueError, match=r"^window: expected"):
        kernels.cone_fdk(random_pair(geometry)[1], geometry, "sharp")
