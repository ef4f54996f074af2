"""Sinograms as scanners and synchrotrons leave them: layouts, flat fields, logarithms, angles and centres."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tifffile

from engine.io.measurements.rotation_centre import find_centre
from engine.io.measurements.sinogram import load_sinogram
from engine.io.measurements.sinogram_options import Reading
from engine.operators import Radon
from engine.run import main
from tests.engine.io.discs import HEAD, line_integrals, parallel
from tests.refusals import one_sentence

N, N_VIEWS, N_SLICES = 48, 36, 3
GEOMETRY = parallel(n=N, n_views=N_VIEWS, offset=-2.25)
INTEGRALS = line_integrals(GEOMETRY, HEAD, N_SLICES)
DEGREES = np.linspace(0, 180, N_VIEWS, endpoint=False)
CENTRE = (N - 1) / 2 + 2.25
FIELDS = {
    **{"beam": "parallel", "angles_deg": DEGREES.tolist(), "bin_spacing_mm": 1, "bin_offset_mm": -2.25},
    **{"pixel_mm": 1, "size": N, "slice_spacing_mm": 1},
}


def fields_of_detector():
    """Flat and dark frames, their means, and counts (views, slices, bins)."""
    generator = np.random.default_rng(0)
    flat = 30000 * (1 + 0.2 * generator.random((N_SLICES, N)))
    dark = 100 + 5 * generator.random((N_SLICES, N))
    counts = (dark + (flat - dark) * np.exp(-INTEGRALS.swapaxes(0, 1))).astype(np.float32)
    return np.stack([flat - 10, flat + 10]), np.stack([dark, dark]), counts


@pytest.fixture
def exchange(tmp_path):
    """Write a file in the exchange layout, with changes by the names of its datasets; None leaves one out."""

    def write(units="degrees", **changes):
        flats, darks, counts = fields_of_detector()
        content = {"data": counts, "data_white": flats, "data_dark": darks, "theta": DEGREES} | changes
        with h5py.File(tmp_path / "s.h5", "w") as file:
            group = file.create_group("exchange")
            for name, value in content.items():
                if value is not None:
                    group[name] = value
            if units and "theta" in group:
                group["theta"].attrs["units"] = units
            file["implements"] = "exchange"
        return tmp_path / "s.h5"

    return write


@pytest.fixture
def geometry(tmp_path):
    def write(**changes):
        fields = {key: value for key, value in {**FIELDS, **changes}.items() if value is not None}
        (tmp_path / "g.json").write_text(json.dumps(fields))
        return tmp_path / "g.json"

    return write


def assert_alike(sinogram, rtol=2e-4):
    np.testing.assert_allclose(sinogram.data, INTEGRALS, rtol=rtol, atol=1e-4)
    assert sinogram.geometry.n_views == N_VIEWS


def test_the_exchange_layout_needs_no_geometry(exchange, caplog):
    with caplog.at_level(logging.WARNING, "engine"):
        sinogram = load_sinogram(exchange())
    assert caplog.messages == []
    assert_alike(sinogram)
    assert sinogram.slice_shape == (N, N)
    np.testing.assert_allclose(np.rad2deg(sinogram.geometry.angles_rad), DEGREES)
    assert sinogram.geometry.shadow[3] == pytest.approx(CENTRE, abs=0.1)
    assert sinogram.details["centre_bin"] == pytest.approx(CENTRE, abs=0.1)


def test_a_geometry_may_leave_the_angles_to_the_file(exchange, geometry):
    path = geometry(angles_deg=None, pixel_mm=0.5, bin_spacing_mm=0.5, slice_spacing_mm=0.5, bin_offset_mm=-1.125)
    sinogram = load_sinogram(exchange(), path)
    np.testing.assert_allclose(sinogram.data, 2 * INTEGRALS, rtol=2e-4, atol=2e-4)
    assert sinogram.geometry.shadow[3] == CENTRE
    np.testing.assert_allclose(np.diag(sinogram.affine), [0.5, 0.5, 0.5, 1])


def test_angles_are_in_radians_where_the_file_or_an_option_says_so(exchange):
    radians = np.deg2rad(DEGREES)
    by_file = load_sinogram(exchange(units="radians", theta=radians))
    by_option = load_sinogram(exchange(units=None, theta=radians), how=Reading(angle_unit="rad"))
    for sinogram in (by_file, by_option):
        np.testing.assert_allclose(sinogram.geometry.angles_rad, radians, atol=1e-12)


@pytest.mark.parametrize("log_taken", [True, False])
def test_fields_of_ones_say_that_values_are_corrected(exchange, log_taken):
    values = INTEGRALS.swapaxes(0, 1)
    ones = {"data_white": np.ones((2, N_SLICES, N)), "data_dark": np.zeros((2, N_SLICES, N))}
    assert_alike(load_sinogram(exchange(data=values if log_taken else np.exp(-values), **ones)))


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
@pytest.mark.parametrize("by", ["view", "slice"])
def test_folders_of_projections_or_sinograms(tmp_path, geometry, suffix, by):
    (tmp_path / "scan").mkdir()
    pictures = INTEGRALS.swapaxes(0, 1) if by == "view" else INTEGRALS
    for i, picture in enumerate(pictures):
        path = tmp_path / "scan" / f"p_{i}{suffix}"
        if suffix == ".tif":
            tifffile.imwrite(path, picture, photometric="minisblack", compression="deflate")
        else:
            np.save(path, picture)
    np.testing.assert_array_equal(load_sinogram(tmp_path / "scan", geometry()).data, INTEGRALS)


def test_stacks_of_projections_are_told_by_the_number_of_angles(tmp_path, geometry):
    tifffile.imwrite(tmp_path / "s.tif", INTEGRALS.swapaxes(0, 1), photometric="minisblack", compression="deflate")
    np.testing.assert_array_equal(load_sinogram(tmp_path / "s.tif", geometry()).data, INTEGRALS)


@pytest.mark.parametrize("axes", ["views,slices,bins", "bins,slices,views", "slices,bins,views"])
def test_axes_can_be_stated(tmp_path, geometry, axes):
    order = ["slices,views,bins".split(",").index(name) for name in axes.split(",")]
    np.save(tmp_path / "s.npy", INTEGRALS.transpose(order))
    sinogram = load_sinogram(tmp_path / "s.npy", geometry(), how=Reading(axes=tuple(axes.split(","))))
    np.testing.assert_array_equal(sinogram.data, INTEGRALS)


def test_evenly_spread_views_need_no_file_of_angles(tmp_path):
    np.save(tmp_path / "s.npy", INTEGRALS)
    sinogram = load_sinogram(tmp_path / "s.npy", how=Reading(turn=180.0, bin_mm=0.5, centre=CENTRE))
    np.testing.assert_allclose(sinogram.geometry.angles_rad, GEOMETRY.angles_rad)
    assert sinogram.geometry.shadow[3] == CENTRE
    assert sinogram.affine[0, 0] == 0.5


@pytest.mark.parametrize("i0", [1.0, 45000.0])
@pytest.mark.parametrize("stated", [True, False])
def test_the_logarithm_of_transmissions_and_of_counts(tmp_path, geometry, i0, stated):
    np.save(tmp_path / "s.npy", i0 * np.exp(-INTEGRALS))
    how = Reading(minus_log=True, open_beam=i0 if stated else None)
    assert_alike(load_sinogram(tmp_path / "s.npy", geometry(), how=how))


def test_every_nth_view_is_a_smaller_scan_about_the_same_centre(exchange):
    every, fifth = load_sinogram(exchange()), load_sinogram(exchange(), how=Reading(view_step=5))
    np.testing.assert_array_equal(fifth.data, every.data[:, ::5])
    assert fifth.geometry.angles_rad == every.geometry.angles_rad[::5]
    assert fifth.geometry.shadow == every.geometry.shadow


@pytest.mark.parametrize("off", [0.0, 0.3, -3.4, 7.75])
@pytest.mark.parametrize("span", [180, 360, 200])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_centre_is_found_to_a_part_of_a_bin(off, span, noise):
    scan = parallel(n=64, n_views=60, span_deg=span, n_bins=90, offset=off)
    data = line_integrals(scan)
    data += noise * data.max() * np.random.default_rng(0).standard_normal(data.shape).astype(np.float32)
    found = find_centre(data, np.array(scan.angles_rad))
    assert found == pytest.approx(44.5 - off, abs=0.05 if noise == 0 else 0.25)


def test_a_drifting_beam_does_not_move_the_centre():
    scan = parallel(n=64, n_views=180, n_bins=80, offset=1.5)
    drift = 1e-3 * np.linspace(-1, 1, 80) * np.linspace(0, 1, 180)[:, None]
    data = line_integrals(scan) + drift.astype(np.float32)
    assert find_centre(data, np.array(scan.angles_rad)) == pytest.approx(38.0, abs=0.15)


def test_a_centre_beside_a_geometry_counts_more(tmp_path, geometry, caplog):
    np.save(tmp_path / "s.npy", INTEGRALS)
    wrong = geometry(bin_offset_mm=4)
    with caplog.at_level(logging.WARNING, "engine"):
        load_sinogram(tmp_path / "s.npy", wrong)
    assert "--centre 25.69" in caplog.text
    caplog.clear()
    for centre in (CENTRE, "find"):
        found = load_sinogram(tmp_path / "s.npy", wrong, how=Reading(centre=centre))
        assert found.geometry.shadow[3] == pytest.approx(CENTRE, abs=0.1)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data_white": np.zeros((2, N_SLICES, N))}, ["--flats none"]),
        ({"data_white": np.full((2, N_SLICES, N), np.nan)}, ["finite", "--flats none"]),
        ({"data_white": np.ones((2, N_SLICES, N - 1))}, ["data_white", "--flats none"]),
        ({"data_white": None}, ["flat field", "--flats none"]),
        ({"theta": np.where(DEGREES == 0, np.nan, DEGREES)}, ["finite angles", "--turn"]),
        ({"data": None}, ["exchange/data"]),
        ({"data": np.zeros((N_VIEWS, 0, N))}, ["exchange/data"]),
        ({"data": None, "data_white": None, "data_dark": None, "theta": None}, ["exchange/data"]),
        ({"data": np.full((N_VIEWS, N_SLICES, N), -1.0)}, ["positive values"]),
    ],
    ids=["zeros", "nan", "another size", "no flat", "nan angle", "no data", "no slices", "empty group", "negative"],
)
def test_fields_and_groups_that_cannot_be_used(exchange, changes, words):
    with one_sentence("sinogram", *words):
        load_sinogram(exchange(**changes))


def test_dark_above_flat_is_refused_and_the_remedy_helps(exchange):
    flats, darks, _ = fields_of_detector()
    path = exchange(data_white=darks, data_dark=flats)
    with one_sentence("sinogram", "flat field above the dark one", "--flats none --minus-log"):
        load_sinogram(path)
    assert load_sinogram(path, how=Reading(flats="none", minus_log=True)).data.max() == pytest.approx(
        INTEGRALS.max(), abs=0.3
    )


def test_bins_without_a_flat_field_are_mended_on_request(exchange):
    flats, *_ = fields_of_detector()
    flats[:, :, 20] = 0
    path = exchange(data_white=flats)
    with one_sentence("sinogram", f"{N_SLICES} of {N_SLICES * N} bins", "--flats mend"):
        load_sinogram(path)
    mended = load_sinogram(path, how=Reading(flats="mend")).data
    np.testing.assert_allclose(np.delete(mended, 20, 2), np.delete(INTEGRALS, 20, 2), rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(mended[..., 20], INTEGRALS[..., [19, 21]].mean(-1), atol=0.03)


def test_samples_as_dark_as_the_dark_field_are_counted_aloud(exchange, caplog):
    *_, counts = fields_of_detector()
    counts[3, 0, 24] = 0
    load_sinogram(exchange(data=counts))
    assert f"1 of {counts.size} samples are at or below the dark field" in caplog.text


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({}, "geometry"),
        ({"turn": 180.0, "axes": ("views", "bins")}, "axes"),
        ({"turn": 180.0, "centre": "left"}, "centre"),
        ({"turn": 180.0, "centre": 5000.0}, "centre"),
        ({"turn": 180.0, "open_beam": 5.0}, "open-beam"),
        ({"turn": 180.0, "angle_unit": "rad"}, "angle-unit"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, argument):
    np.save(tmp_path / "s.npy", INTEGRALS)
    with one_sentence(argument):
        load_sinogram(tmp_path / "s.npy", how=Reading(**options))


def test_options_beside_a_geometry_that_says_it(tmp_path, geometry):
    np.save(tmp_path / "s.npy", INTEGRALS)
    for argument, options in (("turn", {"turn": 180.0}), ("bin-mm", {"bin_mm": 1.0})):
        with one_sentence(argument):
            load_sinogram(tmp_path / "s.npy", geometry(), how=Reading(**options))


def test_projections_of_two_sizes_and_dicom_are_refused(tmp_path, geometry):
    (tmp_path / "scan").mkdir()
    for i in range(N_VIEWS):
        tifffile.imwrite(tmp_path / "scan" / f"p{i}.tif", np.ones((3, N - (i == 7)), np.float32))
    with one_sentence("sinogram", "p7.tif"):
        load_sinogram(tmp_path / "scan", geometry())


def test_few_views_of_a_thin_stack_are_reconstructed_as_the_file_comes(exchange, tmp_path):
    out = tmp_path / "out"
    words = ["--task", "svct", "--sinogram", exchange(), "--view-step", "2", "--steps", "2", "--no-report", "--quiet"]
    assert main([str(word) for word in (*words, "--out", out)]) == 0
    record = json.loads((out / "run.json").read_text())
    assert record["task"]["centre_bin"] == pytest.approx(CENTRE, abs=0.1)
    assert list(record["priors"]) == ["primary"]
    (warning,) = record["warnings"]
    assert f"{N}×{N_SLICES} are too narrow" in warning
    assert (out / "fbp.nii.gz").exists()
    # The record repeats the run.
    assert main(["--config", str(out / "run.json"), "--out", str(tmp_path / "again"), "--quiet"]) == 0


def test_the_record_and_the_report_hold_the_warnings(exchange, geometry, tmp_path):
    out, path = tmp_path / "out", exchange(data_white=None, data_dark=None)
    words = ["--task", "svct", "--sinogram", path, "--method", "classical", "--quiet", "--out", out]
    assert main(list(map(str, words))) == 0
    (warning,) = json.loads((out / "run.json").read_text())["warnings"]
    assert "--minus-log" in warning
    assert "no logarithm has been taken" in (out / "report.html").read_text()


CASES = {
    "transmission": (lambda s: np.exp(-s), {}, "--minus-log", Reading(minus_log=True)),
    "counts": (lambda s: 30000 * np.exp(-s), {}, "--minus-log", Reading(minus_log=True)),
    "radians": (
        lambda s: s,
        {"angles_deg": np.deg2rad(DEGREES).tolist()},
        "--angle-unit rad",
        Reading(angle_unit="rad"),
    ),
    "degrees": (
        lambda s: s,
        {"angles_deg": None, "angles_rad": DEGREES.tolist()},
        "--angle-unit deg",
        Reading(angle_unit="deg"),
    ),
    "centre": (lambda s: s, {"bin_offset_mm": 3.75}, "--centre 25.69", Reading(centre="find")),
}


@pytest.mark.parametrize("case", CASES)
def test_what_goes_wrong_once_is_warned_of_and_the_remedy_helps(tmp_path, geometry, caplog, case):
    of_integrals, changes, remedy, how = CASES[case]
    np.save(tmp_path / "s.npy", of_integrals(INTEGRALS))
    path = geometry(**changes)
    with caplog.at_level(logging.WARNING, "engine"):
        load_sinogram(tmp_path / "s.npy", path)
        (message,) = caplog.messages
        assert remedy in message
        caplog.clear()
        mended = load_sinogram(tmp_path / "s.npy", path, how=how)
    assert caplog.messages == []
    assert_alike(mended)
    np.testing.assert_allclose(mended.geometry.angles_rad, GEOMETRY.angles_rad, atol=1e-12)
    assert mended.geometry.shadow[3] == pytest.approx(CENTRE, abs=0.1)


def test_the_image_of_a_measured_scan_is_that_of_its_discs(exchange):
    sinogram = load_sinogram(exchange())
    image = Radon(sinogram.geometry, sinogram.slice_shape).classical(sinogram.data)[0]
    assert image[24, 24] == pytest.approx(0.02, rel=0.1)
    assert image[30:32, 14:16].mean() == pytest.approx(0.05, rel=0.1)


def test_weights_are_those_of_the_photons_that_came_through(exchange, geometry):
    _, darks, counts = fields_of_detector()
    sinogram = load_sinogram(exchange(), how=Reading(weights="counts", view_step=3))
    photons = (counts - darks.mean(0)).swapaxes(0, 1)[:, ::3]
    np.testing.assert_allclose(sinogram.weights / sinogram.weights.max(), photons / photons.max(), rtol=1e-3)
    assert sinogram.details["weights"] == "counts"
    # Rows, columns and bins that count otherwise turn the weights as they turn the samples.
    here = load_sinogram(exchange(), geometry(orientation="IPL"), how=Reading(weights="counts"))
    np.testing.assert_allclose(here.weights.mean(), 1, rtol=1e-5)
    np.testing.assert_allclose(np.corrcoef(np.log(here.weights).ravel(), -here.data.ravel())[0, 1], 1, atol=0.05)


def test_integrals_that_are_no_logarithms_are_not_weighed(tmp_path, geometry):
    np.save(tmp_path / "s.npy", 1000 * INTEGRALS)
    with one_sentence("weights", "logarithms"):
        load_sinogram(tmp_path / "s.npy", geometry(), how=Reading(weights="counts"))


def test_a_weighed_scan_is_reconstructed(exchange, tmp_path):
    words = [
        "--task",
        "svct",
        "--sinogram",
        exchange(),
        "--weights",
        "counts",
        "--steps",
        "2",
        "--no-report",
        "--quiet",
    ]
    assert main([str(word) for word in (*words, "--out", tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["task"]["weights"] == "counts"
    assert record["residual_check"]["residual"] < 0.1 * record["residual_check"]["sample_rms"]


def test_quiet_runs_say_nothing_and_record_what_they_warn_of(exchange, tmp_path):
    words = ["-m", "engine.run", "--task", "svct", "--method", "classical", "--no-report", "--quiet"]
    path, out = exchange(data_white=None, data_dark=None), tmp_path / "out"
    # In a process of its own: the tests' own handlers would make it log.
    done = subprocess.run(
        [sys.executable, *words, "--sinogram", path, "--out", out], capture_output=True, text=True, check=True
    )
    assert done.stderr == done.stdout == ""
    assert "--minus-log" in json.loads((out / "run.json").read_text())["warnings"][0]
