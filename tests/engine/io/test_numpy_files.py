"""NumPy's files and archives: what is read, and what is refused before it costs memory."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import pytest

from engine.errors import InputError
from engine.io.orientation import Orientation
from engine.io.volumes import load_volume, save_volume

SHAPE = (6, 7, 8)


def numbers(shape=SHAPE):
    """Positive, all different, so that a wrong order shows."""
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def npy(array):
    stream = BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def archive(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)


def claim(shape, descr="<f4"):
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@contextmanager
def little_memory():
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def refusal(path):
    with pytest.raises(InputError) as caught:
        load_volume(path)
    message = str(caught.value)
    assert message.startswith("volume: expected ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f8", "i2", "u1", ">f4", "f2"])
def test_archive_of_one_array(tmp_path, save, order, dtype):
    data = (numbers() % 250 + 1).astype(dtype, order=order)
    save(tmp_path / "a.npz", anything=data)
    volume = load_volume(tmp_path / "a.npz")
    np.testing.assert_allclose(volume.data * volume.scale, data.astype(np.float32), rtol=1e-6)
    assert volume.data.flags.c_contiguous


def test_of_several_arrays_the_one_named_volume_is_taken(tmp_path):
    np.savez(tmp_path / "a.npz", affine=np.eye(4), volume=numbers())
    volume = load_volume(tmp_path / "a.npz")
    np.testing.assert_allclose(volume.data * volume.scale, numbers(), rtol=1e-6)
    np.savez(tmp_path / "a.npz", affine=np.eye(4), image=numbers())
    assert "got 2" in refusal(tmp_path / "a.npz")
    archive(tmp_path / "a.npz", {"notes.txt": b"x"})
    assert "got 0" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "name", ["../../evil.npy", "/tmp/evil.npy", "C:\\evil.npy", "a/../../volume.npy", "\u202e.npy"]
)
def test_names_inside_never_touch_the_disk(tmp_path, name):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    archive(folder / "a.npz", {name: npy(numbers())})
    volume = load_volume(folder / "a.npz")
    np.testing.assert_allclose(volume.data * volume.scale, numbers(), rtol=1e-6)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [folder / "a.npz"]


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_pickles_are_not_opened(tmp_path, name):
    class Loud:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    array = np.array([Loud()], dtype=object)
    content = BytesIO()
    np.save(content, array, allow_pickle=True)
    if name.endswith("npz"):
        archive(tmp_path / name, {"volume.npy": content.getvalue()})
    else:
        (tmp_path / name).write_bytes(content.getvalue())
    refusal(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_an_archive_under_another_name_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", numbers())
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    refusal(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "content",
    [
        # What the array's header claims is far more than the archive says, or could say.
        claim((1000, 1000, 1000)) + bytes(100),
        claim((30000, 30000, 30000)) + bytes(100),
        claim((2**40, 2**40, 2**40)) + bytes(100),
        claim((-6, -7, 8)) + bytes(10000),
        # Format 2.0: a header of 4 GB.
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b" " * 30_000_000,
    ],
    ids=["more", "too many", "overflow", "negative", "long header"],
)
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_claims_and_bombs_cost_no_memory(tmp_path, name, content):
    if name.endswith("npz"):
        archive(tmp_path / name, {"volume.npy": content})
    else:
        (tmp_path / name).write_bytes(content)
    with little_memory():
        refusal(tmp_path / name)


def test_an_archive_whose_array_goes_on_after_its_voxels_is_refused_there(tmp_path):
    archive(tmp_path / "a.npz", {"volume.npy": claim((64, 64, 64)) + bytes(50_000_000)})
    with little_memory():
        assert "more numbers" in refusal(tmp_path / "a.npz")


def test_a_directory_that_claims_more_than_its_bytes_inflate_to_is_refused(tmp_path):
    shape = (1000, 1000, 1000)
    archive(tmp_path / "a.npz", {"volume.npy": claim(shape) + bytes(1000)})
    content = bytearray((tmp_path / "a.npz").read_bytes())
    at = content.index(b"PK\x01\x02")
    struct.pack_into("<I", content, at + 24, 128 + 4 * 10**9)
    (tmp_path / "a.npz").write_bytes(content)
    with little_memory():
        assert "at most" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_without_a_bound_are_refused(tmp_path, compression):
    archive(tmp_path / "a.npz", {"volume.npy": npy(numbers())}, compression)
    assert "compression" in refusal(tmp_path / "a.npz")


def test_a_flipped_byte_in_an_archive_is_found(tmp_path):
    archive(tmp_path / "a.npz", {"volume.npy": npy(numbers())}, zipfile.ZIP_STORED)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[400] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    assert "CRC" in refusal(tmp_path / "a.npz")


def test_a_folder_of_more_slices_than_files_may_be_open(tmp_path):
    resource = pytest.importorskip("resource")
    for i in range(200):
        np.save(tmp_path / f"{i}.npy", np.full((3, 4), i + 1, np.float32))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        volume = load_volume(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    np.testing.assert_allclose(volume.data[0, 0] * volume.scale, np.arange(1, 201), rtol=1e-6)


def test_saved_with_the_axes_of_the_file(tmp_path):
    affine = np.diag([-1.0, 1, 1, 1])
    orientation = Orientation.of(SHAPE, affine)
    volume = orientation.volume_of(numbers())
    save_volume(tmp_path / "a.npy", volume, orientation.volume_affine, orientation)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), numbers())
