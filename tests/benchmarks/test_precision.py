# ruff: noqa: E402
"""Half precision: weights come back from a bundle, and what is emulated is what half-precision engines compute."""

from __future__ import annotations

import numpy as np
import pytest

# What follows imports it.
torch = pytest.importorskip("torch", reason="half precision is emulated by PyTorch, of the extra `bench`")

from benchmarks import precision
from benchmarks.lib.half import TorchDenoiser, half_network
from engine.backends.bundle import Bundle
from engine.volume import NAMED_PLANES
from export.restore import network_of
from networks import load_checkpoint
from networks.layers import Attention, FirConv

#: Largest relative rounding error of a number, by type.
ROUNDING = {torch.float16: 2**-11, torch.bfloat16: 2**-8}


@pytest.fixture(scope="module")
def network(tiny_checkpoints):
    return load_checkpoint(tiny_checkpoints["axial"])[0]


def slices(n: int = 3, side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).random((n, side, side), dtype=np.float32)


def relative(value: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def test_weights_come_back_from_a_bundle(tiny_bundles, network):
    found = network_of(Bundle.open(tiny_bundles["axial"].folder))
    for (name, ours), theirs in zip(found.named_parameters(), network.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=0), name


def test_weights_of_a_graph_with_another_structure_are_refused(tiny_bundles):
    bundle = Bundle.open(tiny_bundles["axial"].folder)
    other = {**bundle.manifest, "architecture": {**bundle.manifest["architecture"], "attention_levels": []}}
    with pytest.raises(ValueError, match="another one"):
        network_of(Bundle(bundle.folder, other))


@pytest.mark.parametrize("ends_too", [False, True])
@pytest.mark.parametrize("dtype", list(ROUNDING))
def test_only_what_engines_halve_is_halved(network, dtype, ends_too):
    half = half_network(network, dtype, ends_too)
    for name, module in half.named_modules():
        for parameter in module.parameters(recurse=False):
            layer = type(module).__name__
            at_an_end = name.startswith(("all_modules.3", f"all_modules.{len(half.all_modules) - 1}"))
            at_an_end = at_an_end or isinstance(module, FirConv)
            stays = "GroupNorm" in layer or layer in ("Linear", "FourierFeatures") or (at_an_end and not ends_too)
            assert parameter.dtype == (torch.float32 if stays else dtype), name
    # What reaches the attention's products, and so everything between the ends, is half too.
    seen = []
    for module in half.modules():
        if isinstance(module, Attention):
            module.register_forward_hook(lambda _module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    x0 = half.denoise(torch.from_numpy(slices())[:, None], torch.full((3,), 0.5))
    assert seen and set(seen) == {(dtype, dtype)}
    assert x0.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in network.parameters()), "the original has changed"


@pytest.mark.parametrize("dtype, rounding", list(ROUNDING.items()))
def test_errors_are_those_of_rounding(network, dtype, rounding):
    x, y = slices(), slices(3)[:, ::-1].copy()
    exact = TorchDenoiser(network, 3).vjp(x, 0.5, lambda x0, which: y[which])
    found = TorchDenoiser(half_network(network, dtype), 2).vjp(x, 0.5, lambda x0, which: y[which])
    for value, expected in zip(found, exact, strict=True):
        # Several dozen roundings lie between input and output.
        assert rounding / 100 < relative(value, expected) < 30 * rounding


def test_no_cotangent_overflows(network):
    """Σ of 256² pixels times σ = 378 is far beyond float16, and the pullback is linear: it must not matter."""
    half, y = TorchDenoiser(half_network(network, torch.float16), 3), slices()
    _, small = half.vjp(slices(), 50.0, lambda x0, which: y[which])
    _, large = half.vjp(slices(), 50.0, lambda x0, which: np.float32(2**24) * y[which])
    np.testing.assert_array_equal(large, np.float32(2**24) * small)


def test_float32_ends_bring_faint_noise_through(network):
    """At a low noise level rounding the image itself is most of the error."""
    x, errors = slices(), []
    exact = TorchDenoiser(network, 3).denoise(x, 0.01)
    for ends_too in (True, False):
        found = TorchDenoiser(half_network(network, torch.bfloat16, ends_too), 3).denoise(x, 0.01)
        errors.append(relative(found, exact))
    assert errors[1] < errors[0]


def metrics(coronal: float) -> dict[str, dict[str, float]]:
    return {plane: {"psnr_db": coronal if plane == "coronal" else 30.0} for plane in NAMED_PLANES}


def test_changes_are_judged_by_the_worst_plane_and_seed():
    rows = {
        0: {precision.ENGINE: metrics(38.0), "float16": metrics(38.04), "bfloat16": metrics(37.9)},
        1: {precision.ENGINE: metrics(36.0), "float16": metrics(35.96), "bfloat16": metrics(36.1)},
    }
    found = precision.summary(rows)
    assert found["float16"]["largest_change_db"] == pytest.approx(0.04)
    assert found["float16"]["passes"] and not found["bfloat16"]["passes"]
    assert found["bfloat16"]["largest_change_db"] == pytest.approx(0.1)
    assert found["bfloat16"]["mean_change_db"]["coronal"] == pytest.approx(0.0, abs=1e-9)
    assert found["bfloat16"]["seeds"] == 2
    assert "seed 1, bfloat16" in precision.table(rows) and "+0.1000" in precision.table(rows)


def test_a_change_that_is_no_number_does_not_pass():
    rows = {0: {precision.ENGINE: metrics(38.0), "float16": metrics(float("nan"))}}
    assert not precision.summary(rows)["float16"]["passes"]
