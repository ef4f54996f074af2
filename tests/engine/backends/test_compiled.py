"""Compiled graphs: read whole and of this bundle, or refused in one sentence."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.backends.bundle import MANIFEST, Bundle, sha256_of
from engine.backends.compiled import FOLDER, FORMAT, RECORD, REQUIRED, Compiled, Range, folders_of, identity_of, name_of
from engine.backends.fused import dft_matrix
from engine.errors import InputError
from engine.operators import MaskedFourier
from tests.fake_tensorrt import compile_as_fake


@pytest.fixture
def bundle(tiny_bundles, tmp_path) -> Bundle:
    return Bundle.open(shutil.copytree(tiny_bundles["axial"].folder, tmp_path / "axial"))


@pytest.fixture
def folder(bundle) -> Path:
    return compile_as_fake(bundle)


def edit(folder: Path, **changes: object) -> None:
    """Set fields of the record; `...` deletes one."""
    record = json.loads((folder / RECORD).read_text()) | changes
    (folder / RECORD).write_text(json.dumps({k: v for k, v in record.items() if v is not ...}))


def refused(folder: Path, bundle: Bundle) -> str:
    with pytest.raises(InputError, match=r"^compiled: expected [^\n]*; (compile it again|rename) [^\n]*$") as caught:
        Compiled.open(folder, bundle)
    return str(caught.value)


def test_a_record_says_what_was_compiled(folder, bundle):
    compiled = Compiled.open(str(folder), bundle)
    assert (compiled.library, compiled.precision, compiled.platform) == ("tensorrt", "fp32", "sm90")
    assert compiled.name == name_of("tensorrt", "fp32", "sm90") == folder.name
    assert compiled.batch == Range(1, 4, 8)
    assert set(REQUIRED) < set(compiled.graphs)
    assert compiled.read("denoise") == (folder / "denoise.engine").read_bytes()
    compiled.check_files()


def test_a_range_knows_its_sizes():
    assert [n in Range(2, 4, 8) for n in (1, 2, 8, 9)] == [False, True, True, False]
    assert (str(Range(2, 4, 8)), str(Range(4, 4, 4))) == ("2 to 8", "4")


def test_the_identity_is_that_of_the_files(bundle):
    """Spelled out, as two packages must agree on it."""
    files = sorted(p for p in bundle.folder.iterdir() if p.is_file() and p.name != MANIFEST)
    text = "".join(f"{sha256_of(p)}  {p.name}\n" for p in files)
    assert identity_of(bundle) == hashlib.sha256(text.encode()).hexdigest()


def test_compiled_graphs_do_not_change_the_bundle(folder, bundle):
    assert identity_of(Bundle.open(bundle.folder)) == identity_of(bundle)


def test_graphs_of_another_network_are_refused(folder, tiny_bundles, tmp_path):
    other = Bundle.open(shutil.copytree(tiny_bundles["coronal"].folder, tmp_path / "coronal"))
    moved = Path(shutil.copytree(folder, other.folder / FOLDER / folder.name))
    assert "got those of another one" in refused(moved, other)


def test_folders_that_are_being_written_are_not_seen(folder, bundle):
    below = bundle.folder / FOLDER
    for name in (f".{folder.name}.part", f"{folder.name}.tmp", "tensorrt-fp32", "tensorrt-fp64-sm90", "onnx-fp32-any"):
        shutil.copytree(folder, below / name)
    (below / "tensorrt-fp16-sm90").write_text("a file")
    rtx = Path(shutil.copytree(folder, below / "tensorrt_rtx-bf16-any"))
    assert folders_of(bundle) == [folder, rtx]


def test_there_may_be_none(bundle):
    assert folders_of(bundle) == []


def test_a_folder_without_a_record_is_refused(folder, bundle):
    (folder / RECORD).unlink()
    assert "got none in" in refused(folder, bundle)
    assert "got none in" in refused(folder / "missing", bundle)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"null", b"{}", b"\xff\xfe\x00", b'{"format": 1}', b'{"format": 1, "graphs": 3}'],
)
def test_a_damaged_record_is_refused(folder, bundle, content):
    (folder / RECORD).write_bytes(content)
    assert "damaged" in refused(folder, bundle)


@pytest.mark.parametrize(
    "field", ["library", "library_version", "precision", "platform", "bundle", "profile", "graphs"]
)
def test_a_record_without_a_needed_field_is_refused(folder, bundle, field):
    edit(folder, **{field: ...})
    assert "damaged" in refused(folder, bundle)


@pytest.mark.parametrize(
    "changes",
    [
        {"library": "onnx"},
        {"library": []},
        {"library_version": 11},
        {"precision": "int8"},
        {"platform": "sm"},
        {"platform": "sm90/../../.."},
        {"platform": 90},
        {"bundle": None},
        {"profile": {"batch": [1, 4, 8], "height": [4, 16, 64]}},
        {"profile": {"batch": [1, 4], "height": [4, 16, 64], "width": [4, 16, 64]}},
        {"profile": {"batch": [0, 4, 8], "height": [4, 16, 64], "width": [4, 16, 64]}},
        {"profile": {"batch": [8, 4, 1], "height": [4, 16, 64], "width": [4, 16, 64]}},
        {"profile": {"batch": [1, 4, float("inf")], "height": [4, 16, 64], "width": [4, 16, 64]}},
        {"graphs": {"denoise": {"file": "denoise.engine"}}},
        {"graphs": {"denoise": {"file": "../denoise.engine", "sha256": ""}}},
        {"graphs": {"denoise": {"file": "denoise.engine", "sha256": 5}}},
    ],
    ids=str,
)
def test_a_record_with_a_wrong_value_is_refused(folder, bundle, changes):
    edit(folder, **changes)
    assert "damaged" in refused(folder, bundle)


@pytest.mark.parametrize("version", [0, FORMAT + 1, "1", None])
def test_another_format_is_refused(folder, bundle, version):
    edit(folder, format=version)
    assert f"expected format {FORMAT}" in refused(folder, bundle)


def test_a_renamed_folder_is_refused(folder, bundle):
    assert "which its record says" in refused(folder.rename(folder.with_name("tensorrt-fp16-sm90")), bundle)


@pytest.mark.parametrize("graph", REQUIRED)
def test_a_folder_without_a_needed_graph_is_refused(folder, bundle, graph):
    graphs = json.loads((folder / RECORD).read_text())["graphs"]
    del graphs[graph]
    edit(folder, graphs=graphs)
    assert f"without {graph}" in refused(folder, bundle)


def test_a_missing_file_is_refused(folder, bundle):
    (folder / "guided_fourier.engine").unlink()
    assert "the file 'guided_fourier.engine'" in refused(folder, bundle)


def test_a_changed_file_is_refused_when_read(folder, bundle):
    compiled = Compiled.open(folder, bundle)
    (folder / "denoise.engine").write_bytes(b"something else")
    for check in (lambda: compiled.read("denoise"), compiled.check_files):
        with pytest.raises(InputError, match=r"^compiled: expected '.*denoise\.engine' as it was compiled .*--force$"):
            check()
    (folder / "denoise.engine").unlink()
    with pytest.raises(InputError, match=r"^compiled: expected a file that can be read, .*--force$"):
        compiled.read("denoise")


def test_a_graph_that_is_not_there_is_refused(folder, bundle):
    with pytest.raises(InputError, match=r"^compiled: expected the graph 'adjoint' in .*, got denoise, .*--force$"):
        Compiled.open(folder, bundle).read("adjoint")


def test_the_remedy_keeps_the_precision(bundle):
    folder = compile_as_fake(bundle, precision="bf16")
    edit(folder, format=2)
    assert refused(folder, bundle).endswith(f"--bundle {bundle.folder} --backend tensorrt --precision bf16`")


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 16), (16, 7), (48, 48)])
def test_the_matrices_are_the_masked_transform(shape):
    """Against the operator that they stand for; float32 rounding of sums of so many."""
    generator = np.random.default_rng(0)
    x, mask = generator.standard_normal((2, *shape)).astype(np.float32), generator.random(shape).astype(np.float32)
    y = (generator.standard_normal((2, *shape)) + 1j * generator.standard_normal((2, *shape))).astype(np.complex64)
    rows, columns = (part[0] + 1j * part[1] for part in map(dft_matrix, shape))
    operator = MaskedFourier(mask)
    expected = operator.apply(x)
    assert np.linalg.norm(mask * (rows @ x @ columns.T) - expected) <= 1e-6 * np.linalg.norm(expected)
    expected = operator.adjoint(y)
    found = (rows.conj().T @ (mask * y) @ columns.conj()).real
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


def test_the_matrix_is_exact_for_large_sides():
    """Angles of thousands of turns keep no digits in float32."""
    n = 1024
    matrix = dft_matrix(n)
    assert matrix.dtype == np.float32
    exact = np.fft.fftshift(np.fft.fft(np.eye(n), axis=0), axes=0)
    np.testing.assert_allclose(matrix[0] + 1j * matrix[1], exact, atol=1e-7)
