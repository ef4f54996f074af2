"""NRRD and MetaImage, by SimpleITK; what is said where that is not installed; headers that lead elsewhere."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from engine.io.volumes import itk, load_volume
from tests.refusals import one_sentence

installed = pytest.mark.skipif(find_spec("SimpleITK") is None, reason="SimpleITK is not installed (extra `itk`)")
#: In LPS: axes to the left, the top and the front, of 1, 1.5 and 4 mm.
DIRECTION, SPACING, ORIGIN = (1, 0, 0, 0, 0, -1, 0, 1, 0), (1.0, 1.5, 4.0), (8.0, -6.0, 7.0)
AFFINE = np.array([[-1.0, 0, 0, -8], [0, 0, 4, 6], [0, 1.5, 0, 7], [0, 0, 0, 1]])


def numbers(seed=0):
    return np.random.default_rng(seed).integers(1, 2000, (5, 6, 7)).astype(np.int16)


def image_of(data):
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION)
    return image


def check(volume, data):
    found, affine = volume.orientation.file_of(volume.in_file_units(volume.data), volume.affine)
    np.testing.assert_allclose(found, data, rtol=1e-6)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-9)


@installed
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("ending", itk.ENDINGS)
def test_voxels_and_place(tmp_path, ending, is_packed, dtype):
    import SimpleITK as sitk

    data = (numbers() % 200 + 1).astype(dtype)
    sitk.WriteImage(image_of(data), str(tmp_path / f"a{ending}"), useCompression=is_packed)
    check(load_volume(tmp_path / f"a{ending}"), data)


@installed
@pytest.mark.parametrize("ending", itk.ENDINGS)
@pytest.mark.parametrize("kind", ["a fourth axis", "components"])
def test_one_of_several_volumes(tmp_path, ending, kind):
    import SimpleITK as sitk

    images = [image_of(numbers(seed)) for seed in range(3)]
    whole = sitk.JoinSeries(images) if kind == "a fourth axis" else sitk.Compose(images)
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(whole, str(path))
    with one_sentence("volume", "got 3 volumes", "--frame, 0 to 2"):
        load_volume(path)
    for frame in range(3):
        check(load_volume(path, frame=frame), numbers(frame))


@installed
@pytest.mark.parametrize("name", ["/etc/hostname", "../a.raw", "sub/a.raw", "LIST", "a%d.raw 1 7 1", "none.raw"])
def test_a_header_leads_to_no_file_elsewhere(tmp_path, name):
    import SimpleITK as sitk

    (tmp_path / "in" / "sub").mkdir(parents=True)
    path = tmp_path / "in" / "a.mhd"
    sitk.WriteImage(image_of(numbers()), str(path))
    raw = (tmp_path / "in" / "a.raw").read_bytes()
    (tmp_path / "a.raw").write_bytes(raw)
    (tmp_path / "in" / "sub" / "a.raw").write_bytes(raw)
    path.write_text(path.read_text().replace("ElementDataFile = a.raw", f"ElementDataFile = {name}"))
    with one_sentence("volume", "one file of voxels beside the header"):
        load_volume(path)


@installed
@pytest.mark.parametrize("field", ["data file: a.raw", "datafile: /etc/hostname", "Data File:../a.raw"])
def test_a_nrrd_holds_its_own_voxels(tmp_path, field):
    import SimpleITK as sitk

    path = tmp_path / "a.nrrd"
    sitk.WriteImage(image_of(numbers()), str(path))
    path.write_bytes(path.read_bytes().replace(b"encoding:", field.encode() + b"\nencoding:"))
    with one_sentence("volume", "header and voxels in one file"):
        load_volume(path)


@installed
@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_sizes_that_a_file_cannot_hold_are_refused(tmp_path, ending):
    import SimpleITK as sitk

    path = tmp_path / f"a{ending}"
    sitk.WriteImage(image_of(numbers()), str(path))
    path.write_bytes(path.read_bytes().replace(b"5 6 7\n", b"500 600 700\n", 1))
    with one_sentence("volume", "bytes for the header's shape"):
        load_volume(path)


@pytest.mark.parametrize("ending", itk.ENDINGS)
def test_without_the_library_its_extra_is_named(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(itk, "find_spec", lambda name: None)
    (tmp_path / f"a{ending}").write_bytes(b"NRRD0004\n")
    with one_sentence("volume", "SimpleITK", "pip install 'tpdm-engine[itk]'"):
        load_volume(tmp_path / f"a{ending}")
