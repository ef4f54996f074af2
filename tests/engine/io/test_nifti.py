"""NIfTI files come back as they were: 48 orientations, every type, codes and affines to the last bit."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from engine.errors import InputError
from engine.io.volumes import load_volume, resample_isotropic, save_nifti, save_volume

ALL = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]
SHAPE = (4, 5, 6)
PLACE = (
    *("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y"),
    *("qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


def rotation(angles=(20, -10, 15)):
    a, b, c = np.deg2rad(angles)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def affine_of(order=(0, 1, 2), signs=(1, 1, 1), voxel_mm=(0.7, 1.1, 1.9)):
    """An oblique affine whose axis j runs closest to the world's axis order[j]."""
    affine = np.eye(4)
    turned = rotation()
    for j, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        affine[:3, j] = turned[:, axis] * sign * voxel_mm[j]
    affine[:3, 3] = -31.4, 15.9, 2.65
    return affine


def write(path, data, affine, codes=(1, 2), kind=nib.Nifti1Image):
    image = kind(data, affine)
    image.header.set_qform(affine, codes[0])
    image.header.set_sform(affine, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def identity(path, out):
    """Load and save; the volume."""
    volume = load_volume(path)
    save_volume(out, volume.in_file_units(volume.data), volume.affine, volume.orientation)
    return volume


def check_same(path, out):
    """Same grid to the bit, same voxels up to float32 in units of white."""
    before, after = nib.load(path), nib.load(out)
    assert type(before) is type(after)
    for field in PLACE:
        np.testing.assert_array_equal(after.header[field], before.header[field], err_msg=field)
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.shape == before.shape
    assert after.get_data_dtype() == np.float32
    voxels = np.asanyarray(before.dataobj).astype(np.float64)
    np.testing.assert_allclose(np.asanyarray(after.dataobj), voxels, rtol=0, atol=1e-6 * np.abs(voxels).max())


def random(dtype, shape=SHAPE):
    """Every bit of integers may occur."""
    rng, dtype = np.random.default_rng(0), np.dtype(dtype)
    if dtype.kind == "f":
        return rng.normal(3, 5, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize(("order", "signs"), ALL)
@pytest.mark.parametrize("codes", [(1, 2), (0, 4), (1, 0)])
def test_identity_of_every_orientation(tmp_path, order, signs, codes):
    write(tmp_path / "a.nii", random(np.int16), affine_of(order, signs), codes)
    volume = identity(tmp_path / "a.nii", tmp_path / "b.nii")
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    assert volume.data.flags.c_contiguous
    check_same(tmp_path / "a.nii", tmp_path / "b.nii")


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", ">i2", "i4", "u4", "i8", "f4", ">f4", "f8"])
@pytest.mark.parametrize("scaling", [(None, None), (2.5, 0.0), (0.25, -1.0)])
def test_identity_of_every_type_and_scaling(tmp_path, dtype, scaling):
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(np.dtype(dtype).newbyteorder("="))
    image = nib.Nifti1Image(random(np.dtype(dtype).newbyteorder("=")), affine_of((2, 0, 1), (-1, 1, -1)), header)
    image.header.set_slope_inter(*scaling)
    nib.save(image, tmp_path / "a.nii.gz")
    identity(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    check_same(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")


def test_identity_where_stored_numbers_fall_as_intensities_rise(tmp_path):
    image = nib.Nifti1Image(random("i2"), affine_of())
    image.header.set_slope_inter(-3.0, 7.0)
    nib.save(image, tmp_path / "a.nii")
    identity(tmp_path / "a.nii", tmp_path / "b.nii")
    check_same(tmp_path / "a.nii", tmp_path / "b.nii")


def test_identity_without_any_coordinate_system(tmp_path):
    image = nib.Nifti1Image(random("f4"), None)
    image.header.set_zooms((0.8, 0.9, 2.5))
    nib.save(image, tmp_path / "a.nii")
    assert (image.header["qform_code"], image.header["sform_code"]) == (0, 0)
    volume = identity(tmp_path / "a.nii", tmp_path / "b.nii")
    np.testing.assert_allclose(volume.voxel_mm, (0.8, 0.9, 2.5), rtol=1e-6)
    check_same(tmp_path / "a.nii", tmp_path / "b.nii")


def test_identity_of_version_2(tmp_path):
    write(tmp_path / "a.nii", random("f8"), affine_of((1, 2, 0), (1, -1, 1)), kind=nib.Nifti2Image)
    identity(tmp_path / "a.nii", tmp_path / "b.nii")
    check_same(tmp_path / "a.nii", tmp_path / "b.nii")


def test_spaces_that_differ_are_both_kept_and_both_moved(tmp_path):
    scanner, atlas = affine_of(), affine_of((0, 1, 2), (-1, 1, 1), (0.8, 1.2, 2.0))
    image = nib.Nifti1Image(random("f4", (8, 8, 8)), atlas)
    image.header.set_qform(scanner, 1)
    image.header.set_sform(atlas, 4)
    nib.save(image, tmp_path / "a.nii")
    volume = identity(tmp_path / "a.nii", tmp_path / "b.nii")
    check_same(tmp_path / "a.nii", tmp_path / "b.nii")
    # Every second slice of the file's last axis, which is z.
    thinned = volume.affine @ np.diag([1, 1, 2, 1])
    save_volume(tmp_path / "c.nii", volume.data[:, :, ::2], thinned, volume.orientation)
    header = nib.load(tmp_path / "c.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 4)
    np.testing.assert_allclose(header.get_sform(), image.header.get_sform() @ np.diag([1, 1, 2, 1]), atol=1e-5)
    np.testing.assert_allclose(header.get_qform(), image.header.get_qform() @ np.diag([1, 1, 2, 1]), atol=1e-5)


@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 2)])
def test_another_grid_gets_the_file_s_axes_and_codes(tmp_path, codes):
    write(tmp_path / "a.nii", random(np.uint8, (8, 9, 10)), affine_of((2, 0, 1), (-1, 1, -1)), codes)
    volume = resample_isotropic(load_volume(tmp_path / "a.nii"), 1.3)
    save_volume(tmp_path / "b.nii", volume.in_file_units(volume.data), volume.affine, volume.orientation)
    before, after = nib.load(tmp_path / "a.nii"), nib.load(tmp_path / "b.nii")
    assert nib.aff2axcodes(after.affine) == nib.aff2axcodes(before.affine)
    assert (int(after.header["qform_code"]), int(after.header["sform_code"])) == codes
    again = load_volume(tmp_path / "b.nii")
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-4)
    np.testing.assert_allclose(again.voxel_mm, 1.3, rtol=1e-5)


def test_a_sheared_grid_is_not_told_by_a_qform_alone(tmp_path):
    write(tmp_path / "a.nii", random("f4"), affine_of(), (1, 0))
    volume = load_volume(tmp_path / "a.nii")
    sheared = volume.affine.copy()
    sheared[:3, 2] += 0.3 * sheared[:3, 0]
    save_volume(tmp_path / "b.nii", volume.data, sheared, volume.orientation)
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii").affine, sheared, atol=1e-5)


@pytest.mark.parametrize(("unit", "mm"), [("micron", 1e-3), ("meter", 1e3)])
def test_other_units_of_length_are_brought_to_mm_and_back(tmp_path, unit, mm):
    image = nib.Nifti1Image(random("f4"), affine_of())
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    volume = identity(tmp_path / "a.nii", tmp_path / "b.nii")
    np.testing.assert_allclose(volume.voxel_mm, np.array([0.7, 1.1, 1.9]) * mm, rtol=1e-5)
    check_same(tmp_path / "a.nii", tmp_path / "b.nii")
    # Another grid is written in mm.
    save_volume(tmp_path / "c.nii", volume.data[:, :, ::2], volume.affine @ np.diag([1, 1, 2, 1]), volume.orientation)
    assert nib.load(tmp_path / "c.nii").header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(
        nib.load(tmp_path / "c.nii").header.get_zooms(), np.array([0.7, 1.1, 3.8]) * mm, rtol=1e-5
    )


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_same_volume_gives_the_same_bytes(tmp_path, suffix, monkeypatch):
    data = random("f4", (12, 13, 14))
    digests = set()
    for name, now in (("one", 1e9), ("another", 1.5e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        for save in (save_nifti, save_volume):
            save(tmp_path / f"{name}{suffix}", data, affine_of())
            content = (tmp_path / f"{name}{suffix}").read_bytes()
            digests.add(hashlib.sha256(content).hexdigest())
            assert b"one" not in content
            assert b"another" not in content
    assert len(digests) == 1


def test_a_flipped_byte_in_compressed_voxels_is_found(tmp_path):
    save_nifti(tmp_path / "a.nii.gz", random("f4", (12, 13, 14)) + 20, np.eye(4))
    content = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    packed = bytearray(gzip.compress(bytes(content), 0))  # stored: a flipped byte is a flipped byte
    packed[-1000] ^= 1
    (tmp_path / "b.nii.gz").write_bytes(packed)
    with pytest.raises(InputError, match="CRC"):
        load_volume(tmp_path / "b.nii.gz")


def test_extensions_are_passed_over(tmp_path):
    image = nib.Nifti1Image(random("f4"), affine_of())
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nib.save(image, tmp_path / "a.nii.gz")
    volume = load_volume(tmp_path / "a.nii.gz")
    expected = load_volume_of(tmp_path, image)
    np.testing.assert_array_equal(volume.data, expected.data)


def load_volume_of(folder, image):
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine), folder / "plain.nii")
    return load_volume(folder / "plain.nii")


def test_header_and_voxels_in_two_files_are_refused(tmp_path):
    nib.save(nib.Nifti1Pair(random("f4"), affine_of()), tmp_path / "a.img")
    (tmp_path / "a.hdr").rename(tmp_path / "a.nii")
    with pytest.raises(InputError, match="two files"):
        load_volume(tmp_path / "a.nii")


def test_axes_that_version_1_cannot_hold_are_written_as_version_2(tmp_path):
    data = np.ones((40000, 1, 2), dtype=np.float32)
    data[7] = 3
    save_volume(tmp_path / "a.nii", data, np.eye(4))
    assert isinstance(nib.load(tmp_path / "a.nii"), nib.Nifti2Image)
    volume = load_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.in_file_units(volume.data), data, rtol=1e-6)


def test_many_slices_are_read_in_pieces(tmp_path, monkeypatch):
    write(tmp_path / "a.nii.gz", random(np.int16, (5, 6, 50)), affine_of((0, 2, 1), (1, -1, 1)))
    whole = load_volume(tmp_path / "a.nii.gz")
    monkeypatch.setattr("engine.io.volumes.nifti._PIECE", 90)
    pieces = load_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(whole.data, pieces.data)


def test_a_frame_of_no_file_is_written_as_if_there_were_none(tmp_path):
    write(tmp_path / "a.nii", random("f4"), affine_of())
    volume = load_volume(tmp_path / "a.nii")
    bare = replace(volume.orientation, header=b"")
    save_volume(tmp_path / "b.nii", volume.data, volume.affine, bare)
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii").affine, nib.load(tmp_path / "a.nii").affine, atol=1e-6)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("further", [(3,), (1, 3), (2, 2)])
def test_one_of_several_volumes_can_be_chosen(tmp_path, ending, further):
    data = random("i2", (*SHAPE, *further)) // 2 + 17000
    write(tmp_path / f"a{ending}", data, affine_of())
    n = int(np.prod(further))
    with pytest.raises(InputError, match=rf"single 3D volume, got {n} volumes .*--frame, 0 to {n - 1}"):
        load_volume(tmp_path / f"a{ending}")
    for frame in range(n):
        write(tmp_path / "one.nii", data.reshape(*SHAPE, n, order="F")[..., frame], affine_of())
        found, alone = load_volume(tmp_path / f"a{ending}", frame=frame), load_volume(tmp_path / "one.nii")
        np.testing.assert_array_equal(found.data, alone.data)
        np.testing.assert_array_equal(found.affine, alone.affine)
        save_volume(tmp_path / "back.nii", found.in_file_units(found.data), found.affine, found.orientation)
        check_same(tmp_path / "one.nii", tmp_path / "back.nii")
    with pytest.raises(InputError, match=rf"frame: expected 0 to {n - 1} in .*, got {n}; "):
        load_volume(tmp_path / f"a{ending}", frame=n)


def test_what_volumes_differ_in_is_said(tmp_path):
    image = nib.Nifti1Image(random("i2", (*SHAPE, 4)), affine_of())
    image.header.set_zooms((1, 1, 2, 2.5))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"got 4 volumes 2\.5 s apart in"):
        load_volume(tmp_path / "a.nii.gz")
    (tmp_path / "a.bval").write_text("0 1000 1000 2000")
    with pytest.raises(InputError, match="got 4 volumes with b-values 0, 1000, 2000 s/mm² in"):
        load_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("ends", [("hdr", "img"), ("hdr.gz", "img.gz")])
@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_a_pair_is_read_by_either_name(tmp_path, ends, kind):
    write(tmp_path / f"a.{ends[0]}", random("i2"), affine_of((2, 0, 1), (-1, 1, -1)), kind=kind)
    single = nib.Nifti1Image if kind is nib.Nifti1Pair else nib.Nifti2Image
    write(tmp_path / "one.nii", random("i2"), affine_of((2, 0, 1), (-1, 1, -1)), kind=single)
    for end in ends:
        volume, alone = load_volume(tmp_path / f"a.{end}"), load_volume(tmp_path / "one.nii")
        np.testing.assert_array_equal(volume.data, alone.data)
        np.testing.assert_array_equal(volume.affine, alone.affine)
        save_volume(tmp_path / "back.nii", volume.in_file_units(volume.data), volume.affine, volume.orientation)
        np.testing.assert_array_equal(nib.load(tmp_path / "back.nii").affine, nib.load(tmp_path / f"a.{end}").affine)
    (tmp_path / f"a.{ends[1]}").unlink()
    with pytest.raises(InputError, match=rf"both files of a NIfTI pair, got no 'a.{ends[1]}' beside it"):
        load_volume(tmp_path / f"a.{ends[0]}")


def test_analyze_does_not_say_where_left_is(tmp_path):
    nib.save(nib.AnalyzeImage(random("i2"), affine_of()), tmp_path / "a.img")
    with pytest.raises(InputError, match=r"got Analyze 7\.5, which does not say where left is"):
        load_volume(tmp_path / "a.hdr")


@pytest.mark.parametrize("codes", [(0, 0), (1, 2)])
@pytest.mark.parametrize(
    ("place", "value"),
    [
        (76, np.array([1, -3, 3, 12], "<f4")),  # pixdim: without forms it is all that counts
        (252, np.array([77], "<i2")),  # qform_code
        (108, np.array([353], "<f4")),  # vox_offset
    ],
    ids=["pixdim", "qform_code", "vox_offset"],
)
def test_the_library_says_nothing_of_its_own(tmp_path, capfd, caplog, codes, place, value):
    image = nib.Nifti1Image(random("f4"), np.diag([3.0, 3, 12, 1]))
    image.header.set_qform(image.affine, codes[0])
    image.header.set_sform(image.affine, codes[1])
    content = bytearray(image.to_bytes() + bytes(16))
    content[place : place + value.nbytes] = value.tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    # It would tell of this header.
    nib.Nifti1Header(bytes(content[:348]), check=True)
    assert caplog.records
    caplog.clear()
    capfd.readouterr()
    volume = load_volume(tmp_path / "a.nii")
    save_volume(tmp_path / "b.nii", volume.data, volume.affine, volume.orientation)
    save_volume(tmp_path / "c.nii", volume.data[:, :, 1:], volume.affine, volume.orientation)
    assert capfd.readouterr() == ("", "") and not caplog.records
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii").header.get_zooms(), (3, 3, 12))
