"""DICOM series as scanners and exports leave them: rounded places, copies, several frames a position, odd files."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from engine.io.volumes.dicom import read_series as series_of
from engine.io.volumes.volume import load_volume
from tests.engine.io.series import ORIENTATIONS, enhanced, geometry, image, levels, make, read_series, set_on
from tests.refusals import one_sentence


def refused(*words, name="volume"):
    return one_sentence(name, *words)


@pytest.mark.parametrize("orientation", ["axial", "coronal", "oblique"])
@pytest.mark.parametrize("step_mm, decimals", [(0.667, 2), (0.625, 2), (3.333, 1), (0.0837, 3)])
def test_positions_may_be_rounded(tmp_path, orientation, step_mm, decimals):
    origin, step, place = geometry(ORIENTATIONS[orientation], step_mm=step_mm, origin=(10.0, -20.0, 30.005))

    def rounded(k, dataset):
        dataset.ImagePositionPatient = [f"{x:.{decimals}f}" for x in origin + k * step]

    make(tmp_path, rounded, (6, 5, 12), ORIENTATIONS[orientation])
    steps = np.diff([dcmread(path).ImagePositionPatient for path in sorted(tmp_path.iterdir())], axis=0)
    assert len(np.unique(np.linalg.norm(steps, axis=1).round(8))) > 1
    _, affine = read_series(tmp_path)
    # Every slice within half a unit, which is along each coordinate; the fit, in squares, within one.
    slices = np.arange(12)
    found, true = (a[:3, 3:] + a[:3, 2:3] * slices for a in (affine, place))
    np.testing.assert_allclose(found, true, rtol=0, atol=10.0**-decimals)
    np.testing.assert_allclose(affine[:3, 2], place[:3, 2], atol=10.0**-decimals / 4)


@pytest.mark.parametrize("off_mm, is_read", [(0.01, True), (0.03, False), (0.3, False)])
def test_only_as_far_as_positions_are_rounded(tmp_path, off_mm, is_read):
    def move(k, dataset):
        dataset.ImagePositionPatient = [10, -20, round(30 + 0.67 * k + off_mm * (k == 3), 2)]

    make(tmp_path, move, (6, 5, 8))
    if is_read:
        read_series(tmp_path)
    else:
        with refused("evenly spaced slices"):
            read_series(tmp_path)


def test_coarse_positions_do_not_hide_a_wrong_one(tmp_path):
    # Whole millimetres, where slices are 2 mm apart.
    make(tmp_path, set_on(2, ImagePositionPatient=[10, -20, 33]))
    with refused("evenly spaced slices", "a folder of their own"):
        read_series(tmp_path)


def test_missing_slices_are_told_from_another_spacing(tmp_path):
    for name, gaps, remedy in (
        ("missing", [2, 2, 6, 2], "add the missing slices"),
        ("other", [2, 2, 3.5, 3.5], "move slices of each spacing into a folder of their own"),
    ):
        z = np.cumsum([0, *gaps])
        make(tmp_path / name, lambda k, d, z=z: setattr(d, "ImagePositionPatient", [0, 0, z[k]]), (6, 5, 5))
        with refused(remedy):
            read_series(tmp_path / name)


def test_a_change_of_thickness_is_named(tmp_path):
    def change(k, dataset):
        dataset.SliceThickness = 4 if k < 3 else 7
        dataset.ImagePositionPatient = [0, 0, [0, 4, 8, 13.5, 20.5][k]]

    make(tmp_path, change, (6, 5, 5))
    with refused("one thickness, got 4 and 7 mm", "a folder of their own"):
        read_series(tmp_path)


def test_thickness_is_that_of_all_slices_or_none(tmp_path):
    make(tmp_path / "same", lambda k, dataset: setattr(dataset, "SliceThickness", 1.5))
    assert series_of(tmp_path / "same").thickness_mm == 1.5
    make(tmp_path / "differ", set_on(1, SliceThickness=3))
    make(tmp_path / "none", lambda k, dataset: delattr(dataset, "SliceThickness"))
    make(tmp_path / "zero", lambda k, dataset: setattr(dataset, "SliceThickness", 0))
    assert all(series_of(tmp_path / name).thickness_mm is None for name in ("differ", "none", "zero"))
    origin, step, _ = geometry()
    whole = enhanced(levels(), origin, step)
    whole.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness = 1.25
    (tmp_path / "enhanced").mkdir()
    whole.save_as(tmp_path / "enhanced" / "all", enforce_file_format=True)
    assert series_of(tmp_path / "enhanced").thickness_mm == 1.25


@pytest.mark.parametrize("is_rewritten", [False, True])
def test_an_instance_in_two_files_is_taken_once(tmp_path, is_rewritten):
    expected, place = make(tmp_path)
    path = min(tmp_path.iterdir())
    if is_rewritten:
        dataset = dcmread(path)
        dataset.PatientComments = "written again by an export"
        dataset.save_as(tmp_path / "again.dcm")
    else:
        shutil.copy(path, tmp_path / "again.dcm")
    series = series_of(tmp_path)
    np.testing.assert_array_equal(series.data, expected)
    np.testing.assert_allclose(series.affine, place, atol=1e-8)
    assert series.copies in (["again.dcm"], [path.name])


def test_an_instance_with_other_content_is_no_copy(tmp_path):
    make(tmp_path)
    dataset = dcmread(min(tmp_path.iterdir()))
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(tmp_path / "again.dcm")
    with refused("one slice a position", "again.dcm"):
        read_series(tmp_path)


def test_one_identifier_for_all_is_no_copy(tmp_path):
    # As some programs that remove names leave it.
    expected, _ = make(tmp_path, lambda k, dataset: setattr(dataset, "SOPInstanceUID", "1.2.3"))
    np.testing.assert_array_equal(read_series(tmp_path)[0], expected)


@pytest.mark.parametrize("n", [1, 4])
def test_mosaics_are_named(tmp_path, n):
    kind = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    make(tmp_path, lambda k, dataset: setattr(dataset, "ImageType", kind), (6, 5, n))
    with refused("a mosaic of many slices", "dcm2niix"):
        read_series(tmp_path)


ECHOES_MS = (5.0, 10.0, 20.0)


def several(folder, n=3, attributes=lambda e: {"EchoTime": ECHOES_MS[e]}, skip=()):
    """A series of n volumes, of intensities that grow by 1000 from one to the next."""
    folder.mkdir()
    origin, step, _ = geometry()
    for e in range(n):
        for k in range(4):
            if (e, k) not in skip:
                one = image(levels()[:, :, k] + 1000 * e, origin + k * step, InstanceNumber=n * k + e, **attributes(e))
                one.save_as(folder / f"{9 - k}-{n - e}.dcm", enforce_file_format=True)


def several_in_one(path, echoes_ms=ECHOES_MS):
    """The same in an enhanced image, echo by echo, slices from the last to the first."""
    origin, step, _ = geometry()
    parts = [enhanced(levels() + 1000 * e, origin, step) for e in range(len(echoes_ms))]
    whole = parts[0]
    for e, part in enumerate(parts):
        for group in part.PerFrameFunctionalGroupsSequence:
            group.MREchoSequence = Sequence([Dataset()])
            group.MREchoSequence[0].EffectiveEchoTime = echoes_ms[e]
            del group.PixelValueTransformationSequence
    whole.PerFrameFunctionalGroupsSequence = [g for part in parts for g in part.PerFrameFunctionalGroupsSequence]
    whole.NumberOfFrames = 4 * len(parts)
    whole.PixelData = b"".join(part.PixelData for part in parts)
    path.parent.mkdir(exist_ok=True)
    whole.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("kind", ["classic", "enhanced", "enhanced file"])
def test_one_of_several_frames_a_position_can_be_chosen(tmp_path, kind):
    path = tmp_path / "series"
    if kind == "classic":
        several(path)
    else:
        several_in_one(path / "all.dcm")
        path = path / "all.dcm" if kind == "enhanced file" else path
    with refused("got 3 at each", "echo time (5, 10 and 20 ms)", "--frame, 0 to 2"):
        read_series(path)
    _, _, place = geometry()
    for frame in range(3):
        data, affine = read_series(path, frame=frame)
        np.testing.assert_array_equal(data, levels() + 1000 * frame)
        np.testing.assert_allclose(affine, place, atol=1e-8)
    with refused("0 to 2", "got 3", name="frame"):
        read_series(path, frame=3)


def test_frames_of_unequal_echoes_are_no_volume(tmp_path):
    several(tmp_path / "series", 2, lambda e: {"EchoTime": ECHOES_MS[e]})
    changed = dcmread(tmp_path / "series" / "9-2.dcm")
    changed.EchoTime = 7
    changed.save_as(tmp_path / "series" / "9-2.dcm")
    with refused("one echo time in frame 0, got 5 and 7 ms"):
        read_series(tmp_path / "series", frame=0)
    read_series(tmp_path / "series", frame=1)


def test_time_points_that_only_numbers_tell_apart(tmp_path):
    several(tmp_path / "series", 2, lambda e: {})
    with refused("got 2 at each", "nothing that headers tell", "--frame, 0 to 1"):
        read_series(tmp_path / "series")
    np.testing.assert_array_equal(read_series(tmp_path / "series", frame=1)[0], levels() + 1000)


def test_b_values_and_directions(tmp_path):
    def diffusion(e):
        direction = {"DiffusionGradientOrientation": [1.0, 0.0, 0.0] if e == 1 else [0.0, 1.0, 0.0]} if e else {}
        return {"DiffusionBValue": 1000.0 if e else 0.0, **direction}

    several(tmp_path / "series", 3, diffusion)
    with refused("b-value (0 and 1000 s/mm²) and gradient direction"):
        read_series(tmp_path / "series")
    assert read_series(tmp_path / "series", frame=0)[0].max() < 1000


def test_an_incomplete_volume_is_named(tmp_path):
    several(tmp_path / "series", 2, skip=[(1, 3)])
    for frame in (None, 0):
        with refused("equally many at each", "echo time (5 and 10 ms)"):
            read_series(tmp_path / "series", frame=frame)


def test_there_is_a_frame_0_of_a_single_volume(tmp_path):
    expected, _ = make(tmp_path)
    np.testing.assert_array_equal(read_series(tmp_path, frame=0)[0], expected)
    with refused("0, the only one", "got 1", name="frame"):
        read_series(tmp_path, frame=1)


@pytest.mark.parametrize("name", ["all.dcm", "all.IMA", "IM0001"])
def test_an_enhanced_file_is_a_volume(tmp_path, name):
    origin, step, place = geometry()
    enhanced(levels(), origin, step).save_as(tmp_path / name, enforce_file_format=True)
    volume = load_volume(tmp_path / name)
    data, affine = volume.orientation.file_of(volume.in_file_units(volume.data), volume.affine)
    np.testing.assert_allclose(data, levels() * (1.0 + np.arange(4)) + 3, rtol=1e-6)
    np.testing.assert_allclose(affine, place, atol=1e-8)


def test_for_a_single_slice_its_folder_is_named(tmp_path):
    make(tmp_path)
    for path in list(tmp_path.iterdir()):
        with refused(f"give the folder '{tmp_path}'"):
            load_volume(path)


def test_a_file_that_is_dicom_by_name_alone(tmp_path):
    (tmp_path / "a.dcm").write_text("no image at all, whatever its name")
    with refused("a.dcm"):
        load_volume(tmp_path / "a.dcm")


@pytest.mark.parametrize("name", ["series.zip", "series.tar.gz", "series.7z"])
def test_archives_are_to_be_unpacked(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\3\4")
    with refused("the archive", "unpack it"):
        load_volume(tmp_path / name)


def test_an_empty_file_among_slices_is_named(tmp_path):
    make(tmp_path)
    (tmp_path / "x.dcm").write_bytes(b"")
    with refused("got 0 bytes", "x.dcm", "remove the empty file"):
        read_series(tmp_path)


def test_a_picture_without_a_place_is_named(tmp_path):
    make(tmp_path)
    report = dcmread(min(tmp_path.iterdir()))
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    del report.ImagePositionPatient, report.ImageOrientationPatient, report.PixelSpacing
    report.save_as(tmp_path / "report.dcm")
    with refused("got none (Secondary Capture Image Storage)", "report.dcm", "move the file away"):
        read_series(tmp_path)


def test_directions_of_an_enhanced_image_are_found_in_their_group(tmp_path):
    origin, step, _ = geometry()
    parts = [enhanced(levels() + 1000 * e, origin, step) for e in range(2)]
    for e, part in enumerate(parts):
        for group in part.PerFrameFunctionalGroupsSequence:
            del group.PixelValueTransformationSequence
            diffusion, direction = Dataset(), Dataset()
            direction.DiffusionGradientOrientation = [float(e), float(1 - e), 0.0]
            diffusion.DiffusionBValue, diffusion.DiffusionGradientDirectionSequence = 700.0, Sequence([direction])
            group.MRDiffusionSequence = Sequence([diffusion])
    whole = parts[0]
    whole.PerFrameFunctionalGroupsSequence = [g for part in parts for g in part.PerFrameFunctionalGroupsSequence]
    whole.NumberOfFrames, whole.PixelData = 8, b"".join(part.PixelData for part in parts)
    whole.save_as(tmp_path / "all.dcm", enforce_file_format=True)
    with refused("got 2 at each, which differ in gradient direction, in"):
        read_series(tmp_path)
    np.testing.assert_array_equal(read_series(tmp_path, frame=1)[0], levels() + 1000)


def test_images_of_one_place_are_no_volume(tmp_path):
    several(tmp_path / "series", 3, skip=[(e, k) for e in range(3) for k in (0, 2, 3)])
    for frame in (None, 1):
        with refused("at least 2 slices, got 3 images of one place"):
            read_series(tmp_path / "series", frame=frame)
