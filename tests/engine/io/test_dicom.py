"""DICOM series in and out: geometry, scaling, what is refused, and what of a patient goes along."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from engine.io.volumes.dicom import _read
from engine.io.volumes.dicom_files import is_series
from engine.io.volumes.dicom_write import write_series
from tests.engine.io.series import ORIENTATIONS, SHAPE, enhanced, geometry, levels, make, read_series, set_on
from tests.refusals import one_sentence

IDENTITY = {
    "PatientName": "Doe^Jane",
    "PatientID": "4711",
    "PatientBirthDate": "19700101",
    "PatientSex": "F",
    "PatientAge": "054Y",
    "StudyDate": "20240102",
    "StudyTime": "101112",
    "AccessionNumber": "ACC1",
    "InstitutionName": "General Hospital",
    "ReferringPhysicianName": "House^Gregory",
    "DeviceSerialNumber": "SN12345",
    "StudyID": "STUDY9",
    "ImageComments": "Jane D.",
}


def refused(*words, name="volume"):
    return one_sentence(name, *words)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_slices_are_ordered_by_position_in_every_orientation(tmp_path, orientation):
    expected, place = make(tmp_path, cosines=ORIENTATIONS[orientation])
    data, affine = read_series(tmp_path)
    assert data.dtype == np.float32 and affine.dtype == np.float64
    np.testing.assert_array_equal(data, expected)
    np.testing.assert_allclose(affine, place, atol=1e-8)


def test_a_known_voxel_lies_where_the_standard_says(tmp_path):
    # PS3.3 C.7.6.2.1.1: P = S + X·Δi·i + Y·Δj·j, Δi between columns; left and posterior become right and anterior.
    make(tmp_path)
    _, affine = read_series(tmp_path)
    np.testing.assert_allclose(affine @ [2, 3, 1, 1], [-(10 + 2 * 0.75), -(-20 + 3 * 1.5), 30 + 2, 1])


def test_slope_and_intercept_of_each_slice(tmp_path):
    def rescale(k, dataset):
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.5 + k, -10 * k

    expected, _ = make(tmp_path, rescale)
    k = np.arange(SHAPE[2], dtype=np.float32)
    np.testing.assert_allclose(read_series(tmp_path)[0], expected * (0.5 + k) - 10 * k, rtol=1e-6)


@pytest.mark.parametrize("bits, sign", [(8, 0), (16, 0), (16, 1), (32, 1)])
def test_numbers_of_any_width(tmp_path, bits, sign):
    def store(k, dataset):
        values = levels()[:, :, k].T - (60 if sign else 0)
        dataset.BitsAllocated = dataset.BitsStored = bits
        dataset.HighBit, dataset.PixelRepresentation = bits - 1, sign
        dataset.PixelData = values.astype(f"<{'i' if sign else 'u'}{bits // 8}").tobytes()
        dataset["PixelData"].VR = "OW"

    expected, _ = make(tmp_path, store)
    np.testing.assert_array_equal(read_series(tmp_path)[0], expected - (60 if sign else 0))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_encodings(tmp_path, syntax):
    expected, place = make(tmp_path)
    for path in list(tmp_path.iterdir()):
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
        fresh = Dataset(dataset)
        fresh.file_meta = dataset.file_meta
        fresh["PixelData"].VR = "OW"
        fresh.save_as(path, enforce_file_format=True)
    data, affine = read_series(tmp_path)
    np.testing.assert_array_equal(data, expected)
    np.testing.assert_allclose(affine, place, atol=1e-8)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_images_that_can_be_decoded(tmp_path, syntax):
    if syntax == RLELossless:
        expected, _ = make(tmp_path, lambda k, dataset: dataset.compress(syntax))
    else:
        features = pytest.importorskip("PIL.features")
        if not features.check("jpg_2000"):
            pytest.skip("Pillow was built without JPEG 2000")
        expected, _ = make(tmp_path, jpeg2000)
    np.testing.assert_array_equal(read_series(tmp_path)[0], expected)


def jpeg2000(k, dataset, repeat=1):
    """Compress unsigned pixels, repeated to an image of another size than the header's where asked for."""
    from io import BytesIO

    from PIL import Image
    from pydicom.encaps import encapsulate

    stream = BytesIO()
    pixels = np.tile(levels()[:, :, k].T.astype(np.uint16), (repeat, repeat))
    Image.fromarray(pixels).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
    dataset.PixelRepresentation = 0
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def test_a_compressed_image_of_another_size_is_refused(tmp_path):
    pytest.importorskip("PIL")
    make(tmp_path, lambda k, dataset: jpeg2000(k, dataset, repeat=20))
    with refused("cannot be read"):
        read_series(tmp_path)


def test_enhanced_image_with_functional_groups(tmp_path):
    origin, step, place = geometry()
    enhanced(levels(), origin, step).save_as(tmp_path / "all", enforce_file_format=True)
    data, affine = read_series(tmp_path)
    np.testing.assert_allclose(data, levels() * (1.0 + np.arange(SHAPE[2])) + 3, rtol=1e-6)
    np.testing.assert_allclose(affine, place, atol=1e-8)


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_memory_stays_below_twice_the_volume(tmp_path, kind):
    import tracemalloc

    from engine.io.source import Source

    shape = (256, 320, 40)
    if kind == "classic":
        make(tmp_path, shape=shape)
    else:
        origin, step, _ = geometry()
        enhanced(np.ones(shape, np.int16), origin, step).save_as(tmp_path / "all", enforce_file_format=True)
    tracemalloc.start()
    try:
        data = _read.__wrapped__(Source(tmp_path, "volume")).data
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * data.nbytes


def test_frames_without_their_groups_are_refused(tmp_path):
    origin, step, _ = geometry()
    dataset = enhanced(levels(), origin, step)
    dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:-1]
    dataset.save_as(tmp_path / "all", enforce_file_format=True)
    with refused("a functional group for each of 4 frames, got 3"):
        read_series(tmp_path)


def test_other_files_are_left_out(tmp_path):
    expected, _ = make(tmp_path)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._0.dcm").write_bytes(b"resource fork")
    (tmp_path / "inner").mkdir()
    for name, kind in (
        ("DICOMDIR", "1.2.840.10008.1.3.10"),
        ("report.dcm", "1.2.840.10008.5.1.4.1.1.88.11"),
        ("csa.dcm", "1.3.12.2.1107.5.9.1"),  # Siemens' non-image storage
    ):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(kind), generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        other = FileDataset("", Dataset(), preamble=b"\0" * 128, file_meta=meta)
        if name != "DICOMDIR":
            other.SOPClassUID = kind
        other.save_as(tmp_path / name, enforce_file_format=True)
    np.testing.assert_array_equal(read_series(tmp_path)[0], expected)


def test_what_counts_as_a_series(tmp_path):
    assert not is_series(tmp_path / "nothing")
    empty, text, named = (tmp_path / name for name in ("empty", "text", "named"))
    for folder in (empty, text):
        folder.mkdir()
    (text / "a.dcm").write_text("no image at all, whatever its name")
    (text / "b.npy").write_bytes(b"\x93NUMPY")
    assert not is_series(empty) and not is_series(text) and not is_series(text / "a.dcm")
    make(named)
    for path in list(named.iterdir()):
        path.rename(path.with_suffix(""))
    assert is_series(named)
    read_series(named)


def test_images_without_a_file_header(tmp_path):
    expected, _ = make(tmp_path)
    for path in list(tmp_path.iterdir()):
        dataset = dcmread(path)
        fresh = Dataset(dataset)
        fresh.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[128:132] != b"DICM"
    assert is_series(tmp_path)
    np.testing.assert_array_equal(read_series(tmp_path)[0], expected)


def test_the_parser_neither_warns_nor_logs(tmp_path, caplog, recwarn):
    make(tmp_path, set_on(0, PixelData=levels()[:, :, 0].T.tobytes() + b"\0\0"))
    read_series(tmp_path)
    make(tmp_path / "rle", lambda k, dataset: dataset.compress(RLELossless))
    for path in (tmp_path / "rle").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\x40\0\0\0", b"\x60\0\0\0"))
    with refused("cannot be read"):
        read_series(tmp_path / "rle")
    assert not caplog.records and not recwarn.list


@pytest.mark.parametrize(
    "change, words",
    [
        (
            set_on(2, SeriesInstanceUID="1.9", SeriesDescription="scout"),
            ["got 2", "'scout'", "'t2 tse'", "a folder of"],
        ),
        (set_on(1, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), ["one orientation"]),
        (set_on(1, Rows=4), ["one size"]),
        (set_on(1, PixelSpacing=[1.5, 0.8]), ["one pixel spacing", "0.8"]),
        (
            set_on(1, ImagePositionPatient=[10, -20, 30], EchoTime=80),
            ["one slice a position", "differ in echo time (none and 80 ms)"],
        ),
        (set_on(3, ImagePositionPatient=[10, -20, 38]), ["evenly spaced", "got 4 mm between", "where 2 mm is usual"]),
        (set_on(1, ImagePositionPatient=[10.5, -20, 32]), ["in one line", "mm to the side"]),
        (set_on(0, ImagePositionPatient=None), ["ImagePositionPatient", "got none"]),
        (set_on(0, ImageOrientationPatient=None), ["ImageOrientationPatient", "got none"]),
        (set_on(0, PixelSpacing=None), ["PixelSpacing", "got none"]),
        (set_on(0, Rows=None), ["Rows", "got none"]),
        (set_on(0, PixelData=None), ["cannot be read"]),
        (set_on(0, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), ["perpendicular unit vectors"]),
        (set_on(0, ImageOrientationPatient=[2, 0, 0, 0, 1, 0]), ["perpendicular unit vectors"]),
        (set_on(0, PixelSpacing=[0, 1]), ["positive spacings"]),
        (set_on(0, RescaleSlope=0), ["a slope"]),
        (set_on(0, RescaleSlope=1e38), ["float32 can hold"]),
        (set_on(0, SamplesPerPixel=3, PhotometricInterpretation="RGB"), ["grey images, got RGB"]),
        (set_on(0, PhotometricInterpretation="PALETTE COLOR"), ["grey images, got PALETTE COLOR"]),
        (set_on(0, BitsAllocated=1), ["8, 16 or 32 bits"]),
        (set_on(0, Rows=65535, Columns=65535), ["bytes for the header's shape", "got at most"]),
        (set_on(0, NumberOfFrames=2**31 - 1), ["bytes for the header's shape", "got at most"]),
        (set_on(0, NumberOfFrames=2), ["functional group"]),
        (set_on(0, PixelData=b"\0" * 20), ["cannot be read", "less than expected"]),
        (set_on(0, ModalityLUTSequence=Sequence([Dataset()])), ["look-up table"]),
    ],
)
def test_refusals(tmp_path, change, words):
    make(tmp_path, change)
    with refused(*words):
        read_series(tmp_path)


def test_missing_slice_at_the_only_other_gap(tmp_path):
    make(tmp_path, set_on(2, ImagePositionPatient=[10, -20, 36]), shape=(6, 5, 3))
    with refused("got 4 mm", "where 2 mm is usual"):
        read_series(tmp_path)


@pytest.mark.parametrize("angle_deg", [0.3, 12.0])
def test_slices_may_follow_each_other_aslant(tmp_path, angle_deg):
    def tilt(k, dataset):
        dataset.ImagePositionPatient = [10, round(-20 + 2 * k * np.tan(np.deg2rad(angle_deg)), 6), 30 + 2 * k]

    make(tmp_path, tilt)
    _, affine = read_series(tmp_path)
    np.testing.assert_allclose(affine[:3, 2], [0, -2 * np.tan(np.deg2rad(angle_deg)), 2], atol=1e-6)


def test_one_slice_none_and_no_folder(tmp_path):
    make(tmp_path / "one", shape=(6, 5, 1))
    with refused("at least 2 slices"):
        read_series(tmp_path / "one")
    (tmp_path / "none").mkdir()
    with refused("got none", name="y"):
        read_series(tmp_path / "none", argument="y")
    with refused("check the path"):
        read_series(tmp_path / "nowhere")


def test_deflated_files_are_read(tmp_path):
    expected, _ = make(tmp_path)
    for path in tmp_path.iterdir():
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(read_series(tmp_path)[0], expected)


@pytest.mark.parametrize("syntax, word", [(JPEGLSLossless, "JPEG-LS"), ("1.2.3.4.5", "1.2.3.4.5")])
def test_pixels_that_cannot_be_decoded_here(tmp_path, monkeypatch, syntax, word):
    from pydicom.pixels.decoders.base import Decoder

    monkeypatch.setattr(Decoder, "is_available", property(lambda self: self.is_native))  # as without any plug-in
    # In this process, where no plug-in is to be seen.
    monkeypatch.setattr("engine.io.volumes.dicom._read", _read.__wrapped__)
    make(tmp_path)
    for path in tmp_path.iterdir():
        old, new = ExplicitVRLittleEndian.encode(), str(syntax).encode()
        head, tail = path.read_bytes().split(b"\x02\x00\x10\x00UI\x14\x00" + old + b"\0", 1)
        new += b"\0" * (len(new) % 2)
        path.write_bytes(head + b"\x02\x00\x10\x00UI" + len(new).to_bytes(2, "little") + new + tail)
    with refused(word):
        read_series(tmp_path)


def volume(shape=(7, 6, 5)):
    """Values from -3 to about 5, with 0 among them."""
    return np.random.default_rng(0).normal(1, 1, shape).clip(-3, 6).astype(np.float32)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_round_trip_of_geometry_and_values(tmp_path, orientation):
    _, _, place = geometry(ORIENTATIONS[orientation], spacing=(1 / 3, 0.7), step_mm=1.1, origin=(-123.456789, 7, 1e-7))
    data = volume()
    write_series(tmp_path / "out", data, place)
    back, affine = read_series(tmp_path / "out")
    np.testing.assert_allclose(affine, place, atol=1e-9)
    np.testing.assert_allclose(back, data, atol=0.51 * (data.max() - data.min()) / 65535)
    again = tmp_path / "again"
    write_series(again, back, affine)
    np.testing.assert_allclose(read_series(again)[1], affine, atol=1e-9)


def test_left_handed_axes_keep_their_place_in_the_patient(tmp_path):
    _, _, place = geometry()
    mirrored = place.copy()
    mirrored[:3, 2] *= -1
    data = volume()
    write_series(tmp_path / "out", data, mirrored)
    back, affine = read_series(tmp_path / "out")
    np.testing.assert_allclose(affine @ [0, 0, 4, 1], mirrored[:, 3], atol=1e-9)
    np.testing.assert_allclose(back[:, :, ::-1], data, atol=1e-4)
    assert dcmread(tmp_path / "out" / "IM0001.dcm").ImagePositionPatient[2] == pytest.approx(mirrored[2, 3])


@pytest.mark.parametrize("low, high", [(0, 1), (-1024, 3071), (2.5, 2.5), (0, 1e-30), (-3e38, 3e38), (1e6, 1e6 + 8)])
def test_any_range_is_kept_within_one_step(tmp_path, low, high):
    data = np.linspace(low, high, 4 * 5 * 3).reshape(4, 5, 3).astype(np.float32)
    write_series(tmp_path / "out", data, np.eye(4))
    back, _ = read_series(tmp_path / "out")
    step = (float(data.max()) - float(data.min())) / 65535
    assert abs(back.astype(np.float64) - data).max() <= 0.51 * step + 1e-6 * min(abs(low), abs(high))


@pytest.mark.parametrize(
    "modality, storage", [("MR", MRImageStorage), ("CT", CTImageStorage), ("PT", SecondaryCaptureImageStorage)]
)
def test_modality_of_the_source_and_the_attributes_of_its_kind(tmp_path, modality, storage):
    make(tmp_path / "in", Modality=modality, **IDENTITY)
    write_series(tmp_path / "out", volume(), geometry()[2], tmp_path / "in", description="ten steps")
    paths = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in paths] == [f"IM{k:04d}.dcm" for k in range(1, 6)]
    images = [dcmread(path) for path in paths]
    for k, dataset in enumerate(images):
        assert dataset.SOPClassUID == dataset.file_meta.MediaStorageSOPClassUID == storage
        assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID
        assert dataset.Modality == (modality if modality != "PT" else "OT")
        assert list(dataset.ImageType)[:2] == ["DERIVED", "SECONDARY"]
        assert dataset.InstanceNumber == k + 1
        assert dataset.SliceThickness == dataset.SpacingBetweenSlices == 2
        assert dataset.DerivationDescription == dataset.SeriesDescription == "ten steps"
        assert dataset.WindowWidth > 0
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
            assert keyword in dataset and not dataset[keyword].value
        for keyword in {"MR": ["EchoTime", "ScanOptions"], "CT": ["KVP"]}.get(modality, []):
            assert keyword in dataset
        assert ("ConversionType" in dataset) == (modality == "PT")
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
            assert dataset[keyword].value.is_valid
    assert len({dataset.SOPInstanceUID for dataset in images}) == len(images)
    assert len({dataset.SeriesInstanceUID for dataset in images}) == 1


def everything(dataset):
    """All elements of a data set and its sequences."""
    for element in dataset:
        yield element
        for item in element.value if element.VR == "SQ" else ():
            yield from everything(item)


def identified(k, dataset):
    dataset.add_new(0x00290010, "LO", "VENDOR")
    dataset.add_new(0x00291001, "LO", "Doe^Jane")
    dataset.RequestAttributesSequence = Sequence([Dataset()])
    dataset.RequestAttributesSequence[0].RequestedProcedureID = "PROC-4711"


def test_nothing_identifying_goes_along(tmp_path):
    make(tmp_path / "in", identified, **IDENTITY)
    write_series(tmp_path / "out", volume(), geometry()[2], tmp_path / "in")
    source = dcmread(next((tmp_path / "in").iterdir()))
    uids = {str(e.value) for e in everything(source) if e.VR == "UI"} - {str(source.SOPClassUID)}
    for path in (tmp_path / "out").iterdir():
        raw = path.read_bytes()
        for value in [*IDENTITY.values(), "VENDOR", "PROC-4711", "t2 tse"]:
            assert len(value) < 3 or value.encode() not in raw
        written = dcmread(path)
        assert written.PatientIdentityRemoved == "YES" and written.DeidentificationMethod
        for element in everything(written):
            assert not element.tag.is_private
            assert element.VR != "UI" or str(element.value) not in uids
            assert element.VR not in ("PN", "DA", "TM", "DT") or not element.value


def test_kept_attributes_go_along_in_any_character_set(tmp_path):
    attributes = {**IDENTITY, "SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Zoë"}
    make(tmp_path / "in", identified, **attributes)
    keep = ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientComments")
    write_series(tmp_path / "out", volume(), geometry()[2], tmp_path / "in", keep)
    written = dcmread(tmp_path / "out" / "IM0001.dcm")
    assert str(written.PatientName) == "Müller^Zoë" and written.PatientID == "4711"
    assert written.StudyInstanceUID == "1.2.3" and written.FrameOfReferenceUID == "1.2.5"
    assert written.SeriesInstanceUID != "1.2.3.4"
    assert "PatientComments" not in written  # the source has none
    assert written.PatientIdentityRemoved == "NO" and "DeidentificationMethod" not in written
    assert not written.AccessionNumber and "InstitutionName" not in written


@pytest.mark.parametrize(
    "keep, word",
    [
        (["PatientNom"], "'PatientNom'"),
        (["PixelData"], "'PixelData'"),
        (["Rows"], "'Rows'"),
        (["RequestAttributesSequence"], "single attributes"),
        (["SeriesInstanceUID"], "SeriesInstanceUID, which the new series sets"),
        (["ImagePositionPatient"], "ImagePositionPatient, which the new series sets"),
        (["PatientIdentityRemoved"], "PatientIdentityRemoved, which the new series sets"),
    ],
)
def test_keywords_that_cannot_be_kept(tmp_path, keep, word):
    make(tmp_path / "in")
    with refused(word, name="keep"):
        write_series(tmp_path / "out", volume(), np.eye(4), tmp_path / "in", keep)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_damaged_attribute_is_not_kept(tmp_path):
    make(tmp_path / "in", PatientID="ab")
    for path in (tmp_path / "in").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\x10\x00\x20\x00LO\x02\x00ab", b"\x10\x00\x20\x00IS\x02\x00ab"))
    with refused("a valid PatientID", name="keep"):
        write_series(tmp_path / "out", volume(), np.eye(4), tmp_path / "in", ["PatientID"])


def test_keeping_needs_a_source(tmp_path):
    with refused("a source", name="keep"):
        write_series(tmp_path / "out", volume(), np.eye(4), keep=["PatientID"])
    with refused("got none", name="source"):
        write_series(tmp_path / "out", volume(), np.eye(4), source=tmp_path)


@pytest.mark.parametrize(
    "name, data, affine, description",
    [
        ("data", volume()[0], np.eye(4), "a"),
        ("data", volume()[:0], np.eye(4), "a"),
        ("data", np.full((2, 2, 2), np.nan, np.float32), np.eye(4), "a"),
        ("data", np.full((2, 2, 2), np.inf, np.float32), np.eye(4), "a"),
        ("data", np.ones((2, 2, 2), np.complex64), np.eye(4), "a"),
        ("affine", volume(), np.eye(3), "a"),
        ("affine", volume(), np.diag([1.0, 1, 0, 1]), "a"),
        ("affine", volume(), np.diag([1.0, 1, np.nan, 1]), "a"),
        ("affine", volume(), np.diag([1.0, 1, 1e5, 1]), "a"),
        ("affine", volume(), np.eye(4) + 0.1 * np.eye(4, k=1), "a"),
        ("affine", volume(), np.eye(4) + 0.1 * np.eye(4, k=2), "a"),
        ("description", volume(), np.eye(4), ""),
        ("description", volume(), np.eye(4), "a\nb"),
        ("description", volume(), np.eye(4), "a\\b"),
        ("description", volume(), np.eye(4), "a" * 1025),
    ],
)
def test_what_cannot_be_written(tmp_path, name, data, affine, description):
    with refused(name=name):
        write_series(tmp_path / "out", data, affine, description=description)
    assert not list(tmp_path.iterdir())


def test_only_an_earlier_result_is_replaced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is nobody's
    write_series(out, volume(), np.eye(4))
    write_series(out, volume((4, 4, 3)), np.eye(4))
    assert len(list(out.iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (out / "notes.txt").write_text("mine")
    with refused("'notes.txt'", name="folder"):
        write_series(out, volume(), np.eye(4))
    assert len(list(out.iterdir())) == 4
    make(tmp_path / "in")
    with refused("earlier result", name="folder"):
        write_series(tmp_path / "in", volume(), np.eye(4), tmp_path / "in")
    with refused("existing parent", name="folder"):
        write_series(tmp_path / "a" / "b", volume(), np.eye(4))
    with refused("another file", name="folder"):
        write_series(out / "notes.txt", volume(), np.eye(4))


@pytest.mark.parametrize("is_there", [False, True])
def test_a_series_appears_whole_or_not_at_all(tmp_path, monkeypatch, is_there):
    out = tmp_path / "out"
    if is_there:
        write_series(out, volume((4, 4, 3)), np.eye(4))
    n_saved = []

    def full(self, *args, **kwargs):
        n_saved.append(1)
        if len(n_saved) > 2:
            raise OSError(28, "No space left on device")
        return save(self, *args, **kwargs)

    save = FileDataset.save_as
    monkeypatch.setattr(FileDataset, "save_as", full)
    with refused("No space left", name="folder"):
        write_series(out, volume(), np.eye(4))
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if is_there else [])
    assert not is_there or len(list(out.iterdir())) == 3


def test_a_failed_exchange_brings_the_earlier_series_back(tmp_path, monkeypatch):
    import os

    out = tmp_path / "out"
    write_series(out, volume((4, 4, 3)), np.eye(4))
    replace = os.replace

    def fail(a, b):
        if ".part" in str(a) and str(b) == str(out):
            raise OSError(5, "Input/output error")
        replace(a, b)

    monkeypatch.setattr("engine.io.files.os.replace", fail)
    with refused("Input/output error", name="folder"):
        write_series(out, volume(), np.eye(4))
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and len(list(out.iterdir())) == 3


@pytest.mark.parametrize(
    ("modality", "intercept", "attributes", "expected"),
    [
        ("CT", -1024, {"PixelPaddingValue": -2000}, -1000),
        ("CT", -1024, {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1990}, -1000),
        # In magnitudes, and in CT without Hounsfield units, background is the darkest that was measured.
        ("MR", 0, {"PixelPaddingValue": -2000}, 29),
        ("CT", 0, {"PixelPaddingValue": -2000}, 29),
    ],
)
def test_pixel_padding_is_background(tmp_path, modality, intercept, attributes, expected):
    def change(k, dataset):
        pixels = levels()[:, :, k] + 5
        pixels[0], pixels[1, 0] = -2000, -1995 if "PixelPaddingRangeLimit" in attributes else -2000
        dataset.PixelData, dataset.Modality = pixels.astype("<i2").T.tobytes(), modality
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, intercept

    make(tmp_path / "series", change, **attributes)
    data, _ = read_series(tmp_path / "series")
    assert (data[0] == expected).all() and (data[1, 0] == expected).all()
    np.testing.assert_array_equal(data[2:], levels()[2:].astype(np.float32) + 5 + intercept)


def test_a_padding_value_that_the_image_has_as_well_means_nothing(tmp_path):
    middle = int(np.median(levels()))
    pixels, _ = make(tmp_path / "series", PixelPaddingValue=middle)
    np.testing.assert_array_equal(read_series(tmp_path / "series")[0], pixels)


@pytest.mark.parametrize("value", [None, 63536])
def test_padding_values_that_are_empty_or_of_the_other_sign(tmp_path, value):
    """63536 is -2000 where a program took the wrong sign of pixels."""

    def change(k, dataset):
        pixels = levels()[:, :, k]
        pixels[0] = -2000
        dataset.PixelData = pixels.astype("<i2").T.tobytes()
        dataset.add_new(0x00280120, "US", value)

    make(tmp_path / "series", change)
    data, _ = read_series(tmp_path / "series")
    assert (data[0] == (-2000 if value is None else levels()[1:].min())).all()
