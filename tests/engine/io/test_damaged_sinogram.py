"""Damaged sinograms and geometries: each is read or refused in one sentence, whatever was done to it."""

from __future__ import annotations

import json
import re

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.io.measurements.sinogram import load_sinogram
from tests.engine.io.sweep import sweep

SHAPE = (2, 4, 9)
FIELDS = {
    "beam": "fan",
    "angles_deg": [0.0, 40.0, 80.0, 120.0],
    "bin_spacing_mm": 1.0,
    "bin_offset_mm": 0.25,
    "source_distance_mm": 40.0,
    "detector_distance_mm": 20.0,
    "detector": "curved",
    "pixel_mm": 0.5,
    "rows": 10,
    "columns": 8,
    "slice_spacing_mm": 2.0,
    "orientation": "SPL",
}
FILES = ["a.npy", "a.npz", "stored.npz", "a.h5", "packed.h5", "a.tif"]
often = sweep(60)


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> dict[str, bytes]:
    """A whole file of every format."""
    folder, data = tmp_path_factory.mktemp("whole"), np.random.default_rng(0).random(SHAPE, np.float32)
    np.save(folder / "a.npy", data)
    np.savez_compressed(folder / "a.npz", sinogram=data)
    np.savez(folder / "stored.npz", sinogram=data)
    for name, options in (("a.h5", {}), ("packed.h5", {"chunks": (1, 4, 9), "compression": "gzip", "shuffle": True})):
        with h5py.File(folder / name, "w") as file:
            file.create_dataset("sinogram", data=data, **options)
    tifffile.imwrite(folder / "a.tif", data, photometric="minisblack", metadata=None)
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture
def check(tmp_path):
    """Load a file and a geometry: a sinogram comes back, or one sentence that names one of them."""

    def checked(name: str, content: bytes, geometry: str | bytes) -> str | None:
        (tmp_path / name).write_bytes(content)
        text = geometry if isinstance(geometry, bytes) else geometry.encode("utf-8", "surrogatepass")
        (tmp_path / "a.json").write_bytes(text)
        try:
            found = load_sinogram(tmp_path / name, tmp_path / "a.json")
        except InputError as error:
            message = str(error)
            assert re.match("(sinogram|geometry): expected ", message), message
            assert not re.search(r"\n|\. |\.$", message), message
            assert "; " in message
            return message
        assert found.data.dtype == np.float32
        assert found.data.shape[1:] == (found.geometry.n_views, found.geometry.n_bins)
        assert np.isfinite(found.data).all()
        return None

    return checked


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_read(contents, check, name):
    assert check(name, contents[name], json.dumps(FIELDS)) is None


@pytest.mark.parametrize("name", FILES)
@often
@given(data=st.data())
def test_truncated_files(contents, check, name, data):
    content = contents[name]
    length = data.draw(st.integers(0, len(content) - 1))
    message = check(name, content[:length], json.dumps(FIELDS))
    if name.endswith(".npy"):
        assert message is not None


@pytest.mark.parametrize("name", FILES)
@often
@given(data=st.data())
def test_overwritten_bytes(contents, check, name, data):
    content = bytearray(contents[name])
    # Where the formats keep what they say of themselves, most damage goes to the first and the last bytes.
    places = st.one_of(st.integers(0, len(content) - 1), st.integers(0, min(400, len(content)) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(places)
        piece = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, b"\0" * 8])))
        content[place : place + len(piece)] = piece[: len(content) - place]
    check(name, bytes(content), json.dumps(FIELDS))


@pytest.mark.parametrize("name", FILES)
@often
@given(data=st.data())
def test_bytes_that_are_inserted_or_missing(contents, check, name, data):
    content = contents[name]
    place, n_missing = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 40))
    check(name, content[:place] + data.draw(st.binary(max_size=40)) + content[place + n_missing :], json.dumps(FIELDS))


@pytest.mark.parametrize("name", FILES)
@often
@given(content=st.binary(max_size=300))
def test_noise_under_a_known_name(contents, check, name, content):
    # With and without the first bytes by which a format is known.
    assert check(name, content, json.dumps(FIELDS)) is not None
    check(name, contents[name][:12] + content, json.dumps(FIELDS))


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.floats(),
        st.sampled_from([1e308, -1e308, 1e-308, 10**12, 10**400, -1, 0, 1, 3, "", "1", "SRA", "fan", "a. b\n."]),
        st.integers(),
        st.text(max_size=8),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["first", "last_excluded", "count", "x"]), inner, max_size=3),
    ),
    max_leaves=6,
)
OTHER_KEYS = ["angles_rad", "bins", "size", "rotation_centre_px", "origin_mm", "affine"]


@often
@given(data=st.data())
def test_geometries_with_other_values(contents, check, data):
    fields = dict(FIELDS)
    for key in data.draw(st.lists(st.sampled_from([*FIELDS, *OTHER_KEYS]), min_size=1, max_size=3)):
        if data.draw(st.booleans()) and key in fields:
            del fields[key]
        else:
            fields[key] = data.draw(VALUES)
    check("a.npy", contents["a.npy"], json.dumps(fields))


@often
@given(data=st.data())
def test_geometries_with_numbers_of_every_size(contents, check, data):
    numbers = [key for key, value in FIELDS.items() if isinstance(value, (int, float))]
    fields = {**FIELDS, "detector": data.draw(st.sampled_from(["flat", "curved"]))}
    if data.draw(st.booleans()):
        fields = {key: value for key, value in fields.items() if "detector" not in key and "source" not in key}
        fields["beam"] = "parallel"
    for key in data.draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=3)):
        size = data.draw(st.floats(-12, 12))
        if key in fields:
            fields[key] = round(10**size) if key in ("rows", "columns") else 10**size
    if data.draw(st.booleans()):
        fields["angles_deg"] = {"first": 0, "last_excluded": data.draw(st.floats(width=32)), "count": 4}
    check("a.npy", contents["a.npy"], json.dumps(fields))


@often
@given(data=st.data())
def test_geometries_with_other_letters(contents, check, data):
    text = json.dumps(FIELDS)
    place, n_missing = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 12))
    check("a.npy", contents["a.npy"], text[:place] + data.draw(st.text(max_size=12)) + text[place + n_missing :])


@often
@given(key=st.text(), again=st.sampled_from(list(FIELDS)))
def test_geometries_with_unknown_and_repeated_keys(contents, check, key, again):
    text = json.dumps(FIELDS)[:-1]
    assert check("a.npy", contents["a.npy"], f'{text}, "{again}": 1}}') is not None
    if key not in FIELDS and key not in OTHER_KEYS:
        assert check("a.npy", contents["a.npy"], f"{text}, {json.dumps(key)}: 1}}") is not None


@often
@given(content=st.binary(max_size=200))
def test_noise_for_a_geometry(contents, check, content):
    assert check("a.npy", contents["a.npy"], content) is not None


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "[" * 200_000 + "]" * 200_000, "9" * 5000])
def test_geometries_nested_too_deep_or_numbers_too_long(contents, check, text):
    assert check("a.npy", contents["a.npy"], text) is not None
    assert check("a.npy", contents["a.npy"], f'{{"angles_deg": {text}}}') is not None
