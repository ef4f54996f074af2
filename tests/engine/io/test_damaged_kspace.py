"""Damaged files with k-space: each is read or refused in one sentence, whatever was done to it."""

from __future__ import annotations

import re
from itertools import combinations

import h5py
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.io.measurements.fastmri import save_fastmri
from engine.io.measurements.kspace import KSpace, load_kspace
from engine.volume import Plane
from tests.engine.io.libismrmrd import write_as_c_does
from tests.engine.io.sweep import sweep

ismrmrd = pytest.importorskip("ismrmrd", reason="the package of the format is in the extra `mri`")

SHAPE = (2, 2, 8, 6)
FILES = ["own.h5", "fastmri.h5", "latest.h5", "packed.h5", "lzf.h5", "scan.mrd", "appended.mrd", "latest.mrd", "c.mrd"]
#: By which HDF5 knows its parts.
SIGNATURES = [b"OHDR", b"TREE", b"HEAP", b"SNOD", b"GCOL", b"FRHP", b"FADB", b"FAHD", b"EAHD", b"BTHD", b"\x89HDF"]
often = sweep(100)


def samples() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal(SHAPE) + 1j * rng.standard_normal(SHAPE)).astype(np.complex64)


def header() -> str:
    xsd = ismrmrd.xsd
    n_rows, n_columns = SHAPE[2:]

    def space(n: int) -> object:
        fov = xsd.fieldOfViewMm(x=2.0 * n, y=1.0 * n_columns, z=3.0)
        return xsd.encodingSpaceType(matrixSize=xsd.matrixSizeType(x=n, y=n_columns, z=1), fieldOfView_mm=fov)

    encoding = xsd.encodingType(
        encodedSpace=space(n_rows),
        reconSpace=space(n_rows // 2),
        encodingLimits=xsd.encodingLimitsType(),
        trajectory=xsd.trajectoryType.CARTESIAN,
    )
    conditions = xsd.experimentalConditionsType(H1resonanceFrequency_Hz=1)
    return str(xsd.ToXML(xsd.ismrmrdHeader(experimentalConditions=conditions, encoding=[encoding])))


def acquisitions() -> list:
    found = []
    for number, coils in enumerate(samples()):
        for line in range(SHAPE[3]):
            one = ismrmrd.Acquisition.from_array(np.ascontiguousarray(coils[:, :, line]))
            one.idx.slice, one.idx.kspace_encode_step_1, one.center_sample = number, line, SHAPE[2] // 2
            found.append(one)
    return found


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> dict[str, bytes]:
    """A whole file of every layout and way of storage."""
    folder = tmp_path_factory.mktemp("whole")
    crop = ((0, 8), (1, 5))
    mask = np.ones(SHAPE[2:], np.float32)
    save_fastmri(folder / "own.h5", KSpace(samples(), mask, Plane((2, 0, 1)), np.eye(4), crop, "", 0.5))
    packed = {"chunks": (1, 1, 8, 6), "compression": "gzip", "shuffle": True}
    for name, version, how in (
        ("fastmri.h5", "earliest", {}),
        ("latest.h5", "latest", {"chunks": (1, 2, 8, 6), "fletcher32": True}),
        ("packed.h5", "earliest", packed),
        ("lzf.h5", "latest", {"chunks": (1, 2, 4, 6), "compression": "lzf", "maxshape": (None, 2, 8, 6)}),
    ):
        with h5py.File(folder / name, "w", libver=version) as file:
            file["ismrmrd_header"] = header()
            # Whole numbers, which can be compressed.
            file.create_dataset("kspace", data=np.round(4 * samples()), **how)
            file["mask"] = np.ones(SHAPE[3], np.float32)
            file.attrs["acquisition"] = "AXT2"
    with ismrmrd.File(str(folder / "scan.mrd"), mode="w") as file:
        file["dataset"].header = ismrmrd.xsd.CreateFromDocument(header())
        file["dataset"].acquisitions = acquisitions()
    with ismrmrd.Dataset(str(folder / "appended.mrd")) as file:
        file.write_xml_header(header())
        for one in acquisitions():
            file.append_acquisition(one)
    with h5py.File(folder / "appended.mrd") as file, h5py.File(folder / "latest.mrd", "w", libver="latest") as copy:
        file.copy("dataset", copy)
    write_as_c_does(folder / "c.mrd", header(), acquisitions())
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture
def check(tmp_path):
    """Load a file: finite samples of a scan come back, or one sentence."""

    def checked(content: bytes | None = None) -> str | None:
        path = tmp_path / "a.h5"
        if content is not None:
            path.write_bytes(content)
        try:
            found = load_kspace(path)
        except InputError as error:
            message = str(error)
            assert message.startswith("kspace: expected "), message
            assert not re.search(r"\n|\. |\.$", message), message
            assert "; " in message
            return message
        assert found.data.dtype == np.complex64
        assert np.isfinite(found.data).all()
        assert found.data.any()
        assert found.data.shape[-2:] == found.mask.shape
        assert set(np.unique(found.mask)) <= {0, 1}
        assert np.isfinite(found.affine).all()
        assert np.isfinite(found.zero_filled()).all()
        return None

    return checked


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_read(contents, check, name):
    assert check(contents[name]) is None


@pytest.mark.parametrize("name", FILES)
def test_files_that_end_early(contents, check, name):
    content = contents[name]
    for fortieth in range(40):
        assert check(content[: fortieth * len(content) // 40]) is not None


@pytest.mark.parametrize("name", FILES)
@often
@given(data=st.data())
def test_truncated_files(contents, check, name, data):
    content = contents[name]
    assert check(content[: data.draw(st.integers(0, len(content) - 1))]) is not None


@pytest.mark.parametrize("name", FILES)
@often
@given(data=st.data())
def test_overwritten_bytes(contents, check, name, data):
    content = bytearray(contents[name])
    places = st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(places)
        piece = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, b"\0" * 8])))
        content[place : place + len(piece)] = piece[: len(content) - place]
    check(bytes(content))


@pytest.mark.parametrize("name", FILES)
@often
@given(data=st.data())
def test_overwritten_structure(contents, check, name, data):
    """Where HDF5 describes what it holds, most bytes matter."""
    content = bytearray(contents[name])
    places = [match.start() for mark in SIGNATURES for match in re.finditer(re.escape(mark), contents[name])]
    for _ in range(data.draw(st.integers(1, 3))):
        place = min(data.draw(st.sampled_from(places)) + data.draw(st.integers(0, 160)), len(content) - 1)
        content[place] = data.draw(st.one_of(st.sampled_from([0, 1, 2, 8, 127, 128, 255]), st.integers(0, 255)))
    check(bytes(content))


@pytest.mark.parametrize("name", FILES)
@often
@given(data=st.data())
def test_bytes_that_are_inserted_or_missing(contents, check, name, data):
    content = contents[name]
    place, n_missing = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 40))
    check(content[:place] + data.draw(st.binary(max_size=40)) + content[place + n_missing :])


@often
@given(content=st.binary(max_size=300), name=st.sampled_from(FILES))
def test_noise(contents, check, content, name):
    # With and without the first bytes by which the format is known.
    assert check(content) is not None
    assert check(contents[name][:8] + content) is not None
    assume(not content.startswith(contents[name][:8]))
    assert check(content[:8].ljust(8, b"\0") + contents[name][8:]) is not None


# --- files that are whole, and hold something else

DTYPES = ["?", "i1", "u2", ">i4", "i8", "f2", "f4", ">f8", "c8", ">c16", "S5", "O"]
SHAPES = [(), (1,), (0,), (6,), (8,), (8, 6), (6, 8), (2, 8, 6), (2, 2, 8, 6), (2, 0, 8, 6), (1, 1, 1, 1), (1,) * 5]


@st.composite
def arrays(draw):
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(SHAPES))
    if dtype in ("S5", "O"):
        words = draw(st.sampled_from(["", "a", "<a/>", "\u00e9" * 3, header()]))
        text = words.encode() if dtype == "S5" else words
        return np.full(shape, text, "S5" if dtype == "S5" else h5py.string_dtype())
    value = draw(st.sampled_from([0, 1, 2, -1, 0.5, 1e30, np.nan, np.inf]))
    with np.errstate(all="ignore"):
        whole = np.nan_to_num(value) if np.dtype(dtype).kind in "?biu" else value
        return np.full(shape, np.array(whole, np.float64).astype(dtype))


@often
@given(data=st.data())
def test_datasets_missing_renamed_or_of_another_type(contents, check, tmp_path, data):
    name = data.draw(st.sampled_from(FILES))
    (tmp_path / "a.h5").write_bytes(contents[name])
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        group = file["dataset"] if "dataset" in file else file
        for _ in range(data.draw(st.integers(1, 2))):
            member = data.draw(st.sampled_from(["kspace", "dataset", *group]))
            what = data.draw(st.sampled_from(["missing", "renamed", "other", "group", "link"]))
            if what == "renamed" and member in group:
                group.move(member, f"{member} of old")
                continue
            if member in group:
                del group[member]
            if what == "other":
                group[member] = data.draw(arrays())
            elif what == "group":
                group.create_group(member)
            elif what == "link":
                group[member] = data.draw(
                    st.sampled_from(
                        [h5py.SoftLink("/kspace"), h5py.SoftLink(f"/{member}"), h5py.ExternalLink("a.h5", "/kspace")]
                    )
                )
    check()


def test_datasets_that_change_places(contents, check, tmp_path):
    for name in FILES:
        (tmp_path / "a.h5").write_bytes(contents[name])
        with h5py.File(tmp_path / "a.h5") as file:
            group = "dataset" if "dataset" in file else "/"
            members = list(file[group])
        for one, other in combinations(members, 2):
            (tmp_path / "a.h5").write_bytes(contents[name])
            with h5py.File(tmp_path / "a.h5", "r+") as file:
                file[group].move(one, "between")
                file[group].move(other, one)
                file[group].move("between", other)
            assert check() is not None


@pytest.mark.parametrize("shape", [(2**40, 8, 6), (2**20, 2**20, 2**20), (2, 2**31, 6), (2**56, 2, 2), (1, 1, 2**33)])
def test_absurd_shapes(check, tmp_path, shape):
    chunks = tuple(min(n, 8) for n in shape)
    for how in ({}, {"chunks": chunks}, {"chunks": chunks, "compression": "gzip"}):
        for has_some in (False, True):
            with h5py.File(tmp_path / "a.h5", "w") as file:
                try:
                    dataset = file.create_dataset("kspace", shape, np.complex64, **how)
                except ValueError:  # more than HDF5 can count
                    continue
                if has_some and how:
                    dataset[:1, :1, :1] = 1
            assert check() is not None


@often
@given(data=st.data())
def test_own_attributes_of_other_values(contents, check, tmp_path, data):
    (tmp_path / "a.h5").write_bytes(contents["own.h5"])
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        names = st.sampled_from(["orientation", "affine", "crop", "noise"])
        for name in data.draw(st.lists(names, min_size=1, unique=True)):
            if name == "orientation":
                value = np.bytes_(data.draw(st.one_of(st.text("RASL", min_size=1, max_size=4), st.binary(max_size=4))))
            else:
                value = np.array(file.attrs[f"tpdm_{name}"], np.float64)
                for _ in range(data.draw(st.integers(1, 3))):
                    place = tuple(data.draw(st.integers(0, n - 1)) for n in value.shape)
                    value[place] = data.draw(st.one_of(st.sampled_from([-1, 0, 1, 3, 9, np.nan]), st.floats()))
            file.attrs[f"tpdm_{name}"] = data.draw(arrays()) if data.draw(st.integers(0, 9)) == 0 else value
    check()


@pytest.mark.parametrize(
    "value", [np.zeros(6, np.float16), 1.5, np.bytes_(b"SPX"), "x" * 1000, h5py.Empty("f4")], ids=str
)
def test_an_orientation_that_is_none(contents, check, tmp_path, value):
    (tmp_path / "a.h5").write_bytes(contents["own.h5"])
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["tpdm_orientation"] = value
    assert check() is not None


@often
@given(data=st.data())
def test_headers_of_other_values(check, tmp_path, data):
    text = header()
    for _ in range(data.draw(st.integers(1, 3))):
        sizes = st.floats(-4, 5).map(lambda size: 10**size)
        number = st.one_of(st.integers(1, 20), st.integers(), sizes, st.floats(), st.text(max_size=3))
        numbers = list(re.finditer(r">([0-9.]+|cartesian)<", text))
        if not numbers:
            break
        chosen = data.draw(st.sampled_from(numbers))
        text = f"{text[: chosen.start(1)]}{data.draw(number)}{text[chosen.end(1) :]}"
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = samples()
        try:
            file["ismrmrd_header"] = text
        except (UnicodeEncodeError, ValueError):  # what h5py does not write
            return
    check()


@often
@given(data=st.data())
def test_acquisitions_of_other_values(contents, check, tmp_path, data):
    (tmp_path / "a.h5").write_bytes(contents["scan.mrd"])
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        records = file["dataset/data"][:]
        heads = records["head"]
        for _ in range(data.draw(st.integers(1, 3))):
            name = data.draw(st.sampled_from([*heads.dtype.names, *heads["idx"].dtype.names]))
            field = heads[name] if name in heads.dtype.names else heads["idx"][name]
            if field.dtype.names:
                continue
            value = data.draw(st.sampled_from([0, 1, 2, 3, 4, 7, 8, 16, 255, 65535, np.nan, np.inf, 1e30]))
            with np.errstate(all="ignore"):
                value = np.array(np.nan_to_num(value) if field.dtype.kind in "iu" else value).astype(field.dtype)
            chosen = data.draw(st.sampled_from([slice(None), slice(0, 1), slice(-1, None), slice(0, None, 2)]))
            field[chosen] = value
        records["head"] = heads
        file["dataset/data"][:] = records
    check()
