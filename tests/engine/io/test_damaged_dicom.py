"""Whatever damage a DICOM folder has: it reads as finite numbers, or one sentence says what is wrong."""

from __future__ import annotations

import re
import shutil
from io import BytesIO
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, RLELossless

from engine.errors import InputError
from engine.io.volumes.dicom import read_series
from engine.io.volumes.dicom_files import is_series
from engine.io.volumes.dicom_write import write_series
from tests.engine.io.sweep import sweep

N_SLICES, SIDE = 3, 16

some = sweep(80)
NUMBERS = "ImagePositionPatient ImageOrientationPatient PixelSpacing RescaleSlope RescaleIntercept".split()
SIZES = "Rows Columns NumberOfFrames BitsAllocated BitsStored HighBit SamplesPerPixel PixelRepresentation".split()
TAGS = [*NUMBERS, *SIZES, "PixelData", "SeriesInstanceUID", "SOPClassUID", "PhotometricInterpretation"]


def one_image(k, series="1.2.3", cosines=(1, 0, 0, 0, 1, 0)):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, f"1.2.3.{k + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", Dataset(), preamble=b"\0" * 128, file_meta=meta)
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, f"1.2.3.{k + 1}"
    dataset.SeriesInstanceUID, dataset.SeriesNumber, dataset.SeriesDescription = series, 1, "a. b"
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 2 * k], list(cosines)
    dataset.PixelSpacing, dataset.RescaleSlope, dataset.RescaleIntercept = [1, 1], 2, -5
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = SIDE
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = (np.arange(SIDE * SIDE, dtype="<u2") + k).tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def enhanced():
    dataset = one_image(0)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    dataset.NumberOfFrames, dataset.PixelData = N_SLICES, dataset.PixelData * N_SLICES
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing
    frames = []
    for k in range(N_SLICES):
        position, orientation, measures, frame = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, 2 * k]
        orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        measures.PixelSpacing = [1, 1]
        frame.PlanePositionSequence = [position]
        frame.PlaneOrientationSequence = [orientation]
        frame.PixelMeasuresSequence = [measures]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    return dataset


def compressed(k):
    dataset = one_image(k)
    dataset.compress(RLELossless)
    return dataset


def encoded(dataset):
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


KINDS = {
    "classic": [encoded(one_image(k)) for k in range(N_SLICES)],
    "enhanced": [encoded(enhanced())],
    "compressed": [encoded(compressed(k)) for k in range(N_SLICES)],
}
_numbers = count()


def holds(tmp_path, files, suffix=".dcm"):
    """Read files as a series: finite, or one sentence. Returns whether it was read."""
    folder = tmp_path / str(next(_numbers))
    folder.mkdir()
    for k, content in enumerate(files):
        (folder / f"{k}{suffix}").write_bytes(content)
    try:
        is_series(folder)
        series = read_series(folder)
        data, affine = series.data, series.affine
    except InputError as error:
        message = str(error)
        assert re.fullmatch(r"volume: expected [^\n]*; [^\n]*", message), message
        assert not re.search(r"[.?!]\s|\.$", message), message
        assert message.isprintable() and len(message) < 700, message
        return False
    finally:
        shutil.rmtree(folder)
    assert np.isfinite(data).all() and data.dtype == np.float32 and min(data.shape) >= 1
    assert np.isfinite(affine).all() and np.linalg.det(affine[:3, :3]) > 0
    return True


def with_raw(content, keyword, value):
    """The file with the bytes of an attribute replaced, valid or not."""
    dataset = dcmread(BytesIO(content))
    tag = Tag(tag_for_keyword(keyword))
    value += b" " * (len(value) % 2)
    dataset._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
    return encoded(dataset)


def test_undamaged_files_are_read(tmp_path):
    for files in KINDS.values():
        assert holds(tmp_path, files)
        assert holds(tmp_path, files, suffix="")


@some
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_truncated(tmp_path, kind, data):
    files = list(KINDS[kind])
    which = data.draw(st.integers(0, len(files) - 1))
    files[which] = files[which][: data.draw(st.integers(0, len(files[which]) - 1))]
    assert not holds(tmp_path, files)


@some
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_flipped_bytes(tmp_path, kind, data):
    files = [bytearray(content) for content in KINDS[kind]]
    for _ in range(data.draw(st.integers(1, 6))):
        content = files[data.draw(st.integers(0, len(files) - 1))]
        # Most of a file is pixels, where nothing but a number can change.
        end = data.draw(st.sampled_from([len(content), min(len(content), 1000)]))
        content[data.draw(st.integers(128, end - 1))] ^= data.draw(st.integers(1, 255))
    holds(tmp_path, [bytes(content) for content in files])


@some
@given(st.binary(min_size=4, max_size=4).filter(lambda magic: magic != b"DICM"), st.integers(0, N_SLICES - 1))
def test_wrong_magic(tmp_path, magic, which):
    files = list(KINDS["classic"])
    files[which] = files[which][:128] + magic + files[which][132:]
    assert not holds(tmp_path, files)


@some
@given(st.binary(max_size=400), st.booleans(), st.sampled_from(["", ".dcm"]))
def test_any_bytes(tmp_path, content, with_magic, suffix):
    assert not holds(tmp_path, [b"\0" * 128 + b"DICM" + content if with_magic else content] * 2, suffix)


@some
@given(st.sampled_from(sorted(KINDS)), st.sampled_from(SIZES), st.integers(0, 65535), st.booleans())
def test_absurd_sizes(tmp_path, kind, keyword, value, everywhere):
    raw = str(value * 30000).encode() if keyword == "NumberOfFrames" else value.to_bytes(2, "little")
    files = [with_raw(c, keyword, raw) if everywhere or k == 0 else c for k, c in enumerate(KINDS[kind])]
    holds(tmp_path, files)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_largest_sizes(tmp_path, kind):
    files = KINDS[kind]
    for keyword in ("Rows", "Columns"):
        files = [with_raw(content, keyword, b"\xff\xff") for content in files]
    assert not holds(tmp_path, files)


@some
@given(
    st.sampled_from(NUMBERS),
    st.lists(
        st.sampled_from(["NaN", "inf", "-inf", "1e400", "-1e38", "1e38", "1e-320", "0", "", "abc", "1,5", "1e6", "-1"])
        | st.floats(width=32).map(repr),
        max_size=7,
    ),
    st.booleans(),
)
def test_numbers_that_are_none(tmp_path, keyword, values, everywhere):
    raw = "\\".join(values).encode()
    files = [with_raw(c, keyword, raw) if everywhere or k == 0 else c for k, c in enumerate(KINDS["classic"])]
    holds(tmp_path, files)


@pytest.mark.parametrize("keyword", NUMBERS)
@pytest.mark.parametrize("value", ["NaN", "inf", "1e400", "abc"])
def test_no_number_is_ever_taken_for_one(tmp_path, keyword, value):
    n = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}.get(keyword, 1)
    raw = "\\".join([value] * n).encode()
    assert not holds(tmp_path, [with_raw(content, keyword, raw) for content in KINDS["classic"]])


@some
@given(st.sampled_from(["classic", "compressed"]), st.sets(st.sampled_from(TAGS), min_size=1), st.booleans())
def test_deleted_tags(tmp_path, kind, keywords, everywhere):
    files = list(KINDS[kind])
    for k in range(N_SLICES if everywhere else 1):
        dataset = dcmread(BytesIO(files[k]))
        for keyword in keywords & set(dataset.dir()):
            del dataset[keyword]
        files[k] = encoded(dataset)
    is_read = holds(tmp_path, files)
    needed = {"Rows", "Columns", "BitsAllocated", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"}
    assert not is_read or not keywords & (needed | {"PixelData"})


@some
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["1.2.3", "1.2.4"]), st.booleans()), max_size=6))
def test_mixed_series(tmp_path, images):
    files = [encoded(one_image(k, uid, (0, 1, 0, 0, 0, -1) if side else (1, 0, 0, 0, 1, 0))) for k, uid, side in images]
    is_read = holds(tmp_path, files)
    # The same image twice is a copy.
    positions = sorted({k for k, _, _ in images})
    is_one = len({(uid, side) for _, uid, side in images}) == 1 and not images[0][2]
    assert is_read == (is_one and len(positions) > 1 and set(np.diff(positions)) in ({1}, {2}, {3}, {4}))


@some
@given(st.integers(140, 700), st.integers(1, 255), st.sampled_from(["PatientID", "SeriesNumber", "EchoTime"]))
def test_a_damaged_source_leaves_a_whole_series_or_none(tmp_path, place, mask, keyword):
    folder = tmp_path / str(next(_numbers))
    (folder / "in").mkdir(parents=True)
    dataset = one_image(0)
    dataset.PatientID, dataset.Modality, dataset.EchoTime = "4711", "MR", 30
    content = bytearray(encoded(dataset))
    content[place] ^= mask
    (folder / "in" / "a.dcm").write_bytes(content)
    try:
        write_series(folder / "out", np.ones((4, 3, 2), np.float32), np.eye(4), folder / "in", [keyword])
    except InputError as error:
        assert re.fullmatch(r"(source|keep): expected [^\n]*; [^\n]*", str(error)), str(error)
        assert [path.name for path in folder.iterdir()] == ["in"]
    else:
        np.testing.assert_allclose(read_series(folder / "out").data, 1)
    shutil.rmtree(folder)
