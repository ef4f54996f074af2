"""Projections of cone beams from files: what the numbers mean, in every orientation, and which are refused."""

from __future__ import annotations

import json
import logging
from itertools import permutations, product

import h5py
import numpy as np
import pytest

import kernels
from engine.io.measurements.cone_geometry import cone_of, save_cone_geometry
from engine.io.measurements.cone_scan import load_cone_scan
from engine.io.measurements.geometry import load_geometry, read_fields
from engine.io.measurements.sinogram_options import Reading
from engine.io.orientation import Orientation
from engine.volume import NAMED_PLANES, Plane
from tests.refusals import one_sentence

N_VIEWS, N_LINES, N_BINS, N_SLICES = 5, 14, 36, 6
FIELDS = {
    "beam": "cone",
    "angles_deg": [0.0, 20.0, 75.0, 130.0, 290.0],
    "bin_spacing_mm": 1.0,
    "bin_offset_mm": 0.75,
    "line_spacing_mm": 1.5,
    "line_offset_mm": -0.5,
    "source_distance_mm": 30.0,
    "detector_distance_mm": 20.0,
    "pixel_mm": 0.5,
    "slices": N_SLICES,
    "rows": 24,
    "columns": 20,
}
ORIENTATIONS = ["".join(letters) for order in permutations(["RL", "AP", "SI"]) for letters in product(*order)]


def numbers(shape=(N_VIEWS, N_LINES, N_BINS)):
    """All different, so that a wrong order shows."""
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def geometry_of(fields=FIELDS, *sizes):
    return cone_of(fields, *(sizes or (N_VIEWS, N_LINES, N_BINS)))


@pytest.fixture
def load(tmp_path):
    def loaded(data, fields=None, **how):
        np.save(tmp_path / "a.npy", data)
        return load_cone_scan(tmp_path / "a.npy", {**FIELDS, **(fields or {})}, how=Reading(**how))

    return loaded


def test_lengths_become_voxels():
    scan = geometry_of()
    geometry = scan.geometry
    assert geometry.shape == (N_SLICES, 24, 20)
    assert geometry.angles_rad == tuple(np.deg2rad(FIELDS["angles_deg"]))
    assert (geometry.source_distance, geometry.detector_distance) == (60.0, 40.0)
    assert (geometry.n_lines, geometry.line_spacing, geometry.line_offset) == (N_LINES, 3.0, -1.0)
    assert (geometry.n_bins, geometry.bin_spacing, geometry.bin_offset) == (N_BINS, 2.0, 1.5)
    assert str(scan.place.plane) == "axial"
    fewer = {key: value for key, value in FIELDS.items() if not key.startswith("line") and key != "bin_offset_mm"}
    plain = geometry_of(fewer).geometry
    assert (plain.line_spacing, plain.line_offset, plain.bin_offset) == (2.0, 0.0, 0.0)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_is_brought_to_a_volume_s(orientation):
    scan, plain = geometry_of({**FIELDS, "orientation": orientation}), geometry_of()
    place = scan.place
    assert place.plane.axes in NAMED_PLANES.values()
    own = np.random.default_rng(0).random((N_SLICES, 24, 20), np.float32)
    volume = np.ascontiguousarray(Orientation.of(own.shape, place.image_affine).volume_of(own))
    got = kernels.cone_forward(place.plane.slices_of(volume), scan.geometry)
    got = got[:, :: -1 if place.slices_reversed else 1, :: -1 if place.bins_reversed else 1]
    # The same numbers in the scan's own image: those of an image that needs no change, up to rounding.
    np.testing.assert_allclose(got, kernels.cone_forward(own, plain.geometry), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("orientation", ["SRA", "IPL", "RSA", "PIL"])
def test_projections_are_brought_to_the_geometry(load, orientation):
    """What the scan saw of its own image is what the result measures of the volume."""
    own = np.random.default_rng(1).random((N_SLICES, 24, 20), np.float32)
    seen = kernels.cone_forward(own, geometry_of().geometry) * FIELDS["pixel_mm"]
    scan = load(seen, {"orientation": orientation})
    image_affine = geometry_of({**FIELDS, "orientation": orientation}).place.image_affine
    volume = Orientation.of(own.shape, image_affine).volume_of(own)
    assert scan.volume_shape == volume.shape
    expected = kernels.cone_forward(scan.plane.slices_of(volume), scan.geometry)
    np.testing.assert_allclose(scan.data, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(scan.affine, Orientation.of(own.shape, image_affine).volume_affine)


def test_axes_are_views_lines_and_bins(load):
    data, expected = numbers(), numbers() * np.float32(2)
    np.testing.assert_array_equal(load(data).data, expected)
    # By the number of angles, and by name.
    np.testing.assert_array_equal(load(data.swapaxes(0, 1)).data, expected)
    np.testing.assert_array_equal(load(data.T, axes=("bins", "lines", "views")).data, expected)


def test_views_may_be_left_out(load):
    scan = load(numbers(), view_step=2)
    np.testing.assert_array_equal(scan.data, numbers()[::2] * 2)
    assert scan.geometry.angles_rad == geometry_of().geometry.angles_rad[::2]


def test_the_centre_may_be_stated(load):
    # Bin 16 of 36: the detector's middle lies 1.5 bins of 2 voxels beyond it.
    assert load(numbers(), centre=16.0).geometry.bin_offset == 3.0


def test_counts_become_line_integrals(tmp_path):
    integrals = np.random.default_rng(2).random((N_VIEWS, N_LINES, N_BINS)) + 0.1
    flat = 1000 * (1 + np.random.default_rng(3).random((N_LINES, N_BINS)))
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["exchange/data"] = (10 + (flat - 10) * np.exp(-integrals)).astype(np.float32)
        file["exchange/data_white"], file["exchange/data_dark"] = flat[None], np.full((1, N_LINES, N_BINS), 10.0)
        file["exchange/theta"] = FIELDS["angles_deg"]
    fields = {key: value for key, value in FIELDS.items() if key != "angles_deg"}
    scan = load_cone_scan(tmp_path / "s.h5", fields)
    np.testing.assert_allclose(scan.data, 2 * integrals, rtol=1e-4)
    assert scan.geometry.angles_rad == geometry_of().geometry.angles_rad


def test_samples_count_by_their_photons(load):
    integrals = np.random.default_rng(4).random((N_VIEWS, N_LINES, N_BINS))
    # Slices to I: lines the other way round, with their weights.
    scan = load(integrals, {"orientation": "IRA"}, weights="counts")
    expected = np.exp(-integrals)[:, ::-1]
    np.testing.assert_allclose(scan.weights, expected / expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(scan.data, 2 * integrals[:, ::-1], rtol=1e-5)


def test_a_missing_logarithm_is_warned_of(load, caplog):
    wide = {"bin_spacing_mm": 2.0}
    seen = kernels.cone_forward(np.full((N_SLICES, 24, 20), 0.05, np.float32), geometry_of({**FIELDS, **wide}).geometry)
    with caplog.at_level(logging.WARNING, "engine"):
        load(seen, wide)
        assert "logarithm" not in caplog.text
        load(np.exp(-seen), wide)
    assert "no logarithm has been taken" in caplog.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"angles_deg": [0.0, 90.0]}, ("5 angles in angles_deg as the projections have views", "got 2")),
        ({"lines": 15}, ("lines to be 14", "got 15")),
        ({"bins": 35}, ("bins to be 36", "got 35")),
        ({"slices": 0}, ("slices",)),
        ({"slices": None}, ("slices",)),
        ({"source_distance_mm": 6}, ("source_distance: expected more than", "outside the image")),
        ({"detector_distance_mm": -1}, ("detector_distance",)),
        ({"detector": "curved"}, ("flat as detector",)),
        ({"bin_offset_mm": 300}, ("rays that meet the image",)),
        ({"line_offset_mm": 200}, ("rays that meet the volume", "line_offset_mm")),
        ({"line_spacing_mm": 8}, ("within 35 degrees of the source's height",)),
        ({"line_spacing_mm": 0}, ("line_spacing_mm",)),
        ({"slice_spacing_mm": 0.7}, ("cubic voxels of 0.5 mm", "slices 0.7 mm apart")),
        ({"affine": [[0, 0.5, 0, 0], [0.3, 0, 0.5, 0], [0.4, 0, 0, 0], [0, 0, 0, 1]]}, ("cubic voxels", "aslant")),
        ({"rotation_centre_px": [3, 4]}, ("in the middle of the image",)),
    ],
    ids=str,
)
def test_geometries_without_sense_are_refused(changes, words):
    with one_sentence("geometry", *words):
        geometry_of({**FIELDS, **changes})


@pytest.mark.parametrize(
    ("data", "how", "argument", "words"),
    [
        (numbers((N_VIEWS, N_BINS)), {}, "sinogram", ("axes views, lines, bins", "(5, 36)")),
        (np.ones((N_VIEWS, N_LINES, N_BINS)), {}, "sinogram", ("line integrals that vary",)),
        (numbers() * np.nan, {}, "sinogram", ("finite float32 values",)),
        (numbers(), {"axes": ("slices", "views", "bins")}, "axes", ("lines, views and bins",)),
        (numbers(), {"weights": "counts"}, "weights", ("logarithms of counts",)),
        (numbers(), {"centre": "find"}, "centre", ("a parallel beam",)),
        (numbers(), {"bin_mm": 1.0}, "bin-mm", ("no --geometry",)),
    ],
)
def test_projections_without_sense_are_refused(load, data, how, argument, words):
    with one_sentence(argument, *words):
        load(data, **how)


@pytest.mark.parametrize("plane", NAMED_PLANES)
@pytest.mark.parametrize("pixel", [1.0, 0.7, 1 / 3])
def test_a_saved_geometry_comes_back(tmp_path, plane, pixel):
    path, plane = tmp_path / "geometry.json", Plane.parse(plane)
    geometry = kernels.ConeGeometry((6, 9, 12), [0.1, 2.0, 4.4], 31.7, 20.1, 14, 33, 1.3, 1.1, 0.37, -0.2)
    affine = np.diag([pixel, pixel, pixel, 1.0])
    affine[:3, 3] = -31.4, 1 / 3, 1e-3
    save_cone_geometry(path, geometry, plane, affine)
    scan = cone_of(read_fields(path), 3, 14, 33)
    assert (scan.place.plane, scan.place.slices_reversed, scan.place.bins_reversed) == (plane, False, False)
    np.testing.assert_array_equal(scan.place.affine_of(6), affine)
    assert (scan.geometry.shape, scan.geometry.angles_rad) == (geometry.shape, geometry.angles_rad)
    # Lengths in mm need not have a float64 for every length in voxels.
    np.testing.assert_allclose(scan.geometry.numbers, geometry.numbers, rtol=1e-15)
    affine[2, 2] *= 2
    with one_sentence("geometry", "cubic voxels" if plane.slice_axis == 2 else "square pixels"):
        save_cone_geometry(path, geometry, plane, affine)


def test_beams_are_not_taken_for_each_other(tmp_path):
    path = tmp_path / "geometry.json"
    path.write_text(json.dumps(FIELDS))
    assert read_fields(path) == FIELDS
    with one_sentence("geometry", "parallel or fan as beam", "got 'cone'"):
        load_geometry(path, N_VIEWS, N_BINS)
    path.write_text(json.dumps({**FIELDS, "beam": "fan", "slice_spacing_mm": 0.5}))
    with one_sentence("geometry", "no slices beside rays that stay in a slice"):
        load_geometry(path, N_VIEWS, N_BINS)
