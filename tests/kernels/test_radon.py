"""Projection, its transpose and filtered back-projection against algebra, analysis, their twins and the reference."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import kernels
from kernels import ParallelGeometry, reference

# Odd and even sizes, an odd and an even padding, one pixel, one view, more rows than one band of the adjoint.
GEOMETRIES = [(1, 3), (2, 1), (5, 7), (16, 1), (17, 4), (32, 12), (33, 36), (48, 5)]
# A single slice, and a full and a ragged block of each width the native code works in.
SLICE_COUNTS = [1, 3, 4, 19]


def relative(got, expected):
    expected = expected.astype(np.float64)
    return np.linalg.norm(got - expected) / max(np.linalg.norm(expected), 1e-30)


def dot(a, b):
    return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


def random_pair(n, n_views, n_slices, seed=0):
    geometry = ParallelGeometry.from_views(n, n_views)
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((n_slices, n, n), dtype=np.float32)
    sinogram = rng.standard_normal((n_slices, n_views, geometry.n_bins), dtype=np.float32)
    return geometry, images, sinogram


@pytest.mark.parametrize("n_slices", SLICE_COUNTS)
@pytest.mark.parametrize(("n", "n_views"), GEOMETRIES)
def test_adjoint_passes_both_dot_tests(n, n_views, n_slices):
    geometry, x, y = random_pair(n, n_views, n_slices)
    projected = kernels.radon_forward(x, geometry)
    for other in (y, projected):
        gap = abs(dot(projected, other) - dot(x, kernels.radon_adjoint(other, geometry)))
        # Both sides use the same weights, so only the rounding of float32 sums of at most a few hundred terms is left.
        assert gap <= 1e-6 * np.linalg.norm(projected) * np.linalg.norm(other)


@pytest.mark.parametrize("n_slices", SLICE_COUNTS)
@pytest.mark.parametrize(("n", "n_views"), GEOMETRIES)
def test_native_agrees_with_twin(n, n_views, n_slices):
    geometry, x, y = random_pair(n, n_views, n_slices)
    # The twins sum in float64: the difference is the rounding of the native sums, about 2e-7 here.
    assert relative(kernels.radon_forward(x, geometry), reference.radon_forward(x, geometry)) <= 1e-5
    assert relative(kernels.radon_adjoint(y, geometry), reference.radon_adjoint(y, geometry)) <= 1e-5
    assert relative(kernels.radon_fbp(y, geometry), reference.radon_fbp(y, geometry)) <= 1e-5


@pytest.mark.parametrize("angles_deg", [[90.0], [180.0, -45.0], [30.0, 30.0, 271.5]])
def test_native_agrees_with_twin_at_free_angles(angles_deg):
    geometry = ParallelGeometry(21, np.deg2rad(angles_deg))
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 21, 21), dtype=np.float32)
    y = rng.standard_normal((2, len(angles_deg), geometry.n_bins), dtype=np.float32)
    # As above: rounding of float32 sums.
    assert relative(kernels.radon_forward(x, geometry), reference.radon_forward(x, geometry)) <= 1e-5
    assert relative(kernels.radon_adjoint(y, geometry), reference.radon_adjoint(y, geometry)) <= 1e-5


@pytest.mark.parametrize("name", ["radon_forward", "radon_adjoint", "radon_fbp"])
def test_linear(name):
    geometry, *inputs = random_pair(17, 6, 3)
    _, *others = random_pair(17, 6, 3, seed=1)
    which = 0 if name == "radon_forward" else 1
    x, y = inputs[which], others[which]
    apply = getattr(kernels, name)
    combined = apply(np.float32(0.5) * x + np.float32(-3) * y, geometry)
    # Rounding of the combination before and after, a few float32 units.
    assert relative(combined, 0.5 * apply(x, geometry) - 3.0 * apply(y, geometry)) <= 2e-6


@pytest.mark.parametrize("name", ["radon_forward", "radon_adjoint", "radon_fbp"])
def test_result_does_not_depend_on_threads_or_company(name):
    geometry, images, sinogram = random_pair(40, 5, 19)
    data = images if name == "radon_forward" else sinogram
    apply = getattr(kernels, name)
    before = kernels.get_threads()
    try:
        kernels.set_threads(1)
        alone = apply(data, geometry)
        kernels.set_threads(5)
        np.testing.assert_array_equal(apply(data, geometry), alone)
        # A slice gets the same bits in whatever block it is worked on.
        np.testing.assert_array_equal(apply(data[7:8], geometry), alone[7:8])
        np.testing.assert_array_equal(apply(data[7:10], geometry), alone[7:10])
    finally:
        kernels.set_threads(before)


def disc(n, radius_px, row, column):
    """Area of each pixel covered by a disc, by 16 x 16 points a pixel; (row, column) from the lattice's centre."""
    geometry = ParallelGeometry(n, [0.0])
    origin = (geometry.n_bins - 1) / 2 - geometry.pad_before
    fine = (np.arange(16 * n) + 0.5) / 16 - 0.5 - origin
    inside = (fine[:, None] - row) ** 2 + (fine[None, :] - column) ** 2 <= radius_px**2
    return inside.reshape(n, 16, n, 16).mean(axis=(1, 3)).astype(np.float32)


@pytest.mark.parametrize("n", [64, 65])
def test_disc_projects_to_chord_lengths(n):
    radius_px, row, column = 12.0, -9.0, 14.0
    geometry = ParallelGeometry.from_views(n, 9)
    sinogram = kernels.radon_forward(disc(n, radius_px, row, column)[None], geometry)[0]
    s = np.arange(geometry.n_bins) - (geometry.n_bins - 1) / 2
    for angle_rad, line in zip(geometry.angles_rad, sinogram, strict=True):
        # Counter-clockwise from the column axis, rows pointing down: the detector axis is (column, row) = (cos, -sin).
        centre = column * math.cos(angle_rad) - row * math.sin(angle_rad)
        chord = 2 * np.sqrt(np.maximum(radius_px**2 - (s - centre) ** 2, 0))
        # Pixels and interpolation blur the edge of the disc by about one pixel: a few percent for this radius.
        assert relative(line, chord) <= 0.05
        # Blurring keeps the total, the disc's area, up to the beat between the two lattices.
        assert line.sum() == pytest.approx(math.pi * radius_px**2, rel=0.01)


def test_fbp_recovers_a_disc():
    geometry = ParallelGeometry.from_views(64, 180)
    image = disc(64, 12.0, -5.0, 6.0)[None]
    recovered = kernels.radon_fbp(kernels.radon_forward(image, geometry), geometry)
    # Inside, three pixels off the edge, only ringing is left: a few percent.
    inside = disc(64, 9.0, -5.0, 6.0) == 1.0
    assert np.abs(recovered[0][inside] - 1).max() <= 0.06
    assert recovered[0][inside].mean() == pytest.approx(1.0, abs=0.01)


def test_agrees_with_reference_implementation(reference_tiny: Path):
    with np.load(reference_tiny / "radon_32.npz") as recorded:
        images, views, fbp = recorded["image"], int(recorded["views"]), recorded["fbp"]
        sinogram = np.ascontiguousarray(recorded["sinogram"].transpose(0, 2, 1))
    geometry = ParallelGeometry.from_views(images.shape[-1], views)
    # Recorded in float32 with float32 sampling positions; their rounding, at 46 pixels, is 4e-6.
    assert relative(kernels.radon_forward(images, geometry), sinogram) <= 1e-5
    assert relative(kernels.radon_fbp(sinogram, geometry), fbp) <= 1e-5


def test_no_slices_give_no_slices():
    geometry = ParallelGeometry.from_views(8, 3)
    assert kernels.radon_forward(np.empty((0, 8, 8), np.float32), geometry).shape == (0, 3, 12)
    assert kernels.radon_adjoint(np.empty((0, 3, 12), np.float32), geometry).shape == (0, 8, 8)
    assert kernels.radon_fbp(np.empty((0, 3, 12), np.float32), geometry).shape == (0, 8, 8)


def test_geometry_is_a_value():
    geometry = ParallelGeometry.from_views(256, 36)
    assert (geometry.n_views, geometry.n_bins, geometry.pad_before) == (36, 363, 53)
    assert geometry == ParallelGeometry(256, geometry.angles_rad)
    assert hash(geometry) == hash(ParallelGeometry(256, np.asarray(geometry.angles_rad)))
    assert geometry != ParallelGeometry.from_views(256, 35)
    for n in range(1, 700):
        assert ParallelGeometry(n, [0.0]).n_bins == math.ceil(math.sqrt(2) * n)
