"""TIFF stacks and slices: axes, voxel sizes, compressions, and pictures that are no volumes."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import tifffile

from engine.errors import InputError
from engine.io.volumes import load_volume, save_volume

SHAPE = (6, 7, 8)


def numbers(shape=SHAPE):
    """Positive, all different, so that a wrong order shows."""
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def values(volume):
    return volume.data * np.float32(volume.scale)


def refusal(path, **options):
    with pytest.raises(InputError) as caught:
        load_volume(path, **options)
    message = str(caught.value)
    assert message.startswith("volume: expected ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [".tif", ".tiff"])
@pytest.mark.parametrize("voxel_mm", [(1, 1, 1), (0.5, 1.25, 3), (0.9375, 0.9375, 1.2)])
def test_round_trip_keeps_voxels_and_their_size(tmp_path, suffix, voxel_mm):
    path = tmp_path / f"a{suffix}"
    affine = np.diag([*voxel_mm, 1.0])
    save_volume(path, numbers(), affine)
    volume = load_volume(path)
    np.testing.assert_allclose(values(volume), numbers(), rtol=1e-6)
    np.testing.assert_allclose(volume.affine, affine, rtol=1e-5)  # resolutions are fractions
    assert volume.data.flags.c_contiguous
    again = tmp_path / f"b{suffix}"
    save_volume(again, numbers(), affine)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("stack_axis", [0, 1, 2])
def test_pages_follow_the_stack_axis_rows_and_columns_the_others(tmp_path, stack_axis):
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.moveaxis(numbers(), stack_axis, 0),
        imagej=True,
        resolution=(1 / 0.25, 1 / 0.5),
        metadata={"spacing": 3.0, "unit": "mm", "axes": "ZYX"},
    )
    volume = load_volume(tmp_path / "a.tif", stack_axis)
    np.testing.assert_allclose(values(volume), numbers(), rtol=1e-6)
    expected = [0.5, 0.25]
    expected.insert(stack_axis, 3.0)
    np.testing.assert_allclose(volume.voxel_mm, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": True},
        {"compression": "zlib", "tile": (16, 16)},
        {"rowsperstrip": 2},
        {"rowsperstrip": 4, "compression": "zlib"},
        {"tile": (16, 16)},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"truncate": True},
        {"metadata": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2"])
def test_layouts_and_types(tmp_path, options, dtype):
    data = numbers((5, 20, 18)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack", **options)
    volume = load_volume(tmp_path / "a.tif", 0)
    np.testing.assert_allclose(volume.in_file_units(volume.data), data.astype(np.float32), rtol=0, atol=1e-2)


@pytest.mark.parametrize("dtype", ["f4", "f8", "u4", "i8"])
def test_wide_types(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", numbers().astype(dtype), photometric="minisblack")
    np.testing.assert_allclose(values(load_volume(tmp_path / "a.tif", 0)), numbers(), rtol=1e-6)


def test_pages_written_one_by_one(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in numbers():
            writer.write(page, contiguous=False)
    np.testing.assert_allclose(values(load_volume(tmp_path / "a.tif", 0)), numbers(), rtol=1e-6)


def test_imagej_s_single_page_with_all_voxels(tmp_path):
    description = "ImageJ=1.54f\nimages=6\nslices=6\nunit=\\u00B5m\nspacing=4.0\n"
    tifffile.imwrite(
        tmp_path / "a.tif", numbers()[0], description=description, metadata=None, resolution=(2, 2), photometric=1
    )
    with (tmp_path / "a.tif").open("ab") as file:
        start = file.tell()
        file.write(numbers().tobytes())
    # The page's strip is told to begin where all voxels do.
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        tag = tif.pages[0].tags[273]
        where = tag.valueoffset
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[where : where + 4] = struct.pack("<I", start)
    (tmp_path / "a.tif").write_bytes(content)
    volume = load_volume(tmp_path / "a.tif", 0)
    np.testing.assert_allclose(values(volume), numbers(), rtol=1e-6)
    np.testing.assert_allclose(volume.voxel_mm, [4e-3, 0.5e-3, 0.5e-3], rtol=1e-6)
    # One voxel short.
    (tmp_path / "a.tif").write_bytes(content[:-4])
    assert "cannot be read" in refusal(tmp_path / "a.tif", stack_axis=0)


def test_hyperstacks_of_slices_alone_are_read_others_refused(tmp_path):
    tifffile.imwrite(tmp_path / "z.tif", numbers()[None, :, None], imagej=True, metadata={"axes": "TZCYX"})
    np.testing.assert_allclose(values(load_volume(tmp_path / "z.tif", 0)), numbers(), rtol=1e-6)
    for name, data, axes in (("c", numbers((6, 2, 7, 8)), "ZCYX"), ("t", numbers((2, 6, 7, 8)), "TZYX")):
        tifffile.imwrite(tmp_path / f"{name}.tif", data, imagej=True, metadata={"axes": axes})
        assert "channels" in refusal(tmp_path / f"{name}.tif")
    tifffile.imwrite(tmp_path / "4.tif", numbers((2, 6, 7, 8)), photometric="minisblack")
    assert "channels" in refusal(tmp_path / "4.tif")


@pytest.mark.parametrize(
    ("unit", "resolution", "mm"),
    [("mm", 2, 0.5), ("cm", 2, 5), ("inch", 2, 12.7), ("micron", 2, 5e-4), ("pixel", 1, 1), (None, 2, 0.5)],
)
def test_units_of_imagej(tmp_path, unit, resolution, mm):
    metadata = {"axes": "ZYX", **({"unit": unit} if unit else {})}
    tifffile.imwrite(tmp_path / "a.tif", numbers(), imagej=True, resolution=(resolution,) * 2, metadata=metadata)
    np.testing.assert_allclose(load_volume(tmp_path / "a.tif").voxel_mm[:2], mm, rtol=1e-6)
    metadata["unit"] = "sec"
    tifffile.imwrite(tmp_path / "a.tif", numbers(), imagej=True, resolution=(resolution,) * 2, metadata=metadata)
    assert "'sec'" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize(("unit", "mm"), [("CENTIMETER", 0.5), ("INCH", 1.27), ("NONE", 1.0)])
def test_resolution_of_plain_files(tmp_path, unit, mm):
    tifffile.imwrite(tmp_path / "a.tif", numbers(), photometric=1, resolution=(20, 20), resolutionunit=unit)
    np.testing.assert_allclose(load_volume(tmp_path / "a.tif").voxel_mm, [mm, mm, 1], rtol=1e-6)


@pytest.mark.parametrize("stack_axis", [0, 1, 2])
def test_folder_of_slices(tmp_path, stack_axis):
    data = numbers((12, 13, 14))
    for i in range(data.shape[stack_axis]):
        tifffile.imwrite(
            tmp_path / f"slice_{i}.tif", np.take(data, i, axis=stack_axis), resolution=(40, 20), resolutionunit=3
        )
    volume = load_volume(tmp_path, stack_axis)
    np.testing.assert_allclose(values(volume), data, rtol=1e-6)
    expected = [0.5, 0.25]
    expected.insert(stack_axis, 1.0)
    np.testing.assert_allclose(volume.voxel_mm, expected, rtol=1e-6)


def test_folders_of_stacks_or_of_pictures_of_two_sizes_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "1.tif", numbers(), photometric=1)
    assert "one page" in refusal(tmp_path)
    tifffile.imwrite(tmp_path / "1.tif", numbers((5, 6)))
    tifffile.imwrite(tmp_path / "2.tif", numbers((5, 7)))
    assert "'2.tif'" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("data", "options", "word"),
    [
        (numbers((7, 8, 3)).astype("u1"), {"photometric": "rgb"}, "grey"),
        (numbers() > 5, {"photometric": 1}, "real"),
        ((numbers() * 1j).astype("c8"), {"photometric": 1}, "real"),
        (numbers((1, 2, 3, 16, 16)), {"ome": True, "photometric": 1}, "microscope"),
        (numbers().astype("u1"), {"photometric": 1, "compression": "packbits"}, "cannot be read"),
        (numbers((7, 8)).astype("u1"), {"photometric": 3, "colormap": np.zeros((3, 256), "u2")}, "grey"),
    ],
    ids=["colour", "bool", "complex", "ome", "packbits", "palette"],
)
def test_pictures_that_are_no_volumes_are_refused(tmp_path, data, options, word):
    if options.get("compression") == "packbits":
        tifffile.imwrite(tmp_path / "a.tif", data, photometric=1)
        content = (tmp_path / "a.tif").read_bytes()
        with tifffile.TiffFile(tmp_path / "a.tif") as tif:
            at = tif.pages[0].tags[259].valueoffset
        (tmp_path / "a.tif").write_bytes(content[:at] + struct.pack("<H", 32773) + content[at + 2 :])
    else:
        tifffile.imwrite(tmp_path / "a.tif", data, **options)
    assert word in refusal(tmp_path / "a.tif")


def test_pages_of_two_sizes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(numbers((7, 8)), photometric=1)
        writer.write(numbers((7, 9)), photometric=1)
    assert "one shape" in refusal(tmp_path / "a.tif")


def test_pages_in_a_long_circle_are_refused(tmp_path):
    # Longer than the hundred pages after which the library looks.
    tifffile.imwrite(tmp_path / "a.tif", numbers((150, 4, 4)), photometric=1, metadata=None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        first, last = tif.pages[0].offset, tif.pages[149].offset
    n_tags = struct.unpack_from("<H", content, last)[0]
    struct.pack_into("<I", content, last + 2 + 12 * n_tags, first)
    (tmp_path / "a.tif").write_bytes(content)
    assert "circle" in refusal(tmp_path / "a.tif")


def test_a_chain_of_pages_that_breaks_off_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", numbers(), photometric=1, metadata=None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        third = tif.pages[2].offset
    n_tags = struct.unpack_from("<H", content, third)[0]
    struct.pack_into("<I", content, third + 2 + 12 * n_tags, 2**31)
    (tmp_path / "a.tif").write_bytes(content)
    refusal(tmp_path / "a.tif")


def test_a_strip_that_inflates_to_far_more_than_its_page_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((16, 16), "u1"), photometric=1, compression="zlib", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        tags = tif.pages[0].tags
        start, count = tags[273].valueoffset, tags[279].valueoffset
    content = bytearray((tmp_path / "a.tif").read_bytes())
    # A gigabyte of zeros: pieces of a stream can be put together.
    piece = zlib.compressobj(wbits=-15)
    bomb = b"\x78\x9c" + 1024 * (piece.compress(bytes(2**20)) + piece.flush(zlib.Z_FULL_FLUSH))
    struct.pack_into("<I", content, start, len(content))
    struct.pack_into("<I", content, count, len(bomb))
    (tmp_path / "a.tif").write_bytes(bytes(content) + bomb)
    assert "MemoryError" in refusal(tmp_path / "a.tif")
