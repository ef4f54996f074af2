"""A bundle opens as it was built, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engine.backends.bundle import FORMAT, GRAPHS, MANIFEST, Bundle, sha256_of
from engine.errors import InputError
from engine.volume import Plane


@pytest.fixture
def folder(tiny_bundles, tmp_path) -> Path:
    """A copy of a bundle, to be damaged."""
    return Path(shutil.copytree(tiny_bundles["axial"].folder, tmp_path / "bundle"))


def edit(folder: Path, **changes: object) -> None:
    """Set fields of the manifest; None as in "delete it" is spelled by `...`."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    for name, value in changes.items():
        if value is ...:
            del manifest[name]
        else:
            manifest[name] = value
    path.write_text(json.dumps(manifest))


def refused(folder: Path) -> str:
    with pytest.raises(InputError, match=r"^engine: expected [^\n]*; build [^\n]*$") as caught:
        Bundle.open(folder)
    return str(caught.value)


def test_a_bundle_says_what_it_is(tiny_bundles):
    for name, tiny in tiny_bundles.items():
        bundle = Bundle.open(str(tiny.folder))
        assert bundle.plane == Plane.parse(name)
        assert (bundle.sigma_min, bundle.sigma_max) == pytest.approx((0.01, 50.0), rel=1e-6)
        assert (bundle.divisor, bundle.trained_size) == (2, 16)
        bundle.check_slice((6, 10))
        with pytest.raises(InputError, match=r"^volume: expected sides that are multiples of 2 .* 6×9; crop or pad"):
            bundle.check_slice((6, 9))
        manifest = bundle.manifest
        assert manifest["format"] == FORMAT
        assert manifest["checkpoint"]["sha256"] == sha256_of(tiny.checkpoint)
        assert set(manifest["files"]) == {"network.json", "weights.bin", *(f"{g}.onnx" for g in GRAPHS)}
        assert {p.name for p in tiny.folder.iterdir()} == {MANIFEST, *manifest["files"]}


def test_a_bundle_may_not_know_its_plane(folder):
    edit(folder, plane=None)
    assert Bundle.open(folder).plane is None


def test_no_bundle_is_refused(tmp_path):
    assert "got none in" in refused(tmp_path)
    assert "got none in" in refused(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    assert "got none in" in refused(tmp_path / "file")


@pytest.mark.parametrize("name", ["weights.bin", *(f"{g}.onnx" for g in GRAPHS)])
def test_a_changed_file_is_refused(folder, name):
    file = folder / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert f"{name}' as it was verified" in refused(folder)


@pytest.mark.parametrize("name", ["weights.bin", "pullback.onnx"])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    assert f"the file '{name}'" in refused(folder)


@pytest.mark.parametrize("name", ["weights.bin", "pullback.onnx"])
def test_a_truncated_file_is_refused(folder, name):
    file = folder / name
    file.write_bytes(file.read_bytes()[:-1])
    refused(folder)


def test_a_folder_in_the_place_of_a_file_is_refused(folder):
    (folder / "denoise.onnx").unlink()
    (folder / "denoise.onnx").mkdir()
    refused(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'"text"',
        b"null",
        b"{}",
        b"\xff\xfe\x00",
        b'{"format": 1}',
        b'{"format": 1, "files": 3}',
    ],
)
def test_a_damaged_manifest_is_refused(folder, content):
    (folder / MANIFEST).write_bytes(content)
    assert "damaged" in refused(folder)


@pytest.mark.parametrize("field", ["architecture", "plane", "divisor", "trained_size", "checkpoint"])
def test_a_manifest_without_a_needed_field_is_refused(folder, field):
    edit(folder, **{field: ...})
    assert "damaged" in refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": {}},
        {"architecture": {"sigma_min": "low", "sigma_max": 50}},
        {"divisor": "two"},
        {"divisor": 0},
        {"plane": [0, 0, 1]},
        {"plane": [0, 1]},
        {"plane": 3},
        {"files": {"denoise.onnx": 5}},
        {"files": [[1, 2]]},
    ],
    ids=str,
)
def test_a_manifest_with_a_wrong_value_is_refused(folder, changes):
    edit(folder, **changes)
    assert "damaged" in refused(folder)


@pytest.mark.parametrize("version", [0, FORMAT + 1, "1", None])
def test_another_format_is_refused(folder, version):
    edit(folder, format=version)
    assert f"expected bundle format {FORMAT}" in refused(folder)


def test_a_bundle_without_one_of_its_graphs_is_refused(folder):
    files = json.loads((folder / MANIFEST).read_text())["files"]
    del files["pullback.onnx"]
    edit(folder, files=files)
    assert "without pullback" in refused(folder)


@pytest.mark.parametrize("trick", ["../outside.bin", "{absolute}", "sub/../../outside.bin", "..", ".", ""])
def test_names_that_lead_out_of_the_folder_are_refused(folder, trick):
    outside = folder.parent / "outside.bin"
    outside.write_bytes(b"content")
    (folder / "sub").mkdir()
    files = json.loads((folder / MANIFEST).read_text())["files"]
    # The hash is right: the name alone is the reason.
    edit(folder, files={**files, trick.format(absolute=outside): sha256_of(outside)})
    assert "the file '" in refused(folder)
