"""Half precision: which operators have it, how far its results are off, and what stays in float32 where they are too
far."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from engine.backends.bundle import Bundle
from engine.demo import bundle_folder
from engine.errors import InputError
from export.build_engine import build_engine
from export.half import reduced
from export.half.cotangent import with_bounded_cotangent
from export.half.emulation import Runner, observe, rounding, rounding_products
from export.half.precision import HALF_TYPES, convert, load
from export.half.reduced import reduce
from export.tensorrt.guided import INPUTS, compose

HALVES = tuple(HALF_TYPES)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(bundle_folder("axial"))


@pytest.fixture(scope="module")
def graphs(bundle) -> dict[str, reduced.Reduced]:
    return {precision: reduce(bundle, precision) for precision in HALVES}


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of all values, by ONNX's own inference, which refuses an operator with mixed ones."""
    found = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    infos = (*found.graph.value_info, *found.graph.input, *found.graph.output)
    types = {i.name: i.type.tensor_type.elem_type for i in infos}
    return types | {t.name: t.data_type for t in model.graph.initializer}


# --- what the graphs are like


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("graph", ["denoise", "linearize", "pullback"])
def test_every_operator_has_the_precision_of_the_rule(graphs, precision, graph):
    model, half = graphs[precision].models["pullback"], HALF_TYPES[precision]
    assert graphs[precision].float32_layers == []
    onnx.checker.check_model(model, full_check=True)
    types = types_of(model)
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    in_half = [n for n in convolutions if types[n.output[0]] == half]
    # Those that read or write one channel: the first, the last, and the input pyramid's.
    assert len(convolutions) > len(in_half) > 0.8 * len(convolutions)
    for node in in_half:
        assert {types[v] for v in node.input} == {half}
    for node in model.graph.node:
        if node.op_type in ("ReduceMean", "ReduceSum", "Softmax", "Sqrt", "Reciprocal", "Sin", "Cos", "Log", "Gemm"):
            assert types[node.output[0]] == TensorProto.FLOAT, node.op_type
        if node.op_type == "MatMul":
            assert types[node.output[0]] == half
    for info in (*model.graph.input, *model.graph.output):
        image_sized = info.name.startswith("tape") and len(info.type.tensor_type.shape.dim) in (3, 4)
        if not info.name.startswith("tape"):
            assert types[info.name] == TensorProto.FLOAT, info.name
        elif image_sized and not all(d.dim_value for d in list(info.type.tensor_type.shape.dim)[1:]):
            assert types[info.name] == half, info.name


@pytest.mark.parametrize("precision", HALVES)
def test_weights_are_stored_once_in_the_type_of_their_use(graphs, precision):
    model = graphs[precision].models["denoise"]
    large = [t for t in model.graph.initializer if np.prod(t.dims) > 1000]
    assert len({t.name.removesuffix(f"_{precision}") for t in large}) == len(large)
    n_half = sum(int(np.prod(t.dims)) for t in large if t.data_type == HALF_TYPES[precision])
    assert n_half > 0.9 * sum(int(np.prod(t.dims)) for t in large)


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("name", INPUTS)
def test_the_operator_of_a_guided_graph_stays_float32(graphs, precision, name):
    models = graphs[precision].models
    model = compose(name, models["linearize"], models["pullback"])
    types = types_of(model)
    own = [n for n in model.graph.node if n.name.startswith("operator_")]
    assert sum(n.op_type == "MatMul" for n in own) >= 2
    assert {types[v] for n in own for v in n.output} == {TensorProto.FLOAT}
    assert HALF_TYPES[precision] in types.values()


def test_fp32_leaves_the_graphs_alone(bundle):
    found = reduce(bundle, "fp32")
    assert found.float32_layers == []
    assert found.models["pullback"] == onnx.load(bundle.folder / "pullback.onnx")


# --- what their results are like


@pytest.mark.parametrize("precision", ["tf32", *HALVES])
def test_errors_are_those_of_the_precision(bundle, graphs, precision):
    verification = (graphs[precision] if precision in HALVES else reduce(bundle, precision)).verification
    rows, bounds = verification["rows"], verification["bounds"]
    assert len({row["sigma"] for row in rows}) == 5
    unit = reduced.ROUNDING[precision]
    for row in rows:
        for name in ("denoise_x0", "split_x0"):
            # More than a tenth of one rounding: it did round.
            assert 0.1 * unit < row[name] <= bounds["x0"], (name, row)
        assert 0.1 * unit < row["split_pullback"] <= bounds["pullback"], row
    assert bounds == {"x0": 20 * unit, "pullback": 40 * unit}


def test_emulated_fp16_equals_real_fp16(graphs):
    """ONNX Runtime has fp16 operators; where it leaves out a rounding its results are closer, not elsewhere."""
    model = graphs["fp16"].models["denoise"]
    rng = np.random.default_rng(3)
    feeds = {"x": rng.random((2, 1, 16, 24), dtype=np.float32), "sigma": np.array([0.05, 2], np.float32)}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    (real,) = session.run(["x0"], feeds)
    emulated = Runner(rounding(model))(feeds)["x0"]
    change = np.linalg.norm(emulated - feeds["x"])
    assert np.linalg.norm(real - emulated) < 5 * reduced.ROUNDING["fp16"] * change


@pytest.mark.parametrize("precision", HALVES)
def test_one_operator_is_rounded_as_pytorch_rounds_it(precision):
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((1, 8, 9, 9)), rng.standard_normal((4, 8, 3, 3))
    half, dtype = HALF_TYPES[precision], {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Mul", ["c", "c"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", half, ["n", 8, "h", "w"])],
        [helper.make_tensor_value_info("y", half, ["n", 4, "a", "b"])],
        [numpy_helper.from_array(w.astype(helper.tensor_dtype_to_np_dtype(half)), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    rounded = torch.from_numpy(x).to(dtype)
    ours = Runner(rounding(model))({"x": rounded.float().numpy()})["y"]
    products = torch.nn.functional.conv2d(rounded.float(), torch.from_numpy(w).to(dtype).float()).to(dtype)
    expected = (products.float() ** 2).to(dtype).float().numpy()
    # Sums in another order fall on the other side of a rounding now and then.
    assert np.mean(ours != expected) < 0.02
    np.testing.assert_allclose(ours, expected, rtol=4 * reduced.ROUNDING[precision])


def test_tf32_operands_keep_ten_bits():
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "m"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2]),
         helper.make_tensor_value_info("m", TensorProto.FLOAT, [2, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    run = Runner(rounding_products(model))
    ones = np.ones((2, 1), np.float32)
    kept, lost = np.float32(1 + 2.0**-10), np.float32(1 + 2.0**-12)
    assert run({"x": np.array([[kept, 0]], np.float32), "m": ones})["y"] == kept
    assert run({"x": np.array([[lost, 0]], np.float32), "m": ones})["y"] == 1


@pytest.mark.parametrize("name", INPUTS)
def test_split_products_are_float32_on_hardware_that_rounds_to_tf32(bundle, name):
    """The operator's part alone: its norms hardly change, where they do without the splitting."""
    parts = [load(bundle.folder / f"{part}.onnx") for part in ("linearize", "pullback")]
    rng = np.random.default_rng(5)
    h, w = 16, 20
    k = np.arange(w)
    dft = np.exp(-2j * np.pi * np.outer(k - w // 2, k) / w)
    rows = np.exp(-2j * np.pi * np.outer(np.arange(h) - h // 2, np.arange(h)) / h)
    shapes = {"mask": (h, w), "measurement": (1, 2, h, w), "mean": (4, h)}
    if name == "guided_thick_rows":
        shapes |= {"measurement": (1, 1, 4, w), "noise": (1, 1, 4, w)}
    elif name == "guided_thick_columns":
        shapes |= {"measurement": (1, 1, h, 4), "noise": (1, 1, h, 4), "mean": (4, w)}
    feeds = {k: rng.standard_normal(shape).astype(np.float32) for k, shape in shapes.items()}
    feeds |= {
        "x": rng.random((1, 1, h, w), dtype=np.float32),
        "sigma": np.full(1, 0.01, np.float32),
        "scale": np.ones(1, np.float32),
        "dft_rows": np.stack([rows.real, rows.imag]).astype(np.float32),
        "dft_columns": np.stack([dft.real, dft.imag]).astype(np.float32),
    }

    exact = Runner(compose(name, *parts))(feeds)["pullback"]

    def error(split: bool) -> float:
        model = compose(name, *parts, split_products=split)
        nodes = {own: [n for n in model.graph.node if n.name.startswith("operator_") is own] for own in (True, False)}
        # The network stays exact: what is left is the operator's own rounding.
        del model.graph.node[:]
        model.graph.node.extend(nodes[True])
        model = rounding_products(model)
        at = next(i for i, n in enumerate(nodes[False]) if n.name.startswith("backward_"))
        nodes[True] = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*nodes[False][:at], *nodes[True], *nodes[False][at:]])
        return float(np.linalg.norm(Runner(model)(feeds)["pullback"] - exact) / np.linalg.norm(exact))

    assert error(split=True) < 1e-5 < error(split=False)


def test_bounded_cotangents_change_nothing_but_the_range(bundle):
    models = {name: load(bundle.folder / f"{name}.onnx") for name in ("linearize", "pullback")}
    rng = np.random.default_rng(6)
    feeds = {
        "x": rng.random((3, 1, 16, 20), dtype=np.float32),
        "sigma": np.array([0.01, 1, 50], np.float32),
        "cotangent": rng.standard_normal((3, 1, 16, 20)).astype(np.float32)
        * np.float32([1e6, 1e-6, 0])[:, None, None, None],
    }
    feeds |= Runner(models["linearize"])(feeds)
    plain = Runner(models["pullback"])(feeds)["pullback"]
    bounded = Runner(with_bounded_cotangent(models["pullback"]))(feeds)["pullback"]
    for ours, expected in zip(bounded, plain, strict=True):
        assert np.linalg.norm(ours - expected) <= 1e-5 * np.linalg.norm(expected)
    assert not bounded[2].any()


@pytest.mark.parametrize("precision", HALVES)
def test_cotangents_of_any_size_survive_half_precision(graphs, precision):
    """An unnormalised transform makes them as large as 10⁸, beyond what fp16 holds."""
    forward, backward = (Runner(rounding(graphs[precision].models[name])) for name in ("linearize", "pullback"))
    rng = np.random.default_rng(7)
    feeds = {
        "x": rng.random((1, 1, 16, 16), dtype=np.float32),
        "sigma": np.ones(1, np.float32),
        "cotangent": rng.standard_normal((1, 1, 16, 16)).astype(np.float32),
    }
    feeds |= forward(feeds)
    expected = backward(feeds)["pullback"]
    # Powers of two: not a bit changes.
    for scale in (2.0**27, 2.0**-27):
        ours = backward({**feeds, "cotangent": feeds["cotangent"] * np.float32(scale)})["pullback"]
        np.testing.assert_array_equal(ours, expected * np.float32(scale))


# --- the fall-back


@pytest.fixture(scope="module")
def overflowing(tiny_checkpoints, tmp_path_factory) -> Bundle:
    """A network one of whose convolutions gives 10⁶ and more; the normalisation after it makes it harmless."""
    from networks import load_checkpoint, save_checkpoint

    network, _ = load_checkpoint(tiny_checkpoints["axial"], ema=False)
    block = next(m for m in network.modules() if type(m).__name__ == "ResBlock")
    block.Conv_0.weight.data *= 1e5
    folder = tmp_path_factory.mktemp("overflowing")
    save_checkpoint(folder / "network.pth", network, [], plane=[2, 0, 1], image_size=16)
    build_engine(folder / "network.pth", folder / "bundle", ema=False)
    return Bundle.open(folder / "bundle")


def test_layers_beyond_the_range_of_fp16_stay_float32(overflowing):
    # Without the fall-back there is no result.
    model = load(overflowing.folder / "denoise.onnx")
    rng = np.random.default_rng(9)
    feeds = [
        {"x": rng.random((1, 1, side, side), dtype=np.float32), "sigma": np.ones(1, np.float32)} for side in (16, 20)
    ]
    values = observe(model, feeds)
    assert max(values.largest.values()) > 65504
    plain = Runner(rounding(convert(model, "fp16", values)))(feeds[0])["x0"]
    assert not np.isfinite(plain).all()

    found = reduce(overflowing, "fp16")
    n_layers = sum(len(m.graph.node) for m in found.models.values())
    assert 0 < len(found.float32_layers) < 0.2 * n_layers
    assert {name.split("/")[0] for name in found.float32_layers} == {"denoise", "linearize", "pullback"}
    nodes = {n.output[0]: n for n in found.models["denoise"].graph.node}
    kept = [nodes[name.split("/")[1]] for name in found.float32_layers if name.startswith("denoise/")]
    assert any(n.op_type == "Conv" for n in kept)
    types = types_of(found.models["denoise"])
    assert all(types[n.output[0]] == TensorProto.FLOAT for n in kept)
    assert sum(types[n.output[0]] == TensorProto.FLOAT16 for n in nodes.values() if n.op_type == "Conv") > 5
    assert found.verification["rows"]
    assert np.isfinite(Runner(rounding(found.models["denoise"]))(feeds[0])["x0"]).all()
    # bf16 has the range of float32.
    assert reduce(overflowing, "bf16").float32_layers == []


def test_the_search_stops_at_the_first_bound_that_holds(bundle, graphs, monkeypatch):
    worst = max(row["denoise_x0"] for row in graphs["fp16"].verification["rows"]) / reduced.ROUNDING["fp16"]
    monkeypatch.setattr(reduced, "BOUNDS", {"x0": 0.7 * worst, "pullback": 1e3})
    monkeypatch.setattr(reduced, "_CHAINS", (("denoise",),))
    search = [reduced._Search({"denoise": load(bundle.folder / "denoise.onnx")}, "fp16",
              reduced._probes(bundle, {n: load(bundle.folder / f"{n}.onnx") for n in ("linearize", "pullback")}))
              for _ in range(2)]  # fmt: skip
    bounds = {name: n * reduced.ROUNDING["fp16"] for name, n in reduced.BOUNDS.items()}
    rows = [s.run(bounds) for s in search]
    assert max(row["denoise_x0"] for row in rows[0]) <= bounds["x0"]
    kept = search[0].kept_names()
    assert kept == search[1].kept_names()
    n_half = sum(n == "Conv" for n in (node.op_type for node in search[0].models["denoise"].graph.node))
    assert 0 < sum("convolution" in name for name in kept) < n_half


def test_tf32_beyond_its_bound_is_refused(bundle, monkeypatch):
    monkeypatch.setattr(reduced, "BOUNDS", {"x0": 0.01, "pullback": 40.0})
    with pytest.raises(InputError, match=r"^precision: expected relative errors .*; choose fp32$"):
        reduce(bundle, "tf32")
