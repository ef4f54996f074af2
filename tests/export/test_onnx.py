"""The translation to ONNX: four graphs that agree with autograd on shapes that tracing never saw."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from engine.backends.bundle import PROGRAM, WEIGHTS
from export.write.graphs import write_graphs
from networks import Architecture, NCSNpp

GRAPHS = ("denoise", "adjoint", "linearize", "pullback")
SMALL = Architecture(nf=8, ch_mult=(1, 2), n_res_blocks=1, attention_levels=(1,), sigma_max=50.0, n_scales=20)
#: float32 against float64: rounding of some twenty layers forward, and as many again backward.
X0_BOUND, PULLBACK_BOUND = 1e-5, 1e-4

FAST = {
    "biggan-fir-residual": replace(SMALL, progressive_input="residual"),
    "ddpm-box-skips-cat": replace(
        SMALL,
        resblock="ddpm",
        fir=False,
        progressive="output_skip",
        progressive_input="input_skip",
        progressive_combine="cat",
    ),
    "three-levels-centered": replace(
        SMALL,
        ch_mult=(1, 1, 2),
        attention_levels=(0, 2),
        progressive="residual",
        centered=True,
        skip_rescale=False,
        scale_by_sigma=False,
        sigma_max=2.0,
    ),
}


def _sweep() -> dict[str, Architecture]:
    found = {}
    pyramids = itertools.product(
        ("none", "output_skip", "residual"),
        (("none", "sum"), ("input_skip", "sum"), ("input_skip", "cat"), ("residual", "sum")),
    )
    # Residual block and filter take turns, so that each meets every pyramid.
    kinds = itertools.cycle([("biggan", True), ("ddpm", False), ("biggan", False), ("ddpm", True), ("biggan", True)])
    for (progressive, (progressive_input, combine)), (resblock, fir) in zip(pyramids, kinds, strict=False):
        name = f"{resblock}-out_{progressive}-in_{progressive_input}_{combine}-{'fir' if fir else 'box'}"
        found[name] = replace(
            SMALL,
            resblock=resblock,
            fir=fir,
            progressive=progressive,
            progressive_input=progressive_input,
            progressive_combine=combine,
        )
    for fir in (True, False):
        found[f"ddpm-without-conv-{'fir' if fir else 'box'}"] = replace(
            SMALL, resblock="ddpm", resample_with_conv=False, fir=fir
        )
    found["one-level"] = replace(SMALL, ch_mult=(1,), attention_levels=(0,), n_res_blocks=2)
    found["four-levels"] = replace(SMALL, ch_mult=(1, 2, 2, 2), progressive_input="residual")
    return found


SWEEP = _sweep()


def random_network(architecture: Architecture) -> NCSNpp:
    """A network in which no layer is at the zeros from which training starts."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = NCSNpp(architecture)
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape)
    return network.eval().requires_grad_(False)


def write(architecture: Architecture, folder: Path) -> NCSNpp:
    network = random_network(architecture)
    with torch.no_grad():
        write_graphs(network, folder, with_adjoint=True)
    return network


def session(folder: Path, graph: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(str(folder / f"{graph}.onnx"), options, providers=["CPUExecutionProvider"])


def error(ours: np.ndarray, exact: np.ndarray) -> float:
    assert ours.dtype == np.float32
    assert ours.shape == exact.shape
    return float(np.linalg.norm(ours - exact) / np.linalg.norm(exact))


def assert_agrees_with_autograd(architecture: Architecture, folder: Path) -> None:
    network = write(architecture, folder).double()
    sessions = {name: session(folder, name) for name in GRAPHS}
    d, generator = architecture.divisor, np.random.default_rng(0)
    # Traced at 2 × 4d × 6d: none of these sizes agrees with it, one is a single image, one is higher than wide.
    for (n, h, w), sigma in zip(
        ((1, 8 * d, 8 * d), (3, 9 * d, 5 * d), (5, 3 * d, 7 * d)),
        (architecture.sigma_min, 0.4, architecture.sigma_max),
        strict=True,
    ):
        x = (generator.random((n, 1, 1, 1)) + sigma * generator.standard_normal((n, 1, h, w))).astype(np.float32)
        # A level of its own for every image.
        sigmas = (sigma * np.linspace(1, 0.5, n)).clip(architecture.sigma_min).astype(np.float32)
        cotangent = generator.standard_normal(x.shape).astype(np.float32)
        z = torch.from_numpy(x).double().requires_grad_()
        x0_exact = network.denoise(z, torch.from_numpy(sigmas).double())
        (pullback_exact,) = torch.autograd.grad(x0_exact, z, torch.from_numpy(cotangent).double())
        exact = x0_exact.detach().numpy(), pullback_exact.numpy()

        feeds = {"x": x, "sigma": sigmas}
        (denoised,) = sessions["denoise"].run(["x0"], feeds)
        adjoint = sessions["adjoint"].run(["x0", "pullback"], {**feeds, "cotangent": cotangent})
        names = [o.name for o in sessions["linearize"].get_outputs()]
        x0, *tape = sessions["linearize"].run(names, feeds)
        assert names[0] == "x0"
        pulled = sessions["pullback"].run(
            ["pullback"], {"cotangent": cotangent, **dict(zip(names[1:], tape, strict=True))}
        )[0]
        # x̂₀ = x + σ·raw cancels at high noise: one rounding of x is added.
        x0_bound = X0_BOUND + np.finfo(np.float32).eps * np.linalg.norm(x) / np.linalg.norm(exact[0])
        for ours in (denoised, adjoint[0], x0):
            assert error(ours, exact[0]) <= x0_bound, (n, h, w)
        for ours in (adjoint[1], pulled):
            assert error(ours, exact[1]) <= PULLBACK_BOUND, (n, h, w)
        # Without the network x̂₀ would be x, and the pullback the cotangent; as good as true at the lowest level.
        if sigma > architecture.sigma_min:
            assert error(x, exact[0]) > 100 * x0_bound
            assert error(cotangent, exact[1]) > 10 * PULLBACK_BOUND


@pytest.mark.parametrize("architecture", FAST.values(), ids=FAST.keys())
def test_graphs_agree_with_autograd(architecture, tmp_path):
    assert_agrees_with_autograd(architecture, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SWEEP.values(), ids=SWEEP.keys())
def test_graphs_of_every_kind_agree_with_autograd(architecture, tmp_path):
    assert_agrees_with_autograd(architecture, tmp_path)


# --- what is in the files


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Graphs of a network whose weights outweigh the graphs."""
    folder = tmp_path_factory.mktemp("graphs")
    write(replace(SMALL, nf=16, ch_mult=(2, 4), progressive_input="residual"), folder)
    return folder


@pytest.fixture(scope="module")
def models(written) -> dict[str, onnx.ModelProto]:
    return {name: onnx.load(written / f"{name}.onnx", load_external_data=False) for name in GRAPHS}


@pytest.mark.parametrize("graph", GRAPHS)
def test_graphs_are_plain_valid_onnx(written, models, graph):
    onnx.checker.check_model(str(written / f"{graph}.onnx"), full_check=True)
    model = models[graph]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    assert {node.domain for node in model.graph.node} == {""}
    kinds = {node.op_type for node in model.graph.node}
    assert kinds.isdisjoint({"Pad", "Einsum", "ScatterND", "If", "Loop", "Scan"})
    assert "Conv" in kinds
    assert len(model.functions) == 0


def test_inputs_and_outputs_are_as_promised(models):
    names = {k: ([i.name for i in m.graph.input], [o.name for o in m.graph.output]) for k, m in models.items()}
    assert names["denoise"] == (["x", "sigma"], ["x0"])
    assert names["adjoint"] == (["x", "sigma", "cotangent"], ["x0", "pullback"])
    inputs, outputs = names["linearize"]
    assert inputs == ["x", "sigma"]
    tape = outputs[1:]
    assert outputs[0] == "x0"
    assert len(tape) > 0
    assert names["pullback"] == (["cotangent", *tape], ["pullback"])


def test_batch_height_and_width_are_free(models):
    for model in models.values():
        for value in (*model.graph.input, *model.graph.output):
            sizes = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            if value.name == "sigma":
                assert isinstance(sizes[0], str)
            elif not value.name.startswith("tape_"):
                assert sizes[1] == 1
                assert all(isinstance(sizes[axis], str) for axis in (0, 2, 3)), (value.name, sizes)


def stored_in(model: onnx.ModelProto) -> set[tuple[int, int]]:
    """Offset and length of every tensor that a graph keeps in the weights file."""
    found = set()
    for tensor in model.graph.initializer:
        entries = {e.key: e.value for e in tensor.external_data}
        if entries:
            assert entries["location"] == WEIGHTS
            found.add((int(entries["offset"]), int(entries["length"])))
    return found


def test_graphs_share_one_weights_file(written, models):
    assert {p.name for p in written.iterdir()} == {PROGRAM, WEIGHTS, *(f"{g}.onnx" for g in GRAPHS)}
    size = (written / WEIGHTS).stat().st_size
    places = {name: stored_in(model) for name, model in models.items()}
    for offset, length in set().union(*places.values()):
        assert offset % (4096 if length >= 4096 else 64) == 0
        assert offset + length <= size
    # The forward graph alone needs most of it: going backward adds less than a fifth.
    forward = sum(length for _, length in places["denoise"])
    added = sum(length for _, length in places["adjoint"] - places["denoise"])
    assert 0 < added < 0.2 * forward or added == 0
    assert places["linearize"] == places["denoise"]
    assert places["pullback"] <= places["adjoint"]
    # Every distinct tensor is there once, larger ones at the beginning of a page; the native program shares them.
    program = json.loads((written / PROGRAM).read_text())
    layers = [*program["vectors"], *program["images"]]
    arrays = [layer[key] for layer in layers for key in ("weight", "bias") if key in layer]
    native = {(array["offset"], 4 * math.prod(array["shape"])) for array in arrays}
    assert native & places["denoise"]
    stored = native.union(*places.values())
    assert size < sum(length + (4096 if length >= 4096 else 64) for _, length in stored)


def test_the_same_network_gives_the_same_files(written, tmp_path):
    write(replace(SMALL, nf=16, ch_mult=(2, 4), progressive_input="residual"), tmp_path)
    for file in written.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_exporting_leaves_the_network_as_it_was(tmp_path):
    network = random_network(FAST["biggan-fir-residual"])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        write_graphs(network, tmp_path)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
