"""Geometries from JSON: what a scan's numbers mean, in every orientation, and which files are refused."""

from __future__ import annotations

import json
import re
from itertools import permutations, product

import numpy as np
import pytest

import kernels
from engine.errors import InputError
from engine.io.measurements.geometry import load_geometry, save_geometry
from engine.io.orientation import Orientation
from engine.operators import Radon
from engine.operators.radon import centre_of_rotation
from engine.volume import NAMED_PLANES, Plane
from kernels import FanGeometry, ParallelGeometry

PARALLEL = {
    "beam": "parallel",
    "angles_deg": [0.0, 20.0, 75.0, 130.0],
    "bin_spacing_mm": 0.6,
    "bin_offset_mm": 1.5,
    "pixel_mm": 0.5,
    "rows": 24,
    "columns": 20,
    "slice_spacing_mm": 2.0,
}
FAN = {
    **{**PARALLEL, "beam": "fan", "bin_spacing_mm": 1.0},
    **{"source_distance_mm": 30.0, "detector_distance_mm": 20.0, "detector": "flat"},
}
CURVED = {**FAN, "detector": "curved"}
SCANS = pytest.mark.parametrize("fields", [PARALLEL, FAN, CURVED], ids=["parallel", "flat", "curved"])
N_VIEWS, N_BINS = 4, 40
ORIENTATIONS = ["".join(letters) for order in permutations(["RL", "AP", "SI"]) for letters in product(*order)]


@pytest.fixture
def load(tmp_path):
    """Load the geometry of some fields, or of a text."""

    def loaded(fields, n_views=N_VIEWS, n_bins=N_BINS):
        path = tmp_path / "geometry.json"
        path.write_text(fields if isinstance(fields, str) else json.dumps(fields))
        return load_geometry(path, n_views, n_bins)

    return loaded


def refusal(load, fields, *sizes) -> str:
    """The message, one sentence that begins with the argument."""
    with pytest.raises(InputError) as caught:
        load(fields, *sizes)
    message = str(caught.value)
    assert message.startswith("geometry: expected ")
    assert not re.search(r"\n|\. |\.$", message), message
    assert "; " in message
    return message


def without(fields, *keys):
    return {key: value for key, value in fields.items() if key not in keys}


def blob(place_mm, affine, shape, width_mm=1.2):
    """A Gaussian about a place in the world, in voxels (x, y, z)."""
    places = np.tensordot(affine[:3, :3], np.indices(shape), 1) + affine[:3, 3, None, None, None]
    squared = sum((axis - p) ** 2 for axis, p in zip(places, place_mm, strict=True))
    return np.exp(-squared / (2 * width_mm**2)).astype(np.float32)


def test_lengths_become_pixels(load):
    scan = load(PARALLEL)
    assert isinstance(scan.geometry, ParallelGeometry)
    assert scan.geometry.angles_rad == tuple(np.deg2rad([0.0, 20.0, 75.0, 130.0]))
    assert (scan.geometry.n_bins, scan.geometry.bin_spacing, scan.geometry.bin_offset) == (40, 0.6 / 0.5, 3.0)
    assert (scan.place.slice_shape, str(scan.place.plane), scan.place.pixel_mm) == ((24, 20), "axial", 0.5)
    fan = load(CURVED).geometry
    assert isinstance(fan, FanGeometry)
    assert (fan.shape, fan.source_distance, fan.detector_distance, fan.curved) == ((24, 20), 60.0, 40.0, True)
    assert (fan.bin_spacing, fan.bin_offset) == (2.0, 3.0)
    assert not load(FAN).geometry.curved
    assert not load(without(FAN, "detector")).geometry.curved
    assert load(without(PARALLEL, "bin_offset_mm")).geometry.bin_offset == 0


def test_angles_may_be_evenly_spaced_or_in_radians(load):
    even = {**PARALLEL, "angles_deg": {"first": 0, "last_excluded": 180, "count": 36}}
    assert load(even, 36).geometry.angles_rad == ParallelGeometry.from_views(24, 36).angles_rad
    radians = {**without(PARALLEL, "angles_deg"), "angles_rad": [0.1, 0.7, 1.1, 2.2]}
    assert load(radians).geometry.angles_rad == (0.1, 0.7, 1.1, 2.2)


def test_size_stands_for_both_sides(load):
    scan = load({**without(PARALLEL, "rows", "columns"), "size": 24, "bins": 40})
    assert scan.place.slice_shape == (24, 24)


@pytest.mark.parametrize(("rows", "columns"), [(24, 20), (21, 9), (1, 1), (2, 2), (5, 5), (16, 16), (17, 33), (30, 4)])
def test_a_parallel_beam_turns_about_the_middle_of_the_image(load, rows, columns):
    scan = load({**PARALLEL, "rows": rows, "columns": columns})
    assert centre_of_rotation(scan.geometry, scan.place.slice_shape) == ((rows - 1) / 2, (columns - 1) / 2)


@SCANS
def test_the_offset_moves_the_sinogram_by_bins(load, fields):
    def middle_of(offset_mm):
        scan = load({**fields, "bin_offset_mm": offset_mm})
        affine = scan.place.affine_of(1)
        x = blob((0, 0, 0), affine, (24, 20, 1))
        seen = Radon(scan.geometry, scan.place.slice_shape).apply(scan.place.plane.slices_of(x))[0]
        return seen @ np.arange(N_BINS) / seen.sum(axis=1)

    # A blob in the centre of rotation, where the affine's 0 lies, is seen in the middle at every angle; a detector that
    # is moved towards its last bin sees it in earlier ones. A hundredth of a bin: the blob is sampled, and cut off.
    np.testing.assert_allclose(middle_of(0.0), (N_BINS - 1) / 2, atol=0.01)
    moved = (N_BINS - 1) / 2 - 1.5 / fields["bin_spacing_mm"]
    # A flat detector sees a shifted blob a little wider on one side.
    np.testing.assert_allclose(middle_of(1.5), moved, atol=0.02)


def test_an_ellipse_has_the_integrals_of_an_ellipse(load):
    # Half axes 4 mm along x (rows) and 2.5 mm along y (columns), values 3 a mm.
    pixel, angles = 0.1, np.array([0.0, 30.0, 90.0, 140.0])
    finer = {"pixel_mm": pixel, "rows": 100, "columns": 80, "bin_spacing_mm": 0.25, "bin_offset_mm": 0.7}
    scan = load({**PARALLEL, **finer, "angles_deg": angles.tolist()})
    fine = 8
    rows, columns = ((np.arange(n * fine) - (n * fine - 1) / 2) * pixel / fine for n in (100, 80))
    inside = ((rows[:, None] / 4) ** 2 + (columns / 2.5) ** 2 < 1).astype(np.float32)
    image = 3 * inside.reshape(100, fine, 80, fine).mean(axis=(1, 3))
    got = Radon(scan.geometry, scan.place.slice_shape).apply(image[None].astype(np.float32))[0] * pixel
    bins = (np.arange(N_BINS) - (N_BINS - 1) / 2) * 0.25 + 0.7
    theta = np.deg2rad(angles)[:, None]
    # The half width seen along a view whose detector points along (−sin θ, cos θ).
    half = np.hypot(4 * np.sin(theta), 2.5 * np.cos(theta))
    expected = 3 * 2 * 4 * 2.5 * np.sqrt(np.maximum(half**2 - bins**2, 0)) / half**2
    # Near its edge the ellipse falls off within a pixel.
    clear = abs(abs(bins) - half) > 0.25
    np.testing.assert_allclose(got[clear], expected[clear], atol=0.15)
    assert expected.max() > 15


@SCANS
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_is_brought_to_a_volume_s(load, fields, orientation):
    scan = load({**fields, "orientation": orientation})
    assert scan.place.plane.axes in NAMED_PLANES.values()
    plain = load({**fields, "orientation": "SRA"})
    n_slices = 3
    affine = scan.place.affine_of(n_slices)
    assert Orientation.of((3, 3, 3), affine).order == (0, 1, 2)
    assert not any(Orientation.of((3, 3, 3), affine).flipped)
    # A blob off every axis; where it is seen has to be what the scan's own image, slices and bins say.
    own = np.random.default_rng(0).random((n_slices, 24, 20), np.float32)
    orientation = Orientation.of(own.shape, scan.place.image_affine)
    volume = np.ascontiguousarray(orientation.volume_of(own))
    assert volume.shape == tuple(
        (n_slices, *scan.place.slice_shape)[scan.place.plane.axes.index(axis)] for axis in range(3)
    )
    got = Radon(scan.geometry, scan.place.slice_shape).apply(scan.place.plane.slices_of(volume))
    got = got[:: -1 if scan.place.slices_reversed else 1, :, :: -1 if scan.place.bins_reversed else 1]
    # The same numbers in the scan's own image: those of an image that needs no change.
    expected = Radon(plain.geometry, plain.place.slice_shape).apply(own)
    # Rays in integers of 2^-29 pixel, weights in float32: rounding alone.
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_the_origin_is_the_first_pixel_of_the_file(load):
    scan = load({**PARALLEL, "orientation": "IPL", "origin_mm": [10, 20, 30]})
    # Counting to I, P and L, the first pixel is the last of every axis.
    affine = scan.place.affine_of(5)
    sides = np.array([20, 24, 5])
    np.testing.assert_allclose(affine @ [*(sides - 1), 1], [10, 20, 30, 1], atol=1e-12)
    np.testing.assert_allclose(affine[:3, :3], np.diag([0.5, 0.5, 2.0]))
    by_affine = [[0, 0, -0.5, 10], [0, -0.5, 0, 20], [-2, 0, 0, 30], [0, 0, 0, 1]]
    other = load({**without(PARALLEL, "slice_spacing_mm"), "affine": by_affine})
    np.testing.assert_allclose(other.place.affine_of(5), affine, atol=1e-12)
    assert other.geometry == scan.geometry


def test_an_oblique_affine_is_kept(load):
    a, b = np.deg2rad([12, -7])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ [
        [1, 0, 0],
        [0, np.cos(b), -np.sin(b)],
        [0, np.sin(b), np.cos(b)],
    ]
    image = np.eye(4)
    image[:3, :3] = turn[:, [2, 0, 1]] @ np.diag([2.0, 0.5, 0.5])
    image[:3, 3] = 3, 4, 5
    scan = load({**without(PARALLEL, "slice_spacing_mm"), "affine": image.tolist()})
    np.testing.assert_array_equal(scan.place.affine_of(4), image[:, [1, 2, 0, 3]])


GEOMETRIES = {
    "published": (ParallelGeometry.from_views(16, 9), (16, 16)),
    "published, not square": (ParallelGeometry.from_views(16, 9), (16, 11)),
    "odd": (ParallelGeometry(17, [0.1, 0.7], n_bins=30, bin_spacing=1 / 3, bin_offset=-0.1), (9, 17)),
    "flat": (FanGeometry((12, 9), [0.3, 5.0], 31.7, 20.1, 33, 1.1, 0.37), (12, 9)),
    "curved": (FanGeometry((12, 9), np.linspace(0, 6, 7), 200 / 7, 0.0, 33, 1.1, -0.37, curved=True), (12, 9)),
}


@pytest.mark.parametrize("plane", NAMED_PLANES)
@pytest.mark.parametrize("pixel", [1.0, 0.7, 0.9765625, 1 / 3])
@pytest.mark.parametrize(("geometry", "shape"), GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_a_saved_geometry_comes_back(tmp_path, geometry, shape, pixel, plane):
    plane, path = Plane.parse(plane), tmp_path / "geometry.json"
    affine = np.diag([pixel, pixel, pixel, 1.0])
    affine[plane.slice_axis, plane.slice_axis] = 2.3
    affine[:3, 3] = -31.4, 1 / 3, 1e-3
    save_geometry(path, geometry, shape, plane, affine)
    scan = load_geometry(path, geometry.n_views, geometry.n_bins)
    assert (scan.place.slice_shape, scan.place.plane, scan.place.pixel_mm) == (shape, plane, pixel)
    assert not scan.place.slices_reversed
    assert not scan.place.bins_reversed
    np.testing.assert_array_equal(scan.place.affine_of(5), affine)
    assert type(scan.geometry) is type(geometry)
    assert scan.geometry.angles_rad == geometry.angles_rad
    assert scan.geometry.shape == geometry.shape
    names = ("bin_spacing", "bin_offset", "source_distance", "detector_distance", "curved")
    for name in names[: 2 if isinstance(geometry, ParallelGeometry) else None]:
        # Lengths in mm need not have a float64 for every length in pixels.
        assert getattr(scan.geometry, name) == pytest.approx(getattr(geometry, name), rel=1e-15, abs=0)
    # What was read once stays as it is.
    save_geometry(path, scan.geometry, shape, plane, scan.place.affine_of(5))
    assert load_geometry(path, geometry.n_views, geometry.n_bins).geometry == scan.geometry
    assert [p.name for p in tmp_path.iterdir()] == ["geometry.json"]


@pytest.mark.parametrize(
    "affine",
    [np.diag([-1.0, 1, 1, 1]), np.eye(4)[[1, 0, 2, 3]], np.diag([1.0, 1.2, 1, 1])],
    ids=["L", "swapped", "oblong"],
)
def test_affines_that_cannot_be_said_are_not_saved(tmp_path, affine):
    with pytest.raises(InputError, match=r"^geometry: expected .*, got .*; "):
        save_geometry(tmp_path / "a.json", ParallelGeometry.from_views(8, 3), (8, 8), Plane.parse("axial"), affine)
    assert list(tmp_path.iterdir()) == []


def test_views_and_bins_that_differ_name_the_axis(load):
    assert "last axis but one (views), got 4" in refusal(load, PARALLEL, 5, 40)
    assert refusal(load, PARALLEL, 40, 4).endswith("views and bins with --axes slices,bins,views")
    message = refusal(load, {**PARALLEL, "bins": 41})
    assert "bins to be 40 as along the sinogram's last axis (bins), got 41" in message


@pytest.mark.parametrize(
    ("wrong", "known"),
    [
        ("bin_offset", "bin_offset_mm"),
        ("Angles_deg", "angles_deg"),
        ("pixel_size_mm", "pixel_mm"),
        ("centre", "rotation_centre_px"),
    ],
)
def test_unknown_keys_are_refused_with_the_closest_known_one(load, wrong, known):
    message = refusal(load, {**PARALLEL, wrong: 1})
    assert f"got '{wrong}'" in message
    assert message.endswith(known)


@SCANS
def test_every_key_without_a_default_is_asked_for(load, fields):
    optional = {"bin_offset_mm", "detector"}
    for key in set(fields) - optional:
        named = "angles_deg" if key == "angles_deg" else f"the key {key}"
        assert named in refusal(load, without(fields, key))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"beam": "cone"}, "parallel or fan as beam"),
        ({"beam": "helical"}, "rebin it to slices"),
        ({"beam": "laminography"}, "parallel or fan as beam"),
        ({"beam": "round"}, "parallel or fan as beam"),
        ({"bin_offset_mm": 300}, "rays that meet the image"),
        ({"DSD": 1500, "DSO": 1000}, "DSD less DSO detector_distance_mm"),
        ({"type": "fanflat", "DetectorWidth": 1}, "'type' of ASTRA"),
        ({"SourceToIsocenterDistance": 1000}, "RTK"),
        ({"beam": ["fan"]}, "beam"),
        ({"angles_deg": 12}, "angles_deg"),
        ({"angles_deg": [0, 1, 2, "3"]}, "angles_deg"),
        ({"angles_deg": [0, 1, 2, True]}, "angles_deg"),
        ({"angles_deg": [0, 1, 2, 1e308]}, "angles_deg"),
        ({"angles_deg": [0, 1, 2, [3]]}, "angles_deg"),
        ({"angles_deg": {"first": 0, "last": 180, "count": 4}}, "last_excluded"),
        ({"angles_deg": {"first": 0, "last_excluded": 180, "count": 4.0}}, "count"),
        ({"angles_deg": {"first": 0, "last_excluded": 180, "count": 10**12}}, "count"),
        ({"angles_deg": {"first": 0, "last_excluded": None, "count": 4}}, "last_excluded"),
        ({"angles_rad": [0, 1, 2, 3]}, "both"),
        ({"bins": 0}, "bins"),
        ({"bin_spacing_mm": 0}, "bin_spacing_mm"),
        ({"bin_spacing_mm": -1}, "bin_spacing_mm"),
        ({"bin_spacing_mm": "1"}, "bin_spacing_mm"),
        ({"bin_spacing_mm": 1000}, "bin_spacing"),
        ({"bin_offset_mm": None}, "bin_offset_mm"),
        ({"bin_offset_mm": 10**400}, "bin_offset_mm"),
        ({"pixel_mm": 0.0}, "pixel_mm"),
        ({"pixel_mm": [0.5, 0.6]}, "pixel_mm"),
        ({"rows": 1.5}, "rows"),
        ({"rows": 10**9}, "rows"),
        ({"columns": 21}, "both sides even or both odd"),
        ({"size": 24}, "no rows beside size"),
        ({"rotation_centre_px": [3, 4]}, "centre of rotation"),
        ({"rotation_centre_px": [3]}, "rotation_centre_px"),
        ({"slice_spacing_mm": 0}, "slice_spacing_mm"),
        ({"origin_mm": [1, 2]}, "origin_mm"),
        ({"orientation": "SRL"}, "orientation"),
        ({"orientation": "sra"}, "orientation"),
        ({"orientation": 5}, "orientation"),
        ({"affine": np.eye(4).tolist()}, "no slice_spacing_mm beside affine"),
        ({"source_distance_mm": 100}, "no source_distance_mm beside a parallel beam"),
    ],
)  # fmt: skip
def test_values_without_sense_are_refused(load, changes, named):
    assert named in refusal(load, {**PARALLEL, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"source_distance_mm": 5}, "source_distance: expected more than"),
        ({"detector_distance_mm": -1}, "detector_distance"),
        ({"detector": "round"}, "flat or curved as detector"),
        ({"detector": "curved", "bin_spacing_mm": 10}, "less than half a turn"),
        ({"rotation_centre_px": [12, 10]}, "in the middle of the image"),
    ],
)
def test_fans_without_sense_are_refused(load, changes, named):
    assert named in refusal(load, {**FAN, **changes})


@pytest.mark.parametrize(
    "affine",
    [
        np.eye(3), np.zeros((4, 4)), np.diag([2.0, 0.5, 0.6, 1]), np.diag([2.0, 0.6, 0.6, 1]),
        np.diag([2, 0.5, 0.5, 2.0]),
        np.array([[2.0, 0, 0, 0], [0, 0.5, 0.1, 0], [0, 0, 0.49, 0], [0, 0, 0, 1]]), np.diag([0, 0.5, 0.5, 1.0]),
    ],
    ids=["3x3", "zero", "oblong", "another size", "last line", "sheared", "flat"],
)  # fmt: skip
def test_affines_without_sense_are_refused(load, affine):
    refusal(load, {**without(PARALLEL, "slice_spacing_mm"), "affine": affine.tolist()})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "JSON"), ("[1, 2]", "object"), ("7", "object"), ('"text"', "object"), ("{", "JSON"), ("nonsense", "JSON"),
        ('{"beam": "fan", "beam": "fan"}', "'beam' twice"),
        ('{"beam": "parallel", "angles_deg": {"count": 1, "count": 2}}', "'count' twice"),
        ("[" * 100_000, "JSON"), ('{"beam":' * 100_000, "JSON"), ('{"bins": ' + "9" * 10_000 + "}", "JSON"),
        (json.dumps({**PARALLEL, "bin_offset_mm": float("nan")}), "bin_offset_mm"),
        (json.dumps({**PARALLEL, "bin_offset_mm": float("-inf")}), "bin_offset_mm"),
        (" " * (1 << 24) + "{}", "JSON"),
    ],
    ids=range(14),
)  # fmt: skip
def test_texts_that_are_no_geometry_are_refused(load, text, named):
    assert named in refusal(load, text)


def test_missing_files_folders_and_bytes_are_refused(tmp_path):
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{}\x00")
    for path in (tmp_path / "missing.json", tmp_path, tmp_path / "bytes.json"):
        with pytest.raises(InputError, match=r"^geometry: expected a JSON file, .* cannot be read .*; check"):
            load_geometry(path, 4, 40)


def test_a_mark_of_the_byte_order_does_not_matter(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(PARALLEL), encoding="utf-8-sig")
    assert load_geometry(tmp_path / "a.json", N_VIEWS, N_BINS).place.slice_shape == (24, 20)


def test_rays_and_kernels_agree_on_the_source(load):
    # At angle 0 the source is above the image: with nothing but the lowest row, its shadow is magnified least.
    scan = load({**FAN, "bin_offset_mm": 0.0, "bin_spacing_mm": 0.5}, N_VIEWS, 80)
    images = np.zeros((2, 24, 20), np.float32)
    images[0, 0, 2] = images[1, 23, 2] = 1
    near, far = kernels.radon_forward(images, scan.geometry)[:, 0]
    middle = (80 - 1) / 2
    where = [abs(line @ np.arange(80) / line.sum() - middle) for line in (near, far)]
    for found, row in zip(where, (0, 23), strict=True):
        from_source = 60 + row - 11.5
        assert found == pytest.approx((9.5 - 2) * 100 / from_source, rel=0.01)
