"""Projection, its transpose and filtered back-projection against algebra, analysis, their twins and the reference."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import kernels
from kernels import FanGeometry, ParallelGeometry, reference

FULL_TURN = 2 * math.pi


def fan(shape, n_views, **changes):
    """A scanner whose fan covers the image, magnified by 1.5."""
    diagonal = math.hypot(*shape)
    wanted = {"source_distance": 1.5 * diagonal + 4, "detector_distance": 0.75 * diagonal + 2, "bin_spacing": 1.25}
    wanted["n_bins"] = math.ceil(1.5 * diagonal * 1.1) + 3
    return FanGeometry(shape, np.linspace(0.1, 0.1 + FULL_TURN, n_views, endpoint=False), **{**wanted, **changes})


# Odd and even sizes, an odd and an even padding, one pixel, one view, more pixels than one tile of the adjoint; free
# angles; detectors that are shifted, coarse, fine, or too short to see all; images that are no squares.
GEOMETRIES = {
    **{
        f"parallel-{n}-{views}": ParallelGeometry.from_views(n, views)
        for n, views in [(1, 3), (2, 1), (5, 7), (16, 1), (17, 4), (32, 12), (33, 36), (48, 5)]
    },
    "parallel-free-angles": ParallelGeometry(21, np.deg2rad([90.0, 180.0, -45.0, 271.5, 30.0, 30.0])),
    "parallel-coarse": ParallelGeometry(24, [0.0, 0.7, 2.0], n_bins=11, bin_spacing=3.3, bin_offset=1.7),
    "parallel-fine": ParallelGeometry(9, [0.0, 0.7, 2.0], n_bins=100, bin_spacing=0.15, bin_offset=-0.4),
    "parallel-short": ParallelGeometry(33, [0.2, 1.0, 2.5], n_bins=7),
    "parallel-elsewhere": ParallelGeometry(16, [0.2, 1.0], n_bins=7, bin_offset=100.0),
    "flat-16": fan((16, 16), 5),
    "flat-33x20": fan((33, 20), 7, bin_offset=2.3),
    "flat-one-pixel": fan((1, 1), 1),
    "flat-fine": fan((9, 14), 3, bin_spacing=0.2, n_bins=120),
    "flat-close": fan((24, 24), 4, source_distance=20.0, detector_distance=0.0, n_bins=60),
    "flat-far": fan((24, 24), 4, source_distance=5e4, detector_distance=0.0, n_bins=40, bin_spacing=1.0),
    "curved-17": fan((17, 17), 6, curved=True),
    "curved-12x40": fan((12, 40), 5, curved=True, bin_offset=-1.0),
    "curved-fine": fan((9, 14), 3, curved=True, bin_spacing=0.3, n_bins=80),
}
# A single slice, a full and a ragged block of each width that the CPU works in, more than sixteen for a GPU thread.
SLICE_COUNTS = [1, 3, 7, 21]
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())


def relative(got, expected):
    expected = expected.astype(np.float64)
    return np.linalg.norm(got - expected) / max(np.linalg.norm(expected), 1e-30)


def dot(a, b):
    return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


def random_pair(geometry, n_slices, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((n_slices, *geometry.shape), dtype=np.float32)
    sinogram = rng.standard_normal((n_slices, geometry.n_views, geometry.n_bins), dtype=np.float32)
    return images, sinogram


@pytest.mark.parametrize("n_slices", SLICE_COUNTS)
@every_geometry
def test_adjoint_passes_both_dot_tests(geometry, n_slices, xp, to_numpy):
    x, y = random_pair(geometry, n_slices)
    projected = to_numpy(kernels.radon_forward(xp.asarray(x), geometry))
    for other in (y, projected):
        back = to_numpy(kernels.radon_adjoint(xp.asarray(other), geometry))
        # Both sides use the same weights, so only the rounding of float32 sums of at most a few hundred terms is left.
        gap = abs(dot(projected, other) - dot(x, back))
        assert gap <= 1e-6 * np.linalg.norm(projected) * np.linalg.norm(other)


@pytest.mark.parametrize("n_slices", [1, 21])
@every_geometry
def test_native_agrees_with_twin(geometry, n_slices, xp, to_numpy):
    x, y = random_pair(geometry, n_slices)
    # The twins sum in float64, at positions in float64: the difference is the rounding of the native sums, about 2e-7.
    # A position is good to 2e-9 of a pixel for each pixel from the ray's middle.
    for name, data in (("radon_forward", x), ("radon_adjoint", y), ("radon_fbp", y)):
        got = getattr(kernels, name)(xp.asarray(data), geometry)
        assert isinstance(got, xp.ndarray)
        assert got.dtype == np.float32
        assert relative(to_numpy(got), getattr(reference, name)(data, geometry)) <= 1e-5, name


@pytest.mark.parametrize("name", ["radon_forward", "radon_adjoint", "radon_fbp"])
@pytest.mark.parametrize("geometry", [GEOMETRIES[name] for name in ("parallel-17-4", "flat-33x20", "curved-17")])
def test_linear(name, geometry, xp, to_numpy):
    which = 0 if name == "radon_forward" else 1
    x, y = random_pair(geometry, 3)[which], random_pair(geometry, 3, seed=1)[which]

    def apply(data):
        return to_numpy(getattr(kernels, name)(xp.asarray(data), geometry))

    combined = apply(np.float32(0.5) * x + np.float32(-3) * y)
    # Rounding of the combination before and after, a few float32 units.
    assert relative(combined, 0.5 * apply(x) - 3.0 * apply(y)) <= 2e-6


@pytest.mark.parametrize("name", ["radon_forward", "radon_adjoint", "radon_fbp"])
@pytest.mark.parametrize("geometry", [GEOMETRIES["parallel-48-5"], GEOMETRIES["flat-33x20"]])
def test_result_does_not_depend_on_threads_or_company(name, geometry):
    images, sinogram = random_pair(geometry, 21)
    data = images if name == "radon_forward" else sinogram
    apply = getattr(kernels, name)
    before = kernels.get_threads()
    try:
        kernels.set_threads(1)
        alone = apply(data, geometry)
        kernels.set_threads(5)
        np.testing.assert_array_equal(apply(data, geometry), alone)
        # A slice gets the same bits in whatever block it is worked on.
        for part in (slice(7, 8), slice(7, 10), slice(3, 10)):
            np.testing.assert_array_equal(apply(data[part], geometry), alone[part])
    finally:
        kernels.set_threads(before)


def disc(geometry, radius_px, row, column):
    """Area of each pixel covered by a disc, by 16 x 16 points a pixel; (row, column) from the centre of rotation."""
    (n_rows, n_columns), (row_0, column_0) = geometry.shape, geometry.centre
    v = (np.arange(16 * n_rows) + 0.5) / 16 - 0.5 - row_0 - row
    u = (np.arange(16 * n_columns) + 0.5) / 16 - 0.5 - column_0 - column
    inside = v[:, None] ** 2 + u[None, :] ** 2 <= radius_px**2
    return inside.reshape(n_rows, 16, n_columns, 16).mean(axis=(1, 3)).astype(np.float32)


SCANS_OF_A_DISC = [
    ParallelGeometry.from_views(64, 9),
    ParallelGeometry.from_views(65, 9),
    ParallelGeometry(64, [0.3, 2.0], n_bins=150, bin_spacing=0.5, bin_offset=3.0),
    fan((64, 64), 9),
    fan((60, 75), 9, bin_offset=4.0),
    fan((64, 64), 9, curved=True),
]


@pytest.mark.parametrize("geometry", SCANS_OF_A_DISC)
def test_disc_projects_to_chord_lengths(geometry, xp, to_numpy):
    radius_px, row, column = 12.0, -9.0, 14.0
    image = disc(geometry, radius_px, row, column)
    sinogram = to_numpy(kernels.radon_forward(xp.asarray(image[None]), geometry))[0]
    # Counter-clockwise from the column axis, rows pointing down.
    for angle_rad, line in zip(geometry.angles_rad, sinogram, strict=True):
        e = np.array([-math.sin(angle_rad), math.cos(angle_rad)])
        d = np.array([math.cos(angle_rad), math.sin(angle_rad)])
        s = (np.arange(geometry.n_bins) - (geometry.n_bins - 1) / 2) * geometry.bin_spacing + geometry.bin_offset
        if isinstance(geometry, FanGeometry):
            # From the source and the bin's place, without any use of the code under test.
            source = -geometry.source_distance * d
            reach = geometry.source_distance + geometry.detector_distance
            if geometry.curved:
                towards = np.cos(s / reach)[:, None] * d + np.sin(s / reach)[:, None] * e
            else:
                towards = reach * d + s[:, None] * e
            towards /= np.linalg.norm(towards, axis=1, keepdims=True)
            off = np.array([row, column]) - source
            distance = off[0] * towards[:, 1] - off[1] * towards[:, 0]
        else:
            distance = s - (row * e[0] + column * e[1])
        chord = 2 * np.sqrt(np.maximum(radius_px**2 - distance**2, 0))
        # Pixels and interpolation blur the edge of the disc by about one pixel: a few percent for this radius.
        assert relative(line, chord) <= 0.05
    if isinstance(geometry, ParallelGeometry):
        # Blurring keeps the total, the disc's area, up to the beat between the two lattices.
        total = sinogram.sum(axis=1) * geometry.bin_spacing
        np.testing.assert_allclose(total, math.pi * radius_px**2, rtol=0.01)


def test_far_fan_is_a_parallel_beam():
    shape, angles = (33, 33), [0.0, 0.9, 2.2]
    far = FanGeometry(shape, angles, source_distance=1e6, detector_distance=0.0, n_bins=47)
    near = ParallelGeometry(33, angles, n_bins=47)
    image = disc(far, 9.0, 3.0, -4.0)[None]
    # Only the samples along the ray lie differently; the disc is smooth on their scale but for its edge.
    assert relative(kernels.radon_forward(image, far), kernels.radon_forward(image, near)) <= 0.02


@pytest.mark.parametrize("window", ["ramp", "hann"])
@pytest.mark.parametrize(
    "geometry",
    [
        ParallelGeometry.from_views(64, 180),
        ParallelGeometry(64, np.linspace(0, np.pi, 180, endpoint=False), n_bins=190, bin_spacing=0.5, bin_offset=0.25),
        fan((64, 64), 360),
        fan((64, 50), 360, bin_offset=0.3),
        fan((64, 64), 360, curved=True),
    ],
)
def test_fbp_recovers_a_disc(geometry, window):
    image = disc(geometry, 12.0, -5.0, 6.0)[None]
    recovered = kernels.radon_fbp(kernels.radon_forward(image, geometry), geometry, window)
    # Inside, three pixels off the edge, only ringing is left: a few percent.
    inside = disc(geometry, 9.0, -5.0, 6.0) == 1.0
    assert np.abs(recovered[0][inside] - 1).max() <= 0.06
    assert recovered[0][inside].mean() == pytest.approx(1.0, abs=0.01)


def test_hann_window_damps_noise():
    geometry = ParallelGeometry.from_views(64, 30)
    noise = np.random.default_rng(0).standard_normal((1, 30, geometry.n_bins), dtype=np.float32)
    ramp, hann = (kernels.radon_fbp(noise, geometry, window) for window in ("ramp", "hann"))
    # The energy under the squared ramp and under the squared product with the window is as 1 : 0.133.
    assert np.linalg.norm(hann) < 0.5 * np.linalg.norm(ramp)


def test_agrees_with_reference_implementation(reference_tiny: Path, xp, to_numpy):
    with np.load(reference_tiny / "radon_32.npz") as recorded:
        images, views, fbp = recorded["image"], int(recorded["views"]), recorded["fbp"]
        sinogram = np.ascontiguousarray(recorded["sinogram"].transpose(0, 2, 1))
    geometry = ParallelGeometry.from_views(images.shape[-1], views)
    # Recorded in float32 with float32 sampling positions; their rounding, at 46 pixels, is 4e-6.
    assert relative(to_numpy(kernels.radon_forward(xp.asarray(images), geometry)), sinogram) <= 1e-5
    assert relative(to_numpy(kernels.radon_fbp(xp.asarray(sinogram), geometry)), fbp) <= 1e-5


def test_nothing_gives_nothing(xp):
    geometry = ParallelGeometry.from_views(8, 3)
    assert kernels.radon_forward(xp.empty((0, 8, 8), np.float32), geometry).shape == (0, 3, 12)
    assert kernels.radon_adjoint(xp.empty((0, 3, 12), np.float32), geometry).shape == (0, 8, 8)
    assert kernels.radon_fbp(xp.empty((0, 3, 12), np.float32), geometry).shape == (0, 8, 8)


@pytest.mark.parametrize("geometry", [ParallelGeometry(8, []), FanGeometry((8, 6), [], 20.0, 20.0, 12)])
def test_no_views_give_an_empty_sinogram_and_black_images(geometry, xp, to_numpy):
    images = xp.ones((2, *geometry.shape), np.float32)
    empty = kernels.radon_forward(images, geometry)
    assert empty.shape == (2, 0, 12)
    for back in (kernels.radon_adjoint, kernels.radon_fbp):
        result = to_numpy(back(empty, geometry))
        assert result.shape == images.shape
        assert not result.any()


@pytest.mark.parametrize("geometry", [GEOMETRIES["parallel-17-4"], GEOMETRIES["flat-16"]])
def test_not_a_number_passes_through(geometry, xp, to_numpy):
    images, sinogram = random_pair(geometry, 3)
    images[1, 8, 8] = np.nan
    sinogram[1, 0, geometry.n_bins // 2] = np.nan
    for name, data in (("radon_forward", images), ("radon_adjoint", sinogram), ("radon_fbp", sinogram)):
        result = to_numpy(getattr(kernels, name)(xp.asarray(data), geometry))
        assert np.isnan(result[1]).any(), name
        assert np.isfinite(result[[0, 2]]).all(), name


def test_geometry_is_a_value():
    geometry = ParallelGeometry.from_views(256, 36)
    assert (geometry.n_views, geometry.n_bins, geometry.pad_before) == (36, 363, 53)
    assert geometry == ParallelGeometry(256, geometry.angles_rad)
    assert hash(geometry) == hash(ParallelGeometry(256, np.asarray(geometry.angles_rad)))
    assert geometry != ParallelGeometry.from_views(256, 35)
    assert geometry != ParallelGeometry(256, geometry.angles_rad, bin_offset=0.5)
    assert fan((8, 8), 3) == fan((8, 8), 3)
    assert fan((8, 8), 3) != fan((8, 8), 3, curved=True)
    for n in range(1, 700):
        assert ParallelGeometry(n, [0.0]).n_bins == math.ceil(math.sqrt(2) * n)
