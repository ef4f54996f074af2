"""HDF5 as it is usually written is read; what would lead out of the file, or outgrow it, is refused beforehand."""

from __future__ import annotations

import re
from contextlib import contextmanager
from itertools import product

import h5py
import numpy as np
import pytest

from engine.errors import InputError
from engine.io.kspace import load_kspace

SHAPE = (3, 2, 16, 10)
VERSIONS = ["earliest", "latest", ("earliest", "v108"), ("v110", "v110")]
STORAGES = {
    "contiguous": {},
    "chunks": {"chunks": True},
    "growing": {"chunks": True, "maxshape": (None, 2, 16, 10)},
    "gzip": {"compression": "gzip"},
    "gzip of slices": {"compression": "gzip", "chunks": (1, 1, 16, 10), "shuffle": True, "fletcher32": True},
    "lzf": {"compression": "lzf"},
    "beyond the edge": {"compression": "gzip", "chunks": (2, 2, 7, 7)},
}
HEADER = (
    '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>'
    + "".join(
        f"<{space}><matrixSize><x>16</x><y>10</y><z>1</z></matrixSize>"
        f"<fieldOfView_mm><x>32</x><y>30</y><z>4</z></fieldOfView_mm></{space}>"
        for space in ("encodedSpace", "reconSpace")
    )
    + "<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
)
#: As str is written, as bytes are, with a length of its own and with a fixed one.
TEXTS = {
    "str": HEADER,
    "bytes": HEADER.encode(),
    "list": np.array([HEADER], dtype=h5py.string_dtype()),
    "fixed": np.bytes_(HEADER),
}


@contextmanager
def refused(*words):
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert message.startswith("kspace: expected ")
    assert not re.search(r"\n|\. |\.$", message), message
    assert "; " in message
    assert all(word in message for word in words), message


def samples(shape=SHAPE):
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_files_of_fastmri_are_read_however_h5py_wrote_them(tmp_path, version, storage):
    for (kind, text), is_ordered in product(TEXTS.items(), (False, True)):
        with h5py.File(tmp_path / "a.h5", "w", libver=version, track_order=is_ordered) as file:
            file["ismrmrd_header"] = text
            file.create_dataset("kspace", data=samples(), **STORAGES[storage])
            file["mask"] = np.ones(10, bool if is_ordered else np.float32)
            file.create_dataset("reconstruction_rss", data=np.ones((3, 8, 8), np.float32))
            file.attrs.update({"acquisition": "AXT2", "max": 0.5, "norm": np.float32(1), "patient_id": "0123456789"})
        loaded = load_kspace(tmp_path / "a.h5", orientation="SRA")
        assert loaded.data.shape == SHAPE, kind
        np.testing.assert_allclose(loaded.voxel_mm, (2, 3, 4))
        np.testing.assert_allclose(abs(loaded.data), abs(samples()) * np.sqrt(160), rtol=1e-5)


def test_zeros_that_compress_well_are_no_bomb(tmp_path):
    data = np.zeros((4, 2, 64, 64), np.complex64)
    data[..., ::8] = samples((4, 2, 64, 8))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("kspace", data=data, compression="gzip")
    np.testing.assert_array_equal(load_kspace(tmp_path / "a.h5", orientation="SRA").mask[0], np.arange(64) % 8 == 0)


@pytest.fixture
def other(tmp_path):
    """A file that holds what could be pointed to."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kspace"] = samples()
    return tmp_path / "other.h5"


@pytest.mark.parametrize("name", ["kspace", "mask", "ismrmrd_header"])
def test_links_are_not_followed(tmp_path, other, name):
    for link in (h5py.ExternalLink("other.h5", "kspace"), h5py.SoftLink("/elsewhere")):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["elsewhere"] = samples()
            if name != "kspace":
                file["kspace"] = samples()
            file[name] = link
        with refused("a link"):
            load_kspace(tmp_path / "a.h5")


def test_samples_in_other_files_are_not_read(tmp_path, other):
    layout = h5py.VirtualLayout(SHAPE, np.complex64)
    layout[:] = h5py.VirtualSource(other, "kspace", SHAPE)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("kspace", layout)
    with refused("parts of other files"):
        load_kspace(tmp_path / "a.h5")
    samples().tofile(tmp_path / "raw")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("kspace", SHAPE, np.complex64, external=[(tmp_path / "raw", 0, h5py.h5f.UNLIMITED)])
    with refused("parts of other files"):
        load_kspace(tmp_path / "a.h5")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"chunks": (1, 1, 2048, 2048)},
        {"chunks": (1, 1, 2048, 2048), "compression": "gzip"},
        {"chunks": (100, 1, 2048, 2048), "compression": "gzip"},
    ],
    ids=["never written", "no chunk written", "one chunk written", "a chunk larger than the file"],
)
def test_more_than_the_file_can_hold_is_not_believed(tmp_path, how):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("kspace", (100, 1, 2048, 2048), np.complex64, **how)
        if "compression" in how and how["chunks"][0] == 1:
            dataset[0] = 1
    with refused("stored"):
        load_kspace(tmp_path / "a.h5")


def test_chunks_that_inflate_to_more_than_their_size_are_refused(tmp_path):
    import zlib

    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("kspace", SHAPE, np.complex64, chunks=SHAPE, compression="gzip")
        dataset.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(2**24)))
    with refused("inflates to more"):
        load_kspace(tmp_path / "a.h5")


def test_other_compressions_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = samples()
        file.create_dataset("mask", data=np.ones(10, np.int32), scaleoffset=0)
    with refused("filters"):
        load_kspace(tmp_path / "a.h5")


@pytest.mark.parametrize("kind", ["group", "named type", "empty", "text", "references"])
def test_things_that_are_no_samples_are_refused(tmp_path, kind):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind == "group":
            file.create_group("kspace")
        elif kind == "named type":
            file["kspace"] = np.dtype(np.complex64)
        elif kind == "empty":
            file["kspace"] = h5py.Empty(np.complex64)
        elif kind == "text":
            file["kspace"] = "samples"
        else:
            file.create_dataset("kspace", (2, 3, 4), h5py.ref_dtype)
    with refused():
        load_kspace(tmp_path / "a.h5")


def test_types_that_make_the_library_crash_are_refused(tmp_path):
    # Of a sequence of variable length, the byte behind its class that says what kind it is.
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("kspace", (1,), h5py.vlen_dtype(np.float32))[0] = np.ones(3, np.float32)
    content = bytearray((tmp_path / "a.h5").read_bytes())
    whole = bytes([0x19, 0, 0, 0, 16, 0, 0, 0, 0x11])
    assert content.count(whole) == 1
    content[content.index(whole) + 1] = 6
    (tmp_path / "a.h5").write_bytes(content)
    with refused("damaged type"):
        load_kspace(tmp_path / "a.h5")
    # A number of bits of which NumPy has none.
    kind = h5py.h5t.STD_I16LE.copy()
    kind.set_precision(12)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = samples()
        h5py.h5d.create(file.id, b"mask", kind, h5py.h5s.create_simple((10,)))
        file["mask"][:] = 1
    with refused("damaged type"):
        load_kspace(tmp_path / "a.h5")
    # A number with another exponent.
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(31, 20, 11, 0, 20)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple((2, 3, 4))
        h5py.h5d.create(file.id, b"kspace", kind, space).write(
            h5py.h5s.ALL, h5py.h5s.ALL, np.ones((2, 3, 4), np.float32)
        )
    with refused():
        load_kspace(tmp_path / "a.h5")


@pytest.mark.parametrize("n", [512, 1024])
def test_files_behind_other_bytes_are_refused(tmp_path, n):
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=n) as file:
        file["kspace"] = samples()
    with refused(f"{n} bytes"):
        load_kspace(tmp_path / "a.h5")
