"""Compiled graphs: TensorRT for RTX reads and builds them without a GPU, and their folder is whole or not there."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engine.backends.bundle import MANIFEST, Bundle
from engine.backends.compiled import FOLDER, RECORD, Compiled, identity_of
from engine.backends.tensorrt_graphs import messages_of
from engine.demo import bundle_folder
from engine.errors import InputError
from engine.io import files
from export.build_engine import main
from export.half.reduced import Reduced, reduce
from export.tensorrt import build as tensorrt
from export.tensorrt import compile as compiling
from export.tensorrt.compile import compile_bundle
from export.tensorrt.settings import ALL_GRAPHS, Settings
from export.tensorrt.shapes import graph_of

PRECISIONS = ("fp32", "fp16", "bf16")
#: What is fast to compile and all that a runner has to have.
FEW = "denoise,linearize,pullback"


@pytest.fixture(scope="session")
def rtx() -> ModuleType:
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: the extra `tensorrt`")


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return Bundle.open(bundle_folder("axial"))


@pytest.fixture(scope="module")
def reduced(demo) -> dict[str, Reduced]:
    return {precision: reduce(demo, precision) for precision in (*PRECISIONS, "tf32")}


@pytest.fixture
def copy(tmp_path) -> Bundle:
    """A bundle of one's own to compile in."""
    shutil.copytree(bundle_folder("axial"), tmp_path / "axial", ignore=shutil.ignore_patterns(FOLDER))
    return Bundle.open(tmp_path / "axial")


@pytest.fixture
def no_compiler(monkeypatch):
    """Compile at once, to nothing that runs: for tests of what is around it."""
    built: list[str] = []

    def build(name: str, model: onnx.ModelProto, *_: object, **options: object) -> bytes:
        built.append(name)
        return f"{name} for {options['platform']}".encode()

    monkeypatch.setattr(compiling, "build", build)
    return built


def settings_for(bundle: Bundle, precision: str, **options: object) -> Settings:
    return Settings.checked(bundle, precision, **options)  # type: ignore[arg-type]


def layer_types(rtx: ModuleType, name: str, model: onnx.ModelProto) -> list[tuple[str, str, str, set[str]]]:
    """(layer, kind, type of its result, types of its inputs) of a graph as the library reads it."""
    logger = messages_of(rtx)
    builder = rtx.Builder(logger)
    network, parser = tensorrt.parse(name, model, builder, rtx, logger)
    found = []
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        inputs = {layer.get_input(i).dtype.name for i in range(layer.num_inputs) if layer.get_input(i) is not None}
        found.append((layer.name, layer.type.name, layer.get_output(0).dtype.name, inputs))
    assert parser.num_errors == 0
    return found


# --- the real compiler


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("graph", ALL_GRAPHS)
def test_the_library_reads_the_precisions_that_were_written(rtx, demo, reduced, graph, precision):
    model, _ = graph_of(graph, reduced[precision], settings_for(demo, precision, static=True))
    half = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}[precision]
    layers = layer_types(rtx, graph, model)
    convolutions = [layer for layer in layers if layer[1] == "CONVOLUTION"]
    assert sum(kind == half for _, _, kind, _ in convolutions) > 0.8 * len(convolutions) > 20
    for name, kind, result, inputs in layers:
        if kind == "REDUCE" and "ReduceMax" not in name:
            assert result == "FLOAT", name
        if kind == "CONVOLUTION":
            assert inputs == {result}, name
        if kind == "SOFTMAX" or ("operator_" in name and kind in ("MATRIX_MULTIPLY", "ELEMENTWISE")):
            assert result in ("FLOAT", "INT64"), name


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("graph", ["denoise", "linearize", "guided_fourier"])
def test_the_library_builds_the_demonstration_network(rtx, demo, reduced, graph, precision):
    settings = settings_for(demo, precision, static=True)
    model, shapes = graph_of(graph, reduced[precision], settings)
    assert shapes["x"] == [(4, 1, 64, 64)] * 3
    engine = tensorrt.build(graph, model, shapes, rtx, precision=precision)
    assert len(engine) > 1_000_000


def published(folder: Path) -> Bundle:
    """A random network of the published architecture, one residual block a level, as far as compiling needs it."""
    torch = pytest.importorskip("torch", reason="networks need PyTorch, of the extra `export`")
    from export.write.graphs import write_graphs
    from networks import NCSNpp
    from networks.architecture import PUBLISHED

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = NCSNpp(dataclasses.replace(PUBLISHED, n_res_blocks=1))
        for parameter in network.parameters():
            # No layer stays at the zeros from which training starts.
            parameter.data += 0.02 * torch.randn(parameter.shape)
        write_graphs(network, folder)
    a = network.architecture
    manifest = {"architecture": a.to_dict(), "divisor": a.divisor, "trained_size": 256, "files": {}}
    return Bundle(folder, manifest)


@pytest.mark.slow
def test_the_library_builds_the_published_architecture(rtx, tmp_path):
    """At 256², in its full width, with one residual block a level instead of four."""
    bundle = published(tmp_path)
    for precision in PRECISIONS:
        found, settings = reduce(bundle, precision), settings_for(bundle, precision, batch="1,2,4")
        for graph in ("denoise", "linearize", "guided_fourier"):
            model, shapes = graph_of(graph, found, settings)
            assert shapes["x"] == [(n, 1, 256, 256) for n in (1, 2, 4)]
            engine = tensorrt.build(graph, model, shapes, rtx, precision=precision)
            assert len(engine) > 1_000_000


@pytest.mark.cuda
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_inspector_shows_the_precisions(card, rtx, demo, reduced, precision):
    """What the library made of the graph: it shows that of engines that it has loaded, which takes a GPU."""
    model, shapes = graph_of("denoise", reduced[precision], settings_for(demo, precision))
    engine = tensorrt.build("denoise", model, shapes, rtx, precision=precision, detailed=True)
    loaded = rtx.Runtime(messages_of(rtx)).deserialize_cuda_engine(engine)
    assert loaded is not None
    shown = loaded.create_engine_inspector().get_engine_information(rtx.LayerInformationFormat.JSON)
    layers = json.loads(shown)["Layers"]
    half = {"fp32": "Float", "fp16": "Half", "bf16": "BFloat16"}[precision]
    assert half.lower() in json.dumps(layers).lower()


def test_an_interrupt_ends_the_build_and_leaves_what_was_there(rtx, copy, monkeypatch):
    settings = settings_for(copy, "fp32", static=True, graphs=FEW)
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "build", lambda name, *_, **__: name.encode())
        first, _ = compile_bundle(copy, settings, rtx)
    before = {p.name: p.read_bytes() for p in first.folder.iterdir()}

    class Bar:
        """As soon as the library reports a step, someone presses Ctrl-C."""

        def __init__(self, **_: object) -> None:
            self.steps = 0

        def reset(self, n_steps: int) -> None:
            pass

        def update(self) -> None:
            self.steps += 1
            if self.steps == 1:
                os.kill(os.getpid(), signal.SIGINT)

        def close(self) -> None:
            pass

    monkeypatch.setattr(tensorrt, "tqdm", Bar)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        compile_bundle(copy, settings, rtx, force=True)
    assert signal.getsignal(signal.SIGINT) is handler
    assert [p.name for p in first.folder.parent.iterdir()] == [first.folder.name]
    assert {p.name: p.read_bytes() for p in first.folder.iterdir()} == before


def test_a_graph_that_the_library_cannot_read_is_refused_with_its_words(rtx):
    image = ["n", 1, 8, 8]
    graph = helper.make_graph(
        [helper.make_node("Transmogrify", ["x"], ["y"])],
        "strange",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, image)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(InputError, match=r"^bundle: expected a graph that .* parser says: .*Transmogrify.*; build"):
        tensorrt.build("denoise", model, {"x": [(1, 1, 8, 8)] * 3}, rtx, precision="fp32")


def test_a_build_that_the_library_refuses_says_why(rtx, demo, reduced):
    """A profile that contradicts sizes fixed in the graph."""
    model, shapes = graph_of("denoise", reduced["fp32"], settings_for(demo, "fp32", static=True))
    wrong = {**shapes, "x": [(4, 1, 64, 72)] * 3}
    with pytest.raises(InputError, match=r"^backend: expected tensorrt_rtx to compile 'denoise' in fp32, got .*; try"):
        tensorrt.build("denoise", model, wrong, rtx, precision="fp32")


@pytest.mark.parametrize("platform", ["any", "sm86"])
def test_platforms_of_tensorrt_for_rtx(rtx, platform):
    assert tensorrt.platform_of(platform, rtx) == platform
    assert tensorrt.platform_of(None, rtx) == "any"
    with pytest.raises(InputError, match=r"^platform: expected any, .*sm86.*, got 'sm12'; "):
        tensorrt.platform_of("sm12", rtx)


# --- what is around it


def test_the_record_and_when_it_is_made_again(rtx, copy, no_compiler, reduced):
    settings = settings_for(copy, "fp16", batch="1,2,4")
    compiled, is_new = compile_bundle(copy, settings, rtx)
    assert is_new
    assert no_compiler == list(ALL_GRAPHS)
    assert compiled.folder == copy.folder / FOLDER / "tensorrt_rtx-fp16-any"
    assert {p.name for p in compiled.folder.iterdir()} == {RECORD, *(f"{name}.engine" for name in ALL_GRAPHS)}
    record = compiled.record
    assert record["library_version"] == rtx.__version__
    assert record["bundle"] == identity_of(copy)
    assert record["profile"] == {"batch": [1, 2, 4], "height": [64] * 3, "width": [64] * 3}
    assert record["float32_layers"] == []
    assert record["verification"]["rows"] == reduced["fp16"].verification["rows"]
    assert record["refit"] is False
    assert {"tpdm-engine", "onnx", "onnxruntime"} <= set(record["versions"])
    assert len({entry["source_sha256"] for entry in record["graphs"].values()}) == len(ALL_GRAPHS)
    # The bundle itself is as it was.
    assert Bundle.open(copy.folder).manifest == copy.manifest

    def built(settings: Settings, **options: bool) -> bool:
        no_compiler.clear()
        _, is_new = compile_bundle(copy, settings, rtx, **options)
        assert is_new is bool(no_compiler)
        return is_new

    assert not built(settings)
    assert built(settings, force=True)
    assert built(dataclasses.replace(settings, batch=(1, 2, 8)))
    assert built(dataclasses.replace(settings, batch=(1, 2, 8), refit=True))
    assert not built(dataclasses.replace(settings, batch=(1, 2, 8), refit=True))
    # A damaged file is none.
    (compiled.folder / "denoise.engine").write_bytes(b"damaged")
    assert built(dataclasses.replace(settings, batch=(1, 2, 8), refit=True))
    # Another platform has a folder of its own.
    assert built(dataclasses.replace(settings, platform="sm86"))
    names = {p.name for p in compiled.folder.parent.iterdir()}
    assert names == {"tensorrt_rtx-fp16-any", "tensorrt_rtx-fp16-sm86"}
    assert Compiled.open(copy.folder / FOLDER / "tensorrt_rtx-fp16-sm86", copy).platform == "sm86"


def test_sizes_of_the_tape_follow_from_those_of_the_image(demo, reduced):
    settings = settings_for(demo, "fp16", batch="1,2,3", height="32,48,64", width="64")
    _, shapes = graph_of("pullback", reduced["fp16"], settings)
    assert shapes["cotangent"] == [(1, 1, 32, 64), (2, 1, 48, 64), (3, 1, 64, 64)]
    feeds = {"x": np.zeros((2, 1, 48, 64), np.float32), "sigma": np.ones(2, np.float32)}
    from export.half.emulation import Runner

    tape = Runner(reduced["fp32"].models["linearize"])(feeds)
    for name, array in tape.items():
        if name != "x0":
            assert shapes[name][1] == array.shape, name
    model, shapes = graph_of("guided_thick_rows", reduced["fp16"], settings)
    assert shapes["mean"] == [(1, 32), (12, 48), (64, 64)]
    assert shapes["measurement"] == [(1, 1, 1, 64), (2, 1, 12, 64), (3, 1, 64, 64)]
    # What never changes is a number in the graph.
    sizes = {i.name: i.type.tensor_type.shape.dim for i in model.graph.input}
    assert [d.dim_value for d in sizes["x"]][1::2] == [1, 64]
    assert [bool(d.dim_param) for d in sizes["x"]] == [True, False, True, False]


def test_networks_of_one_architecture_call_their_weights_alike_where_refitted(demo):
    other = Bundle.open(bundle_folder("coronal"))
    names = []
    for bundle in (demo, other):
        settings = settings_for(bundle, "fp16", refit=True)
        model, _ = graph_of("denoise", reduce(bundle, "fp16"), settings)
        names.append({t.name: list(t.dims) for t in model.graph.initializer if t.data_type != TensorProto.INT64})
    assert names[0] == names[1]
    assert len(names[0]) > 100


@pytest.mark.parametrize(
    ("precision", "options", "argument"),
    [
        ("fp8", {}, "precision"),
        ("fp16", {"batch": "4,2,8"}, "batch"),
        ("fp16", {"batch": "0"}, "batch"),
        ("fp16", {"batch": "1,2"}, "batch"),
        ("fp16", {"batch": "many"}, "batch"),
        ("fp16", {"height": "62"}, "height"),
        ("fp16", {"width": "32,48,64", "static": True}, "width"),
        ("fp16", {"graphs": "denoise,noise"}, "graphs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(demo, precision, options, argument):
    with pytest.raises(InputError) as caught:
        Settings.checked(demo, precision, **options)
    message = str(caught.value)
    assert message.startswith(f"{argument}: expected ")
    assert ", got " in message
    assert "; " in message


def test_a_network_that_does_not_know_its_size_asks_for_it(demo):
    unknown = Bundle(demo.folder, {**demo.manifest, "trained_size": None})
    with pytest.raises(InputError, match=r"^height: expected the size of the slices"):
        Settings.checked(unknown, "fp32")
    assert Settings.checked(unknown, "fp32", height="32", width="64").width == (64, 64, 64)


def test_tensorrt_itself_compiles_for_the_card_at_hand_only(monkeypatch):
    classic = SimpleNamespace(__name__="tensorrt", __version__="10.0")
    monkeypatch.setattr(tensorrt, "_card", lambda: "sm90")
    assert tensorrt.platform_of(None, classic) == "sm90"
    assert tensorrt.platform_of("sm90", classic) == "sm90"
    for other in ("sm86", "any"):
        with pytest.raises(InputError, match=rf"^platform: expected sm90, the card at hand, .*, got '{other}'; "):
            tensorrt.platform_of(other, classic)


# --- the command line


def refused(capsys, arguments: list[object]) -> str:
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ": expected " in line
    return line.removeprefix("build_engine: ")


def test_a_bundle_is_compiled_without_its_checkpoint(rtx, copy, no_compiler, capsys):
    arguments = ["--bundle", str(copy.folder), "--backend", "tensorrt", "--precision", "bf16", "--batch", "2"]
    assert main([*arguments, "--dry-run"]) == 0
    assert "would compile" in capsys.readouterr().out
    assert not (copy.folder / FOLDER).exists()
    assert main(arguments) == 0
    assert f"wrote {copy.folder / FOLDER / 'tensorrt_rtx-bf16-any'}" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "up to date" in capsys.readouterr().out
    assert no_compiler == list(ALL_GRAPHS)


def test_a_checkpoint_is_exported_and_compiled(rtx, tiny_checkpoints, tmp_path, no_compiler):
    out = tmp_path / "out"
    arguments = ["--ckpt", str(tiny_checkpoints["axial"]), "--out", str(out), "--backend", "tensorrt"]
    assert main([*arguments, "--graphs", FEW]) == 0
    assert Compiled.open(out / FOLDER / "tensorrt_rtx-fp32-any", Bundle.open(out)).graphs == tuple(FEW.split(","))


def test_without_tensorrt_one_sentence_says_how_to_get_it(copy, capsys, monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    line = refused(capsys, ["--bundle", copy.folder, "--backend", "tensorrt"])
    assert line.startswith("backend: expected TensorRT, got neither")
    assert "pip install tensorrt-rtx-cu13" in line


@pytest.mark.parametrize("option", [("--precision", "fp16"), ("--static",), ("--platform", "sm86")], ids=lambda o: o[0])
def test_options_of_the_compiler_without_it_are_refused(copy, tmp_path, capsys, option):
    checkpoint = tmp_path / "network.pth"
    checkpoint.write_bytes(b"never read")
    line = refused(capsys, ["--ckpt", checkpoint, *option])
    assert "--backend tensorrt" in line


def test_bad_input_is_refused_before_anything_is_compiled(rtx, copy, tmp_path, capsys, no_compiler):
    backend = ["--backend", "tensorrt"]
    assert refused(capsys, ["--bundle", copy.folder]).startswith("bundle: ")
    assert refused(capsys, ["--bundle", tmp_path, *backend]).startswith("engine: ")
    assert refused(capsys, ["--bundle", copy.folder, *backend, "--precision", "fp12"]).startswith("precision: ")
    assert refused(capsys, ["--bundle", copy.folder, *backend, "--platform", "sm1"]).startswith("platform: ")
    # Something is where the folder should go.
    (copy.folder / FOLDER).write_text("mine")
    assert refused(capsys, ["--bundle", copy.folder, *backend]).startswith("out: ")
    assert no_compiler == []
    assert (copy.folder / FOLDER).read_text() == "mine"


@pytest.mark.parametrize(
    "option",
    [("--precision", "fp12"), ("--batch", "3,2,1"), ("--graphs", "denoise,other"), ("--height", "tall")],
    ids=lambda o: o[0],
)
def test_and_before_a_bundle_is_built(rtx, tmp_path, capsys, option):
    checkpoint = tmp_path / "network.pth"
    checkpoint.write_bytes(b"never read")
    line = refused(capsys, ["--ckpt", checkpoint, "--backend", "tensorrt", *option])
    assert line.startswith(f"{option[0].removeprefix('--')}: ")


@pytest.mark.parametrize("option", [("--plane", "axial"), ("--no-ema",), ("--out", "x"), ("--sigma-min", "1")], ids=str)
def test_options_of_the_exporter_say_nothing_of_a_bundle(copy, capsys, option):
    line = refused(capsys, ["--bundle", copy.folder, "--backend", "tensorrt", *option])
    assert line.startswith(f"{option[0].removeprefix('--')}: expected --ckpt with it, got --bundle")


def test_a_folder_of_something_else_is_left_alone(rtx, copy, capsys, no_compiler):
    theirs = copy.folder / FOLDER / "tensorrt_rtx-fp32-any"
    theirs.mkdir(parents=True)
    (theirs / "notes.txt").write_text("mine")
    line = refused(capsys, ["--bundle", copy.folder, "--backend", "tensorrt"])
    assert line.startswith("out: expected a new folder or compiled graphs")
    assert [p.name for p in theirs.iterdir()] == ["notes.txt"]


def test_a_full_disk_leaves_nothing(rtx, copy, no_compiler, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    assert main(["--bundle", str(copy.folder), "--backend", "tensorrt"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list((copy.folder / FOLDER).iterdir()) == []
    assert (copy.folder / MANIFEST).is_file()
