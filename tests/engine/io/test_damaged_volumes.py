"""Damaged volumes of every kind either load to finite numbers or are refused in one sentence; nothing else happens."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import tempfile
import textwrap
import tracemalloc
import zipfile
import zlib
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.io.guard import SPARE_BYTES
from engine.io.volumes import load_volume
from tests.engine.io.sweep import sweep

SHAPE = (5, 6, 7)
ITK = ("a.nrrd", "a.mha") if find_spec("SimpleITK") else ()
KINDS = (
    *("a.nii", "a.nii.gz", "a.hdr", "a.mgz", *ITK),
    *("a.npy", "a.npz", "a.tif", "deflated.tif", "imagej.tif", "slices", "pictures"),
)
#: What a few thousand bytes of file may make the reader allocate, libraries' tables included.
MOST_BYTES = 30_000_000
EXAMPLES, MORE_EXAMPLES = sweep(50), sweep(100)


def voxels(dtype="f4"):
    return np.random.default_rng(0).uniform(1, 200, SHAPE).astype(dtype)


def npy(array):
    stream = BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def intact(kind: str) -> bytes:
    """Bytes of a small file, or of a folder's one slice, without damage."""
    stream = BytesIO()
    if kind.startswith("a.nii"):
        image = nib.Nifti1Image(voxels("i2"), np.diag([-1.0, 1.5, 2.0, 1.0]))
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"some words"))
        image.header.set_slope_inter(0.5, 1.0)
        content = image.to_bytes()
        return gzip.compress(content, mtime=0) if kind.endswith("gz") else content
    if kind == "a.hdr":
        return pair()[0]
    if kind == "a.mgz":
        return gzip.compress(nib.MGHImage(voxels("i2"), np.diag([-1.0, 1.5, 2.0, 1.0])).to_bytes(), mtime=0)
    if kind == "a.nrrd":
        lines = ("NRRD0004", "type: short", "dimension: 3", "space: left-posterior-superior", "sizes: 5 6 7")
        place = ("space directions: (1,0,0) (0,1.5,0) (0,0,2)", "kinds: domain domain domain", "space origin: (0,0,0)")
        header = "\n".join([*lines, *place, "endian: little", "encoding: raw"])
        return header.encode() + b"\n\n" + voxels("i2").tobytes("F")
    if kind == "a.mha":
        lines = ("ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False")
        place = ("Offset = 0 0 0", "ElementSpacing = 1 1.5 2", "DimSize = 5 6 7", "ElementType = MET_SHORT")
        return "\n".join([*lines, *place, "ElementDataFile = LOCAL\n"]).encode() + voxels("i2").tobytes("F")
    if kind == "a.npz":
        np.savez_compressed(stream, volume=voxels(), affine=np.eye(4))
        return stream.getvalue()
    if kind in ("a.npy", "slices"):
        return npy(voxels() if kind == "a.npy" else voxels()[0])
    options: dict = {
        "a.tif": {"photometric": 1, "rowsperstrip": 2},
        "deflated.tif": {"photometric": 1, "compression": "zlib", "predictor": 2},
        "imagej.tif": {"imagej": True, "metadata": {"spacing": 2.0, "unit": "mm", "axes": "ZYX"}},
        "pictures": {"photometric": 1},
    }[kind]
    dtype = "u2" if kind == "deflated.tif" else "f4"
    tifffile.imwrite(stream, voxels(dtype)[0] if kind == "pictures" else voxels(dtype), **options)
    return stream.getvalue()


def pair() -> tuple[bytes, bytes]:
    """Header and voxels of a NIfTI pair."""
    files = nib.Nifti1Pair.make_file_map({"header": BytesIO(), "image": BytesIO()})
    nib.Nifti1Pair(voxels("i2"), np.diag([-1.0, 1.5, 2.0, 1.0])).to_file_map(files)
    return files["header"].fileobj.getvalue(), files["image"].fileobj.getvalue()


INTACT = {kind: intact(kind) for kind in KINDS}


def put(folder: Path, kind: str, content: bytes) -> Path:
    """Write a file of that kind, or a folder whose second of three slices it is."""
    if kind == "a.hdr":
        (folder / "a.img").write_bytes(pair()[1])
    if kind not in ("slices", "pictures"):
        (folder / kind).write_bytes(content)
        return folder / kind
    place, suffix = folder / kind, "npy" if kind == "slices" else "tif"
    place.mkdir(exist_ok=True)
    for i in range(3):
        (place / f"{i}.{suffix}").write_bytes(content if i == 1 else INTACT[kind])
    return place


def loads_or_is_refused(path: Path, argument: str = "thick") -> str:
    """Message of the refusal, or "" for a volume, which is checked."""
    try:
        volume = load_volume(path, argument=argument)
    except InputError as error:
        message = str(error)
        assert message.startswith(f"{argument}: expected "), message
        assert len(message.splitlines()) == 1, message
        assert "; " in message
        return message
    assert volume.data.ndim == 3
    assert volume.data.dtype == np.float32
    assert np.isfinite(volume.data).all()
    assert np.isfinite(volume.affine).all()
    assert np.isfinite(volume.voxel_mm).all()
    assert np.isfinite(volume.in_file_units(volume.data)).all()
    return ""


def same_as_intact(path: Path, kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        expected = load_volume(put(Path(folder), kind, INTACT[kind]))
    np.testing.assert_array_equal(load_volume(path).data, expected.data)


def refused(path: Path) -> str:
    """Refused, at no cost."""
    tracemalloc.start()
    try:
        message = loads_or_is_refused(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    assert message
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_without_damage_all_are_read(tmp_path, kind):
    assert loads_or_is_refused(put(tmp_path, kind, INTACT[kind])) == ""


@pytest.mark.parametrize("kind", KINDS)
@EXAMPLES
@given(data=st.data())
def test_truncated(tmp_path, kind, data):
    content = INTACT[kind]
    keep = data.draw(st.integers(0, len(content) - 1))
    path = put(tmp_path, kind, content[:keep])
    if not loads_or_is_refused(path):
        same_as_intact(path, kind)  # what is missing was padding


@pytest.mark.parametrize("kind", KINDS)
@EXAMPLES
@given(data=st.data())
def test_flipped_bytes(tmp_path, kind, data):
    content = bytearray(INTACT[kind])
    # Headers are short: half of all damage goes there.
    where = st.one_of(st.integers(0, len(content) - 1), st.integers(0, min(400, len(content)) - 1))
    for at in data.draw(st.lists(where, min_size=1, max_size=8)):
        content[at] ^= data.draw(st.integers(1, 255))
    tracemalloc.start()
    try:
        path = put(tmp_path, kind, bytes(content))
        if not loads_or_is_refused(path) and kind in ("a.nii.gz", "a.mgz", "a.npz"):
            same_as_intact(path, kind)  # these have checksums
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", KINDS)
@EXAMPLES
@given(data=st.data())
def test_numbers_of_headers_overwritten(tmp_path, kind, data):
    """Integers and floats at even places, as sizes, counts, offsets, slopes and axes are."""
    content = bytearray(gzip.decompress(INTACT[kind]) if kind.endswith("gz") else INTACT[kind])
    n_header = 352 if kind.startswith("a.nii") else min(600, len(content))
    extreme = st.sampled_from([0, 1, -1, 2, 255, 2**15 - 1, -(2**15), 2**16 - 1, 2**31 - 1, -(2**31), 2**32 - 1])
    number = st.one_of(
        extreme.map(lambda n: struct.pack("<q", n)[:2]),
        extreme.map(lambda n: struct.pack("<q", n)[:4]),
        extreme.map(lambda n: struct.pack("<q", n)),
        st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-30, 0.0, 1.0]).map(lambda n: struct.pack("<f", n)),
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at, piece = 2 * data.draw(st.integers(0, n_header // 2 - 4)), data.draw(number)
        content[at : at + len(piece)] = piece
    whole = gzip.compress(bytes(content), mtime=0) if kind.endswith("gz") else bytes(content)
    tracemalloc.start()
    try:
        loads_or_is_refused(put(tmp_path, kind, whole))
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", KINDS)
@EXAMPLES
@given(content=st.binary(max_size=2000), keep=st.integers(0, 16))
def test_noise_with_and_without_the_right_magic(tmp_path, kind, content, keep):
    assert refused(put(tmp_path, kind, INTACT[kind][:keep] + content))


@pytest.mark.parametrize("kind", KINDS)
def test_empty_files(tmp_path, kind):
    refused(put(tmp_path, kind, b""))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_content_of_another_kind(tmp_path, kind, other):
    """Refused, unless it is the same kind after all."""
    families = (
        {"a.nii"},
        {"a.nii.gz"},
        {"a.mgz"},
        {"a.npy"},
        {"a.npz"},
        {"a.tif", "deflated.tif", "imagej.tif"},
        {"slices"},
    )
    message = loads_or_is_refused(put(tmp_path, kind, INTACT[other]))
    same = kind == other or any(kind in family and other in family for family in families)
    lone = other == "pictures" and kind.endswith(".tif")  # a stack of one page
    assert bool(message) != (same or lone)


def array_of(kind: str, data: np.ndarray, path: Path) -> None:
    """Save an array as that kind, where it can hold it."""
    if kind.startswith("a.nii"):
        nib.save(nib.Nifti1Image(data.astype("f8"), np.eye(4)), path)
    elif kind == "a.npy":
        np.save(path, data)
    elif kind == "a.npz":
        np.savez(path, data)
    else:
        tifffile.imwrite(path, data, photometric=1)


@pytest.mark.parametrize("kind", ["a.nii", "a.nii.gz", "a.npy", "a.npz", "a.tif"])
@EXAMPLES
@given(
    values=st.lists(
        st.one_of(
            st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e-45, 3e38, -3e38, 1e300, -1e300, 5e-324]), st.floats()
        ),
        min_size=1,
        max_size=12,
    ),
    dtype=st.sampled_from(["f4", "f8"]),
)
def test_any_intensities(tmp_path, kind, values, dtype):
    with np.errstate(over="ignore"):
        data = np.resize(np.array(values), (2, 3, 4)).astype(dtype)
    array_of(kind, data, tmp_path / kind)
    with np.errstate(over="ignore"):
        as_read = data.astype("f4")
    message = loads_or_is_refused(tmp_path / kind)
    # NaN is background here, where every voxel lies at the border, but not alone.
    if np.isinf(as_read).any() or np.isnan(as_read).all():
        assert "NaN or infinite" in message


@MORE_EXAMPLES
@given(
    affine=st.lists(
        st.one_of(st.sampled_from([0.0, 1.0, -1.0, np.nan, np.inf, 1e-30, 1e30]), st.floats(width=32)),
        min_size=12,
        max_size=12,
    )
)
def test_any_affine(tmp_path, affine):
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.float32)
    header["sform_code"], header["magic"], header["vox_offset"] = 1, b"n+1", 352
    for i, row in enumerate(("srow_x", "srow_y", "srow_z")):
        header[row] = affine[4 * i : 4 * i + 4]
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4) + voxels().tobytes())
    loads_or_is_refused(tmp_path / "a.nii")


def zip_of(name: str, content: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        file.writestr(name, content)
    return stream.getvalue()


def npy_claim(shape, descr="<f4") -> bytes:
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def nifti_claim(shape, kind=nib.Nifti1Header) -> bytes:
    header = kind()
    header.set_data_shape(shape)
    header.set_data_dtype(np.float32)
    header.set_sform(np.eye(4), code=1)
    header["magic"] = b"n+1" if kind is nib.Nifti1Header else b"n+2"
    header["vox_offset"] = 352 if kind is nib.Nifti1Header else 544
    return header.binaryblock + bytes(4)


def tiff_claim(rows: int, columns: int, n_pages: int, content: bytes, compression: int = 1) -> bytes:
    """Pages that all have their one strip at the same place, where `content` is."""
    out = bytearray(struct.pack("<2sHI", b"II", 42, 8 + len(content))) + content
    for i in range(n_pages):
        tags = {256: columns, 257: rows, 258: 32, 259: compression, 262: 1, 273: 8, 277: 1, 278: rows}
        tags |= {279: len(content), 339: 3}
        following = 0 if i == n_pages - 1 else len(out) + 2 + 12 * len(tags) + 4
        out += struct.pack("<H", len(tags))
        for tag, value in sorted(tags.items()):
            out += struct.pack("<HHII", tag, 4, 1, value)
        out += struct.pack("<I", following)
    return bytes(out)


def huge(kind: str) -> dict[str, bytes]:
    """Small files that claim, or inflate to, far more than they hold."""
    shapes = {"4 GB": (1000, 1000, 1000), "100 TB": (30000, 30000, 30000)}
    if kind.startswith("a.nii"):
        found = {name: nifti_claim(shape) + bytes(100) for name, shape in shapes.items()}
        found["version 2"] = nifti_claim((2**40, 2**40, 2**10), nib.Nifti2Header) + bytes(100)
        found["one line"] = nifti_claim((1, 1, 2**30), nib.Nifti2Header) + bytes(100)
        extended = bytearray(nifti_claim(SHAPE))
        extended[108:112] = struct.pack("<f", 2e9)  # where the voxels begin
        found["extension"] = bytes(extended[:348]) + b"\1\0\0\0" + struct.pack("<ii", 2**31 - 16, 6) + bytes(50_000_000)
        found["extension of nothing"] = bytes(extended[:348]) + b"\1\0\0\0" + bytes(50_000_000)
        if kind.endswith("gz"):
            found = {name: gzip.compress(content, mtime=0) for name, content in found.items()}
            # Voxels that are all there, and then no end.
            found["no end"] = gzip.compress(nifti_claim(SHAPE) + voxels().tobytes() + bytes(50_000_000))
        return found
    if kind == "a.npy":
        found = {name: npy_claim(shape) + bytes(100) for name, shape in shapes.items()}
        return found | {"overflow": npy_claim((2**62, 2**62, 2**62)), "digits": npy_claim((10**18,) * 3)}
    if kind == "a.npz":
        found = {name: zip_of("volume.npy", npy_claim(shape) + bytes(100)) for name, shape in shapes.items()}
        found["no end"] = zip_of("volume.npy", npy_claim(SHAPE) + bytes(50_000_000))
        found["header"] = zip_of("volume.npy", b"\x93NUMPY\2\0\xff\xff\xff\xff" + b" " * 50_000_000)
        return found
    if kind == "slices":
        return {"4 GB": npy_claim((30000, 30000)) + bytes(100)}
    bomb = zlib.compress(bytes(50_000_000), 9)
    found = {
        "4 GB": tiff_claim(30000, 30000, 1, bytes(100)),
        "deflated": tiff_claim(30000, 30000, 1, zlib.compress(bytes(100)), 8),
        "strip": tiff_claim(10, 10, 1, bomb, 8),
        "rows": tiff_claim(2**32 - 1, 2**32 - 1, 1, bytes(100)),
    }
    if kind != "pictures":
        # Every page is there, but all are the same.
        found["pages"] = tiff_claim(200, 200, 300, bytes(160000))
    return found


HUGE = [
    pytest.param(kind, content, id=f"{kind}: {name}")
    for kind in ("a.nii", "a.nii.gz", "a.npy", "a.npz", "a.tif", "slices", "pictures")
    for name, content in huge(kind).items()
]


@pytest.mark.parametrize(("kind", "content"), HUGE)
def test_absurd_claims_and_bombs_cost_no_memory(tmp_path, kind, content):
    refused(put(tmp_path, kind, content))


def test_nor_does_the_process_that_reads_them_take_more_than_it_may(tmp_path):
    """The system's own measure, which sees what libraries allocate behind Python's back."""
    for i, (kind, content) in enumerate(param.values for param in HUGE):
        folder = tmp_path / str(i)
        folder.mkdir()
        put(folder, kind, content)
    script = f"""
        import resource
        from pathlib import Path
        from engine.errors import InputError
        from engine.io import guard
        from engine.io.volumes import load_volume
        from engine.cli import peak_memory_mb
        before = peak_memory_mb()
        for folder in Path({str(tmp_path)!r}).iterdir():
            (path,) = folder.iterdir()
            try:
                load_volume(path)
            except InputError:
                pass
            else:
                raise SystemExit(f"{{path}} was read")
        guard._end()
        print(peak_memory_mb() - before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ours, reader = map(float, done.stdout.split())
    # The reader has its libraries, and what the wall spares; files claim gigabytes and more.
    assert ours < 20
    assert reader < 150 + SPARE_BYTES / 2**20


@pytest.mark.parametrize("kind", ["a.npy", "a.npz", "slices"])
@pytest.mark.parametrize("shape", [(), (2,), (5, 6), SHAPE])
def test_pickles_are_never_opened(tmp_path, kind, shape):
    class Loud:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    array = np.empty(shape, dtype=object)
    array[...] = Loud()
    content = npy(array)
    (tmp_path / "ran").unlink(missing_ok=True)
    refused(put(tmp_path, kind, zip_of("volume.npy", content) if kind == "a.npz" else content))
    # Also where the whole file is a pickle.
    refused(put(tmp_path, kind, array.dumps()))
    assert not (tmp_path / "ran").exists()


@MORE_EXAMPLES
@given(
    name=st.one_of(
        st.sampled_from(
            ["../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "a/../volume", "volume", "", ".", "\0x", "é"]
        ),
        st.text(max_size=30),
    ),
    suffix=st.sampled_from([".npy", ".npy/", ".NPY", ""]),
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_in_archives_never_touch_the_disk(tmp_path, name, suffix):
    folder = tmp_path / "deep" / "down"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        content = zip_of(name + suffix, npy(voxels()))
    except (UnicodeEncodeError, IndexError):  # a name that no archive can hold: half a character, or none
        return
    (folder / "a.npz").write_bytes(content)
    loads_or_is_refused(folder / "a.npz")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [folder / "a.npz"]


@EXAMPLES
@given(
    slices=st.lists(
        st.tuples(
            st.sampled_from([(5, 6), (1, 5, 6), (5, 7), (5,), (), (0, 6), (2, 5, 6)]),
            st.sampled_from(["f4", "f8", "u1", "c8", "?", "S3", "M8[D]"]),
            st.sampled_from(["npy", "NPY", "txt"]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_mixed_slices(tmp_path_factory, slices):
    folder = tmp_path_factory.mktemp("slices")
    for i, (shape, dtype, suffix) in enumerate(slices):
        array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
        (folder / f"{i}.{suffix}").write_bytes(npy(array))
    kept = [(shape, dtype) for shape, dtype, suffix in slices if suffix != "txt"]
    good = bool(kept) and all(s in ((5, 6), (1, 5, 6)) and d in ("f4", "f8", "u1") for s, d in kept)
    good = good or (bool(kept) and all(s == (5, 7) and d in ("f4", "f8", "u1") for s, d in kept))
    assert (loads_or_is_refused(folder) == "") == good


def test_folders_of_several_kinds(tmp_path):
    put(tmp_path, "slices", INTACT["slices"])
    (tmp_path / "slices" / "3.tif").write_bytes(INTACT["pictures"])
    assert "one kind" in refused(tmp_path / "slices")


def test_folders_and_links_in_place_of_slices(tmp_path):
    folder = put(tmp_path, "slices", INTACT["slices"])
    (folder / "1.npy").unlink()
    (folder / "1.npy").mkdir()
    refused(folder)
    (folder / "1.npy").rmdir()
    (folder / "1.npy").symlink_to("1.npy")
    refused(folder)
