"""A tilted gantry: DICOM and NIfTI alike come out straight, with every slice in its plane."""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest

from engine.io.source import Source
from engine.io.volumes import load_volume, save_volume
from engine.io.volumes.shear import straightened
from tests.engine.io.series import image
from tests.refusals import one_sentence

SPACING, STEP_MM, N = (1.5, 0.75), 4.0, 6


def tilted(angle_deg):
    """LPS: directions of rows and columns, and a table that moves along the patient."""
    t = np.deg2rad(angle_deg)
    return np.array([[1.0, 0, 0], [0, np.cos(t), -np.sin(t)]]), np.array([0, 0, STEP_MM])


def smooth(points):
    """Intensities at points in mm, (..., 3), right, front, top; positive, without an edge."""
    x, y, z = np.moveaxis(points, -1, 0)
    return 500 + 100 * np.sin(x / 9) * np.cos(y / 8) + 3 * z


def sampled(affine, shape):
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return smooth(index @ affine[:3, :3].T + affine[:3, 3])


def aslant(angle_deg, shape=(40, 32, N)):
    cosines, step = tilted(angle_deg)
    lps = np.eye(4)
    lps[:3] = np.stack([cosines[0] * SPACING[1], cosines[1] * SPACING[0], step, [-15, -24, 7]], axis=1)
    affine = np.diag([-1, -1, 1, 1]) @ lps
    return sampled(affine, shape), affine


def write_dicom(folder, angle_deg):
    cosines, step = tilted(angle_deg)
    folder.mkdir()
    data, _ = aslant(angle_deg)
    for k in range(N):
        pixels = np.rint(20 * data[:, :, k]).astype(np.int16)
        one = image(pixels, [-15, -24, 7] + k * step, cosines, SPACING, RescaleSlope=0.05, SliceThickness=STEP_MM)
        one.save_as(folder / f"{k}.dcm", enforce_file_format=True)


@pytest.mark.parametrize("angle_deg", [18.5, -25.0, 3.0])
@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_a_tilted_scan_lies_straight_and_in_its_place(tmp_path, caplog, angle_deg, kind):
    if kind == "dicom":
        write_dicom(tmp_path / "a", angle_deg)
    else:
        nib.save(nib.Nifti1Image(aslant(angle_deg)[0].astype(np.float32), aslant(angle_deg)[1]), tmp_path / "a.nii")
    path = tmp_path / ("a" if kind == "dicom" else "a.nii")
    with caplog.at_level(logging.WARNING):
        volume = load_volume(path)
    assert [f"{abs(angle_deg):.1f}° aslant" in record.getMessage() for record in caplog.records] == [True]
    axes = volume.affine[:3, :3] / volume.voxel_mm
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(volume.voxel_mm[2], STEP_MM * np.cos(np.deg2rad(angle_deg)), rtol=1e-6)
    # A point in mm has the intensity that it had, wherever the scan was.
    expected, found = sampled(volume.affine, volume.data.shape), volume.in_file_units(volume.data)
    corners = np.linalg.inv(aslant(angle_deg)[1])
    index = np.stack(np.meshgrid(*map(np.arange, found.shape), indexing="ij"), axis=-1)
    there = (index @ volume.affine[:3, :3].T + volume.affine[:3, 3]) @ corners[:3, :3].T + corners[:3, 3]
    inside = ((there >= 2) & (there <= np.array([37, 29, N - 1 + 1e-6]))).all(axis=-1)
    inside |= ((there >= [2, 2, -1e-6]) & (there <= [37, 29, 1e-6])).all(axis=-1)
    assert inside.sum() > 0.5 * 36 * 28 * N
    # Cubic splines of waves of 50 mm on pixels of 1.5 mm; DICOM's values are rounded to 0.05.
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.1)
    assert found.min() >= aslant(angle_deg)[0].min() - 0.05 and found.max() <= aslant(angle_deg)[0].max() + 0.05


def test_dicom_and_nifti_of_one_scan_agree(tmp_path):
    write_dicom(tmp_path / "a", 20)
    nib.save(nib.Nifti1Image(aslant(20)[0].astype(np.float32), aslant(20)[1]), tmp_path / "a.nii")
    ours, theirs = load_volume(tmp_path / "a"), load_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)
    np.testing.assert_allclose(ours.in_file_units(ours.data), theirs.in_file_units(theirs.data), atol=0.06)
    # The table moved by as much as slices are thick: they are no thicker than they are apart.
    assert ours.thickness.mm == pytest.approx(ours.voxel_mm[2])


def test_a_result_goes_back_to_the_axes_of_the_file(tmp_path):
    data, affine = aslant(18.5)
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), tmp_path / "a.nii")
    volume = load_volume(tmp_path / "a.nii")
    save_volume(tmp_path / "b.nii", volume.in_file_units(volume.data), volume.affine, volume.orientation)
    back = nib.load(tmp_path / "b.nii")
    assert nib.aff2axcodes(back.affine) == nib.aff2axcodes(affine)
    np.testing.assert_allclose(back.affine[:3, :2], affine[:3, :2], atol=1e-5)
    again = load_volume(tmp_path / "b.nii")
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-4)
    assert again.data.shape == volume.data.shape


def test_a_straight_volume_is_left_alone(caplog):
    data, affine = aslant(0.3)
    moved, place = straightened(data, affine, Source(__file__, "volume"))
    assert moved is data and place is affine and not caplog.records


def test_whole_pixels_are_moved_exactly():
    affine = np.diag([2.0, 1.0, 4.0, 1.0])
    affine[1, 2] = 3.0  # three pixels a slice
    data = np.random.default_rng(0).random((5, 6, 4)).astype(np.float32)
    moved, place = straightened(data, affine, Source(__file__, "volume"))
    assert moved.shape == (5, 15, 4)
    np.testing.assert_array_equal(place, np.diag([2.0, 1.0, 4.0, 1.0]))
    for k in range(4):
        np.testing.assert_allclose(moved[:, 3 * k : 3 * k + 6, k], data[:, :, k], atol=1e-6)
        np.testing.assert_allclose(moved[:, : 3 * k, k], data[:, :1, k] * np.ones(3 * k), atol=1e-6)


def test_another_axis_than_the_last_may_be_aslant():
    affine = np.eye(4)
    affine[0, 1] = 0.5
    moved, place = straightened(np.ones((4, 5, 6), np.float32), affine, Source(__file__, "volume"))
    assert moved.shape == (6, 5, 6)
    np.testing.assert_allclose(place, np.eye(4), atol=1e-12)


def test_what_cannot_be_put_straight_is_refused():
    every = np.eye(4)
    every[0, 1] = every[0, 2] = every[1, 2] = 0.3
    steep = np.eye(4)
    steep[1, 2] = 1.2
    for affine, words in ((every, "sheared in every plane"), (steep, "at most 45° aslant, got 50.2°")):
        with one_sentence("volume", words, "resample_to_output"):
            straightened(np.ones((4, 5, 6), np.float32), affine, Source(__file__, "volume"))


def test_nan_around_a_tilted_scan_does_not_spread(tmp_path, caplog):
    data, affine = aslant(18.5)
    data[:3] = np.nan
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), tmp_path / "a.nii")
    volume = load_volume(tmp_path / "a.nii")
    assert np.isfinite(volume.data).all()
    assert sum("NaN" in record.getMessage() for record in caplog.records) == 1
