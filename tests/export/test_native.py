"""Networks as programs of native layers: every architecture, forward and backward, on every instruction set."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.backends.bundle import PROGRAM
from export.write.native import write_program
from export.write.weights import WeightStore
from kernels.network import Network, instruction_sets
from networks import Architecture, NCSNpp

#: float32 against float64, as for the ONNX graphs.
X0_BOUND, PULLBACK_BOUND = 1e-5, 1e-4


def compiled(network: NCSNpp, folder: Path, instructions: str = "") -> Network:
    weights = WeightStore(folder / "weights.bin")
    try:
        with torch.no_grad():
            write_program(network, folder, weights)
    finally:
        weights.close()
    return Network(folder / PROGRAM, weights.path, instructions)


def exact(network: NCSNpp, x: np.ndarray, sigma: float, cotangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x̂₀ and its pullback by autograd in float64."""
    tensor = torch.from_numpy(x)[:, None].double().requires_grad_()
    x0 = copy.deepcopy(network).double().denoise(tensor, torch.full((len(x),), sigma, dtype=torch.float64))
    (pulled,) = torch.autograd.grad(x0, tensor, torch.from_numpy(cotangent)[:, None].double())
    return x0.detach().numpy()[:, 0], pulled.numpy()[:, 0]


def check(network: NCSNpp, native: Network, shape: tuple[int, int, int], sigma: float, most: int | None = None) -> None:
    rng = np.random.default_rng(0)
    x = (rng.random(shape) + sigma * rng.standard_normal(shape)).astype(np.float32)
    cotangent = rng.standard_normal(shape).astype(np.float32)
    expected_x0, expected_pulled = exact(network, x, sigma, cotangent)
    workspace = native.workspace(most or shape[0], *shape[1:], True)
    x0, pulled = np.full_like(x, np.nan), np.full_like(x, np.nan)
    workspace.denoise(x, sigma, x0)
    workspace.pullback(cotangent, pulled)
    rounding = np.finfo(np.float32).eps * np.linalg.norm(x) / np.linalg.norm(expected_x0)
    assert np.linalg.norm(x0 - expected_x0) <= (X0_BOUND + rounding) * np.linalg.norm(expected_x0)
    assert np.linalg.norm(pulled - expected_pulled) <= PULLBACK_BOUND * np.linalg.norm(expected_pulled)
    forward_only = native.workspace(shape[0], *shape[1:], False)
    again = np.empty_like(x)
    forward_only.denoise(x, sigma, again)
    assert (again == x0).all()


def test_architectures(architecture, random_network, tmp_path):
    # 8 channels, and sums of 8 and 16: no multiples of the 16 in a block.
    network = random_network(architecture)
    native = compiled(network, tmp_path)
    d = architecture.divisor
    for sigma, shape in ((0.02, (1, 4 * d, 6 * d)), (3.0, (3, 5 * d, 3 * d)), (40.0, (2, 8 * d, 8 * d))):
        check(network, native, shape, sigma)


@pytest.mark.parametrize("instructions", instruction_sets())
@pytest.mark.parametrize("nf", [16, 20])
def test_instruction_sets(instructions, nf, random_network, tmp_path):
    architecture = Architecture(
        nf=nf, ch_mult=(1, 2, 2), n_res_blocks=1, attention_levels=(2,), progressive_input="residual",
        progressive="output_skip", sigma_max=50.0, n_scales=20,
    )  # fmt: skip
    network = random_network(architecture)
    native = compiled(network, tmp_path, instructions)
    assert native.instructions == instructions
    check(network, native, (2, 36, 28), 0.7, most=3)


def test_weights_that_are_transformed_when_used(random_network, small, tmp_path, monkeypatch):
    network = random_network(small)
    kept = compiled(network, tmp_path)
    monkeypatch.setattr("kernels.network.TRANSFORMED_BYTES", 0)
    made = Network(tmp_path / PROGRAM, tmp_path / "weights.bin")
    x = np.random.default_rng(1).random((2, 16, 24)).astype(np.float32)
    results = []
    for native in (kept, made):
        workspace, x0, pulled = native.workspace(2, 16, 24, True), np.empty_like(x), np.empty_like(x)
        workspace.denoise(x, 0.3, x0)
        workspace.pullback(x, pulled)
        results.append((x0, pulled))
    for one, other in zip(*results, strict=True):
        assert (one == other).all()


def test_images_of_a_stack_do_not_touch_each_other(random_network, small, tmp_path):
    native = compiled(random_network(small), tmp_path)
    x = np.random.default_rng(1).random((3, 16, 16)).astype(np.float32)
    together, alone = native.workspace(3, 16, 16, True), native.workspace(1, 16, 16, True)
    x0, pulled = np.empty_like(x), np.empty_like(x)
    together.denoise(x, 2.0, x0)
    together.pullback(x, pulled)
    for i in range(3):
        one, back = np.empty_like(x[:1]), np.empty_like(x[:1])
        alone.denoise(x[i : i + 1], 2.0, one)
        alone.pullback(x[i : i + 1], back)
        assert (one == x0[i : i + 1]).all()
        assert (back == pulled[i : i + 1]).all()


def test_residual_outputs_of_a_single_level(random_network, small, tmp_path):
    # The last features are not read: only their pyramid is.
    network = random_network(replace(small, ch_mult=(1,), progressive="residual", progressive_input="residual"))
    check(network, compiled(network, tmp_path), (2, 12, 8), 0.5)


def test_concatenations_of_many_channels(random_network, small, tmp_path):
    network = random_network(replace(small, nf=928, ch_mult=(1,)))
    native = compiled(network, tmp_path)
    assert not native.keeps_transforms
    check(network, native, (1, 4, 4), 0.5)


def test_refusals(random_network, small, tmp_path):
    native = compiled(random_network(small), tmp_path)
    with pytest.raises(ValueError, match="halved as often as the network does"):
        native.workspace(1, 15, 16, True)
    with pytest.raises(ValueError, match="at least 1"):
        native.workspace(0, 16, 16, True)
    assert native.workspace_bytes(3, 16, 16, True) == native.workspace(3, 16, 16, True).bytes
    workspace = native.workspace(2, 16, 16, True)
    x = np.zeros((2, 16, 16), np.float32)
    with pytest.raises(RuntimeError, match="as many images as denoise got"):
        workspace.pullback(x, x.copy())
    for wrong in (x[:, :8], np.zeros((3, 16, 16), np.float32), x[:0]):
        with pytest.raises(ValueError, match="up to 2 slices of 16 x 16"):
            workspace.denoise(wrong.copy(), 1.0, wrong.copy())
    with pytest.raises(ValueError, match="up to 2 slices"):
        workspace.denoise(x, 1.0, x[:1].copy())
    for kind in (x.astype(np.float64), x[:, :, ::-1]):
        with pytest.raises(TypeError):
            workspace.denoise(kind, 1.0, x)
    workspace.denoise(x, 1.0, x.copy())
    workspace.pullback(x, x.copy())
    with pytest.raises(RuntimeError, match="once for each call"):
        workspace.pullback(x, x.copy())
    with pytest.raises(ValueError, match="a set that this processor has"):
        Network(tmp_path / PROGRAM, tmp_path / "weights.bin", "mmx")


def unused(program: dict) -> int:
    """The number of an image of as many channels as the first convolution makes."""
    program["channels"].append(program["channels"][program["images"][1]["out"]])
    return len(program["channels"]) - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(format=99), "expected format"),
        (lambda p: p["images"][1].update(op="pool"), "known kind, got pool"),
        (lambda p: p["images"][1].update({"in": [77]}), "numbers of images"),
        (lambda p: p["images"][1].update({"in": [0, 5]}), "an image of an earlier layer"),
        (lambda p: p["images"][2].update(out=1), "no other layer makes"),
        (lambda p: p["vectors"][1].update({"in": 9}), "an earlier vector"),
        (lambda p: p["images"].pop(), "the last layer makes"),
        (lambda p: p["channels"].__setitem__(0, 2), "1 for the noisy image"),
        (lambda p: p["images"][1]["weight"].update(offset=10**9), "expected at least"),
        (lambda p: p["images"][2].update(groups=3), "a divisor of the number of channels"),
        (lambda p: p["images"].insert(1, {**p["images"][1], "out": unused(p)}), "a layer that reads it"),
    ],
)
def test_damaged_programs(change, message, random_network, small, tmp_path):
    compiled(random_network(small), tmp_path)
    program = json.loads((tmp_path / PROGRAM).read_text())
    change(program)
    (tmp_path / PROGRAM).write_text(json.dumps(program))
    with pytest.raises(ValueError, match=message):
        Network(tmp_path / PROGRAM, tmp_path / "weights.bin")
