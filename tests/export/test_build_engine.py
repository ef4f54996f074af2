"""The command line that builds bundles: whole or not at all, and only when something changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from engine import demo
from engine.backends.bundle import MANIFEST, Bundle, sha256_of
from export import build_engine as command
from export import verify
from export.build_engine import main
from export.write import graphs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoints, tmp_path_factory) -> Path:
    """The coronal checkpoint without its plane, as the reference implementation writes them."""
    stored = torch.load(tiny_checkpoints["coronal"], weights_only=True)
    del stored["plane"]
    file = tmp_path_factory.mktemp("plain") / "tiny.pth"
    torch.save(stored, file)
    return file


@pytest.fixture
def no_building(monkeypatch):
    """Let a test fail, quickly, where the command should stop before it builds."""

    def building(*args: object, **kwargs: object) -> None:
        raise AssertionError("the command began to build")

    monkeypatch.setattr(graphs, "write_graphs", building)


def refused(capsys, arguments: list[object]) -> str:
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("build_engine: ")
    assert ": expected " in lines[0]
    assert "; " in lines[0]
    return lines[0].removeprefix("build_engine: ")


def content(folder: Path) -> dict[str, str]:
    return {p.name: sha256_of(p) for p in folder.iterdir()}


def test_build_rebuild_and_force(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--ckpt", str(checkpoint)]

    assert main([*arguments, "--dry-run"]) == 0
    assert "would build engines/tiny from" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []

    assert main(arguments) == 0
    assert "wrote engines/tiny" in capsys.readouterr().out
    out = tmp_path / "engines" / "tiny"
    assert [p.name for p in out.parent.iterdir()] == ["tiny"]
    bundle = Bundle.open(out)
    manifest = bundle.manifest
    assert bundle.plane is None
    assert manifest["name"] == "tiny"
    assert manifest["checkpoint"] == {"file": "tiny.pth", "sha256": sha256_of(checkpoint), "ema": True, "step": 0}
    assert all(row["split_pullback"] <= manifest["verification"]["bounds"]["pullback"]
               for row in manifest["verification"]["rows"])  # fmt: skip
    assert {"torch", "onnx", "onnxruntime", "tpdm-engine"} <= set(manifest["versions"])
    assert "adjoint.onnx" not in manifest["files"]
    built = content(out)

    with monkeypatch.context() as patch:
        patch.setattr(graphs, "write_graphs", lambda *_: pytest.fail("an up-to-date bundle was built again"))
        assert main(arguments) == 0
        assert capsys.readouterr().out.strip() == "engines/tiny is up to date"
        assert main([*arguments, "--force", "--dry-run"]) == 0
        assert "would build" in capsys.readouterr().out
    assert content(out) == built

    # Another set of weights in the same place: the earlier bundle is out of date.
    assert main([*arguments, "--no-ema"]) == 0
    last = Bundle.open(out).manifest
    assert last["checkpoint"]["ema"] is False
    assert last["files"]["weights.bin"] != manifest["files"]["weights.bin"]
    assert [p.name for p in out.parent.iterdir()] == ["tiny"]

    # A damaged bundle is not up to date, nor is it kept.
    (out / "denoise.onnx").write_bytes(b"damaged")
    assert main([*arguments, "--no-ema", "--dry-run"]) == 0
    assert "would build" in capsys.readouterr().out
    assert main([*arguments, "--force"]) == 0
    assert Bundle.open(out).manifest["files"] == manifest["files"]


def test_the_whole_adjoint_is_written_and_verified_on_request(checkpoint, tmp_path, capsys):
    out, arguments = tmp_path / "bundle", ["--ckpt", str(checkpoint), "--out", str(tmp_path / "bundle")]
    assert main([*arguments, "--with-adjoint"]) == 0
    assert "adjoint pullback" in capsys.readouterr().out
    manifest = Bundle.open(out).manifest
    bounds, rows = (manifest["verification"][name] for name in ("bounds", "rows"))
    assert manifest["files"]["adjoint.onnx"] == sha256_of(out / "adjoint.onnx")
    assert all(0 < row["adjoint_pullback"] <= bounds["pullback"] for row in rows)
    # Without the option it is another bundle.
    assert main([*arguments, "--dry-run"]) == 0
    assert "would build" in capsys.readouterr().out


def test_plane_margin_and_out_are_taken_from_the_command_line(checkpoint, tmp_path, capsys):
    out = tmp_path / "deeper" / "bundle"
    assert main(["--ckpt", str(checkpoint), "--out", str(out), "--plane", "2,0,1", "--margin", "3"]) == 0
    assert str(Bundle.open(out).plane) == "axial"
    assert Bundle.open(out).margin == 3
    assert [p.name for p in out.parent.iterdir()] == ["bundle"]
    assert capsys.readouterr().err == ""
    # Without its plane it would be another bundle.
    assert main(["--ckpt", str(checkpoint), "--out", str(out), "--dry-run"]) == 0
    assert "would build" in capsys.readouterr().out


def test_a_stored_plane_wins_over_none_and_conflicts_with_another(tiny_bundles, tmp_path, capsys, no_building):
    stored = tiny_bundles["axial"]
    assert str(Bundle.open(stored.folder).plane) == "axial"
    line = refused(capsys, ["--ckpt", stored.checkpoint, "--out", tmp_path / "out", "--plane", "coronal"])
    assert line.startswith("plane: expected axial")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("margin", [-1, 65])
def test_a_margin_out_of_range_is_refused(checkpoint, tmp_path, capsys, no_building, margin):
    arguments = ["--ckpt", checkpoint, "--out", tmp_path / "out", "--margin", str(margin)]
    assert refused(capsys, arguments).startswith("margin: expected 0 to 64 pixels")


@pytest.mark.parametrize("plane", ["frontal", "0,0,1", "1"])
def test_what_is_no_plane_is_refused(checkpoint, tmp_path, capsys, no_building, plane):
    arguments = ["--ckpt", checkpoint, "--out", tmp_path / "out", "--plane", plane]
    assert refused(capsys, arguments).startswith("plane: ")
    assert list(tmp_path.iterdir()) == []


def _missing(file: Path, good: Path) -> None:
    pass


def _folder(file: Path, good: Path) -> None:
    file.mkdir()


def _empty(file: Path, good: Path) -> None:
    file.write_bytes(b"")


def _truncated(file: Path, good: Path) -> None:
    file.write_bytes(good.read_bytes()[:-1000])


def _text(file: Path, good: Path) -> None:
    file.write_text("not a checkpoint\n")


def _classifier(file: Path, good: Path) -> None:
    torch.save({"model": {"fc.weight": torch.zeros(2, 2)}, "step": 1}, file)


def _nothing_in_it(file: Path, good: Path) -> None:
    torch.save({"weights": {}}, file)


def _nan(file: Path, good: Path) -> None:
    stored = torch.load(good, weights_only=True)
    stored["ema"]["shadow_params"][3][0] = float("nan")
    torch.save(stored, file)


def _short_average(file: Path, good: Path) -> None:
    stored = torch.load(good, weights_only=True)
    stored["ema"]["shadow_params"].pop()
    torch.save(stored, file)


DAMAGES = [_missing, _folder, _empty, _truncated, _text, _classifier, _nothing_in_it, _nan, _short_average]


def test_other_things_than_a_checkpoint_are_named(checkpoint, tmp_path, capsys, no_building):
    """The formats themselves: `tests/networks/test_checkpoint.py`."""
    arguments = ["--out", tmp_path / "out", "--ckpt"]
    (tmp_path / "folder").mkdir()
    line = refused(capsys, [*arguments, tmp_path / "folder"])
    assert line == f"ckpt: expected a checkpoint file, got a folder at '{tmp_path / 'folder'}'; give the file in it"
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        archive.writestr("scan.dcm", "image")
    line = refused(capsys, [*arguments, tmp_path / "scan.zip"])
    assert line.startswith(f"ckpt: expected a PyTorch checkpoint, got a zip archive, '{tmp_path / 'scan.zip'}'; give ")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__.strip("_"))
def test_checkpoints_that_cannot_be_used_are_refused(checkpoint, tmp_path, capsys, no_building, damage):
    file = tmp_path / "bad.pth"
    damage(file, checkpoint)
    before = sorted(tmp_path.iterdir())
    assert refused(capsys, ["--ckpt", file, "--out", tmp_path / "out"]).startswith("ckpt: ")
    assert sorted(tmp_path.iterdir()) == before


def test_graphs_that_fail_verification_leave_nothing(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verify, "BOUNDS", {"x0": -1.0, "pullback": 0.0})
    out = tmp_path / "out"
    line = refused(capsys, ["--ckpt", checkpoint, "--out", out])
    assert line.startswith("ckpt: expected relative errors of at most")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["adjoint", "native"])
def test_verification_sees_a_wrong_graph(checkpoint, tmp_path, capsys, monkeypatch, what):
    """A lowering whose group norms are off by a part in a thousand is not shipped, be it of graphs or program."""
    from export.trace import adjoint, lowering
    from export.write import native

    def wrong(network):
        lowered = lowering.lower(network)
        for module in lowered.modules():
            if isinstance(module, lowering.LoweredGroupNorm):
                module.weight = torch.nn.Parameter(module.weight * 1.001, requires_grad=False)
        return lowered

    monkeypatch.setattr({"adjoint": adjoint, "native": native}[what], "lower", wrong)
    assert refused(capsys, ["--ckpt", checkpoint, "--out", tmp_path / "out"]).startswith("ckpt: expected relative")
    assert list(tmp_path.iterdir()) == []


# Compiling a bundle takes no PyTorch.
@pytest.mark.parametrize(("source", "missing"), [("--ckpt", "torch"), ("--ckpt", "onnx"), ("--bundle", "onnx")])
def test_without_the_packages_of_the_exporter_one_sentence_names_them(checkpoint, tmp_path, source, missing):
    """In an installation for runs alone: a process of its own, because here they are loaded already."""
    bundle = demo.bundle_folder("axial")
    arguments = ["--ckpt", str(checkpoint), "--out", str(tmp_path / "out")]
    if source == "--bundle":
        arguments = ["--bundle", str(bundle), "--backend", "tensorrt"]
    # As in an environment without the package: no module, and no metadata of its distribution.
    hide = (
        "import sys; from importlib import metadata; real = metadata.version\n"
        f"class Finder:\n    def find_spec(self, name, *_):\n        if name.split('.')[0] == {missing!r}:\n"
        f"            raise ModuleNotFoundError('none', name={missing!r})\n"
        f"def version(name):\n    if name == {missing!r}: raise metadata.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "metadata.version = version; sys.meta_path.insert(0, Finder())\n"
        "from export.build_engine import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", hide, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "expected the packages of the extra `export`, got no " in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "over an earlier bundle"])
def test_an_interrupt_leaves_what_was_there(checkpoint, tiny_bundles, tmp_path, monkeypatch, earlier):
    out = tmp_path / "out"
    if earlier:
        shutil.copytree(tiny_bundles["axial"].folder, out)
    before = content(out) if earlier else {}

    def interrupted(network: object, folder: Path, with_adjoint: bool) -> None:
        (folder / "denoise.onnx").write_bytes(b"half a graph")
        raise KeyboardInterrupt

    monkeypatch.setattr(graphs, "write_graphs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.build_engine(checkpoint, out)
    assert [p.name for p in tmp_path.iterdir()] == (["out"] if earlier else [])
    if earlier:
        assert content(out) == before
        Bundle.open(out)


def test_an_interrupt_ends_the_command_without_a_traceback(checkpoint, tmp_path, monkeypatch, capsys):
    def interrupted(network: object, folder: Path, with_adjoint: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(graphs, "write_graphs", interrupted)
    assert main(["--ckpt", str(checkpoint), "--out", str(tmp_path / "out")]) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_something_else_is_refused(checkpoint, tmp_path, capsys, no_building):
    """Refused before anything is built: a build takes a minute for a network of the published size."""
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    file.write_text("mine")
    for out in (folder, file, file / "deeper"):
        assert refused(capsys, ["--ckpt", checkpoint, "--out", out]).startswith("out: ")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder", "notes.txt"]
    assert MANIFEST not in {p.name for p in folder.iterdir()}


def test_an_empty_folder_is_a_fine_output(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    assert main(["--ckpt", str(checkpoint), "--out", str(tmp_path / "out")]) == 0
    Bundle.open(tmp_path / "out")
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["key"]
