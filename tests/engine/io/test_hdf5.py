"""HDF5 as it is usually written is read; what would lead out of the file, or outgrow it, is refused beforehand."""

from __future__ import annotations

import struct
import zlib
from itertools import product

import h5py
import numpy as np
import pytest

from engine.io.measurements.kspace import load_kspace
from tests.refusals import one_sentence

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


def refused(*words):
    return one_sentence("kspace", *words)


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


@pytest.mark.skipif(not hasattr(h5py.h5t, "TypeComplexID"), reason="HDF5 before 2.0 has no complex numbers of its own")
def test_complex_numbers_of_hdf5_itself_are_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"kspace", h5py.h5t.COMPLEX_IEEE_F32LE, h5py.h5s.create_simple(SHAPE))
        file["kspace"][...] = samples()
    loaded = load_kspace(tmp_path / "a.h5", orientation="SRA")
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


def lzf(content):
    """In runs of literals alone."""
    return b"".join(bytes([len(part) - 1]) + part for part in (content[i : i + 32] for i in range(0, len(content), 32)))


WAYS = {
    "gzip": ({"compression": "gzip"}, zlib.compress, 0),
    "gzip left out": ({"compression": "gzip"}, bytes, 1),
    "lzf": ({"compression": "lzf"}, lzf, 0),
    "shuffle": ({"shuffle": True}, bytes, 0),
    "checksum left out": ({"fletcher32": True}, bytes, 1),
}


@pytest.mark.parametrize("n", [1, 100, 7679, 7681, 2**20], ids="{} bytes".format)
@pytest.mark.parametrize("way", ["gzip left out", "shuffle", "checksum left out"])
def test_chunks_of_another_size_are_refused(tmp_path, way, n):
    """The library would read what lies behind them in memory."""
    how, packed, left_out = WAYS[way]
    assert np.prod(SHAPE) * 8 == 7680
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("kspace", SHAPE, np.complex64, chunks=SHAPE, **how)
        dataset.id.write_direct_chunk((0, 0, 0, 0), packed(bytes(n)), left_out)
    with refused("chunks of"):
        load_kspace(tmp_path / "a.h5")


@pytest.mark.parametrize("way", ["gzip", "lzf", "shuffle", "gzip left out", "checksum left out"])
def test_chunks_that_were_packed_by_others_are_read(tmp_path, way):
    how, packed, left_out = WAYS[way]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("kspace", SHAPE, np.complex64, chunks=SHAPE, **how)
        # Shuffled: the first byte of every sample, then the second.
        content = samples().tobytes() if way != "shuffle" else samples().view("u1").reshape(-1, 8).T.tobytes()
        dataset.id.write_direct_chunk((0, 0, 0, 0), packed(content), left_out)
    loaded = load_kspace(tmp_path / "a.h5", orientation="SRA")
    np.testing.assert_allclose(abs(loaded.data), abs(samples()) * np.sqrt(160), rtol=1e-5)


def test_copies_in_lzf_are_counted(tmp_path):
    rng = np.random.default_rng(0)
    # Short and long runs of the same bytes, near and far.
    data = rng.choice(samples((5,)), (4, 2, 64, 64))
    data[1] = np.repeat(data[1, :, :, ::16], 16, axis=-1)
    data[2] = data[0]
    data[3] = 1
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("kspace", data=data, compression="lzf", chunks=(1, 2, 64, 64))
        assert file["kspace"].id.get_storage_size() < data.nbytes / 2
    loaded = load_kspace(tmp_path / "a.h5", orientation="SRA")
    np.testing.assert_allclose(abs(loaded.data), abs(data) * 64, rtol=1e-5)


def test_a_chunk_that_unpacks_to_far_more_takes_no_memory(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("kspace", SHAPE, np.complex64, chunks=SHAPE, compression="gzip")
        # A gigabyte of zeros: pieces of a stream can be put together.
        piece = zlib.compressobj(wbits=-15)
        packed = piece.compress(bytes(2**20)) + piece.flush(zlib.Z_FULL_FLUSH)
        content = b"\x78\x9c" + packed * 1024
        dataset.id.write_direct_chunk((0, 0, 0, 0), content)
    with refused("cannot be read"):
        load_kspace(tmp_path / "a.h5")


def test_compressions_that_would_be_loaded_as_code_are_refused(tmp_path):
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((10,))
    created.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = samples()
        h5py.h5d.create(file.id, b"mask", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((10,)), created)
    with refused("filters"):
        load_kspace(tmp_path / "a.h5")


def test_compressions_of_the_library_are_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = samples()
        file.create_dataset("mask", data=np.arange(10) % 2, scaleoffset=0)
    np.testing.assert_array_equal(load_kspace(tmp_path / "a.h5", orientation="SRA").mask[0], np.arange(10) % 2)


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
        file["kspace"] = samples()
        file.create_dataset("mask", (1,), h5py.vlen_dtype(np.float32))[0] = np.ones(3, np.float32)
    content = bytearray((tmp_path / "a.h5").read_bytes())
    whole = bytes([0x19, 0, 0, 0, 16, 0, 0, 0, 0x11])
    assert content.count(whole) == 1
    content[content.index(whole) + 1] = 6
    (tmp_path / "a.h5").write_bytes(content)
    with refused():
        load_kspace(tmp_path / "a.h5")


def test_numbers_of_other_bits_are_read_or_refused(tmp_path):
    kind = h5py.h5t.STD_I16LE.copy()
    kind.set_precision(12)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = samples()
        h5py.h5d.create(file.id, b"mask", kind, h5py.h5s.create_simple((10,)))
        file["mask"][:] = np.arange(10) % 2
    np.testing.assert_array_equal(load_kspace(tmp_path / "a.h5", orientation="SRA").mask[0], np.arange(10) % 2)
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
@pytest.mark.parametrize("how", [{}, {"compression": "gzip", "chunks": (1, 2, 16, 10)}], ids=["whole", "chunks"])
def test_files_behind_other_bytes_are_read(tmp_path, n, how):
    """MATLAB writes 512 of them."""
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=n) as file:
        file.create_dataset("kspace", data=samples(), **how)
        file["ismrmrd_header"] = HEADER
    with (tmp_path / "a.h5").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(n))
    loaded = load_kspace(tmp_path / "a.h5", orientation="SRA")
    np.testing.assert_allclose(abs(loaded.data), abs(samples()) * np.sqrt(160), rtol=1e-5)


def test_names_whose_free_space_never_ends_are_refused(tmp_path):
    """The library follows the list forever, and takes memory for every step."""
    with h5py.File(tmp_path / "a.h5", "w", libver="earliest") as file:
        file["kspace"] = samples()
    content = bytearray((tmp_path / "a.h5").read_bytes())
    heap = content.index(b"HEAP")
    first, address = struct.unpack_from("<QQ", content, heap + 16)
    assert struct.unpack_from("<Q", content, address + first) == (1,)
    struct.pack_into("<Q", content, address + first, first)
    (tmp_path / "a.h5").write_bytes(content)
    with refused("memory"):
        load_kspace(tmp_path / "a.h5")


@pytest.mark.parametrize("sizes", [(4, 8), (8, 4), (4, 4)])
def test_other_addresses_are_read(tmp_path, sizes):
    created = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    created.set_sizes(*sizes)
    with h5py.File(h5py.h5f.create(bytes(tmp_path / "a.h5"), h5py.h5f.ACC_TRUNC, created)) as file:
        file["kspace"] = samples()
    loaded = load_kspace(tmp_path / "a.h5", orientation="SRA")
    np.testing.assert_allclose(abs(loaded.data), abs(samples()) * np.sqrt(160), rtol=1e-5)


def test_locked_files_are_called_so(tmp_path):
    """Files are read in a process of their own, which the writer's lock keeps out."""
    with h5py.File(tmp_path / "a.h5", "w", locking=True) as file:
        file["kspace"] = samples()
        file.flush()
        with refused("locked", "read a copy of it"):
            load_kspace(tmp_path / "a.h5")
    load_kspace(tmp_path / "a.h5")


def test_files_that_their_writer_never_closed_are_called_so(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file["kspace"] = samples()
        file.flush()
        content = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "b.h5").write_bytes(content)
    with refused("mark of a writer", "h5clear"):
        load_kspace(tmp_path / "b.h5")
