"""NCSN++: its layers against slow formulas, its wiring against recorded numbers and every architecture's promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from networks import NCSNpp, load_checkpoint
from networks.layers import Attention, Downsample, FirConv, FirFilter, Upsample, resampler

TAPS = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def upfirdn(x, filter_2d, up=1, down=1, padding=(0, 0)):
    """StyleGAN2's upfirdn2d on (n, c, h, w) in float64: insert zeros, pad, convolve, keep every `down`-th sample."""
    n, c, h, w = x.shape
    stuffed = np.zeros((n, c, h * up, w * up))
    stuffed[:, :, ::up, ::up] = x
    padded = np.pad(stuffed, ((0, 0), (0, 0), padding, padding))
    n_rows, n_columns = (side - len(filter_2d) + 1 for side in padded.shape[2:])
    out = np.zeros((n, c, n_rows, n_columns))
    for i, j in np.ndindex(filter_2d.shape):
        out += filter_2d[::-1, ::-1][i, j] * padded[:, :, i : i + n_rows, j : j + n_columns]
    return out[:, :, ::down, ::down]


def convolution(x, weight, bias, stride=1):
    """A convolution without padding, in float64."""
    n_rows, n_columns = ((side - 3) // stride + 1 for side in x.shape[2:])
    out = np.zeros((len(x), len(weight), n_rows, n_columns)) + bias[:, None, None]
    for i, j in np.ndindex(3, 3):
        rows, columns = slice(i, i + stride * n_rows, stride), slice(j, j + stride * n_columns, stride)
        out += np.einsum("oc,nchw->nohw", weight[:, :, i, j], x[:, :, rows, columns])
    return out


def transposed_convolution(x, weight):
    """Stride 2: every pixel adds its copy of the flipped kernel; (n, c, h, w) to (n, o, 2h + 1, 2w + 1)."""
    n, _, h, w = x.shape
    out = np.zeros((n, len(weight), 2 * h + 1, 2 * w + 1))
    for i, j in np.ndindex(3, 3):
        out[:, :, i : i + 2 * h : 2, j : j + 2 * w : 2] += np.einsum("oc,nchw->nohw", weight[:, :, 2 - i, 2 - j], x)
    return out


def assert_close(got, expected):
    # float32 sums of a few dozen terms of order one against float64.
    np.testing.assert_allclose(np.asarray(got), expected, rtol=2e-5, atol=2e-5)


@pytest.fixture
def image():
    return np.random.default_rng(0).standard_normal((2, 3, 6, 10)).astype(np.float32)


@pytest.fixture
def fir_conv(request):
    layer = FirConv(3, 5, request.param).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    layer.weight.copy_(torch.randn(5, 3, 3, 3, generator=generator))
    layer.bias.copy_(torch.randn(5, generator=generator))
    return layer


def test_fir_upsampling(image):
    got = FirFilter("up")(torch.from_numpy(image))
    assert_close(got, upfirdn(image, 4 * TAPS, up=2, padding=(2, 1)))


def test_fir_downsampling(image):
    got = FirFilter("down")(torch.from_numpy(image))
    assert_close(got, upfirdn(image, TAPS, down=2, padding=(1, 1)))


@pytest.mark.parametrize("fir_conv", ["down"], indirect=True)
def test_convolution_with_fir_downsampling(image, fir_conv):
    smooth = upfirdn(image, TAPS, padding=(2, 2))
    expected = convolution(smooth, fir_conv.weight.numpy(), fir_conv.bias.numpy(), stride=2)
    assert_close(fir_conv(torch.from_numpy(image)), expected)


@pytest.mark.parametrize("fir_conv", ["up"], indirect=True)
def test_fir_upsampling_with_convolution(image, fir_conv):
    spread = transposed_convolution(image, fir_conv.weight.numpy())
    expected = upfirdn(spread, 4 * TAPS, padding=(1, 1)) + fir_conv.bias.numpy()[:, None, None]
    assert_close(fir_conv(torch.from_numpy(image)), expected)


def test_naive_resampling(image):
    x = torch.from_numpy(image)
    assert_close(resampler("up", fir=False)(x), image.repeat(2, axis=2).repeat(2, axis=3))
    assert_close(resampler("down", fir=False)(x), image.reshape(2, 3, 3, 2, 5, 2).mean(axis=(3, 5)))


@torch.no_grad()
def test_naive_downsampling_with_convolution_pads_below_and_right(image):
    layer = Downsample(3, 5, with_conv=True, fir=False)
    conv: Any = layer.Conv_0
    conv.bias.normal_()
    padded = np.pad(image, ((0, 0), (0, 0), (0, 1), (0, 1)))
    expected = convolution(padded, conv.weight.numpy(), conv.bias.numpy(), stride=2)
    assert_close(layer(torch.from_numpy(image)), expected)


@torch.no_grad()
def test_naive_upsampling_with_convolution(image):
    layer = Upsample(3, 5, with_conv=True, fir=False)
    conv: Any = layer.Conv_0
    conv.bias.normal_()
    padded = np.pad(image.repeat(2, axis=2).repeat(2, axis=3), ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = convolution(padded, conv.weight.numpy(), conv.bias.numpy())
    assert_close(layer(torch.from_numpy(image)), expected)


@pytest.mark.parametrize("skip_rescale", [True, False])
@torch.no_grad()
def test_attention_against_its_formula(skip_rescale):
    torch.manual_seed(0)
    layer = Attention(16, skip_rescale)
    for name, parameter in layer.named_parameters():
        parameter.normal_(1.0 if "GroupNorm" in name else 0.0, 0.3)
    x = torch.randn(2, 16, 5, 7)

    def project(name, h):
        nin = getattr(layer, name)
        return torch.einsum("bchw,co->bohw", h, nin.W) + nin.b[:, None, None]

    normed = torch.nn.functional.group_norm(x, 4, layer.GroupNorm_0.weight, layer.GroupNorm_0.bias, eps=1e-6)
    query, key, value = (project(f"NIN_{i}", normed) for i in range(3))
    weights = torch.einsum("bchw,bcij->bhwij", query, key) / 4
    weights = torch.softmax(weights.flatten(3), dim=-1).reshape(weights.shape)
    expected = x + project("NIN_3", torch.einsum("bhwij,bcij->bchw", weights, value))
    assert_close(layer(x), (expected / np.sqrt(2) if skip_rescale else expected).numpy())


def test_shape_and_noise_level(architecture, random_network):
    network = random_network(architecture)
    d = architecture.divisor
    x = torch.randn(2, 1, 4 * d, 6 * d, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.5, 7.0])
    score = network(x, sigma)
    assert score.shape == x.shape
    assert score.isfinite().all()
    # Each image meets its own noise level: alone or in a batch makes no difference but the order of float32 sums.
    for i in range(2):
        alone = network(x[i : i + 1], sigma[i : i + 1])
        torch.testing.assert_close(alone, score[i : i + 1], rtol=1e-4, atol=1e-5 * float(score[i].abs().max()))
    raw = network.forward_raw(x, sigma)
    other = network.forward_raw(x, sigma.flip(0))
    assert ((raw - other).flatten(1).norm(dim=1) > 1e-3 * raw.flatten(1).norm(dim=1)).all()


def test_every_parameter_matters(architecture, random_network):
    """A layer that `forward` walks past, or whose result it drops, has no gradient."""
    network = random_network(architecture).requires_grad_(True)
    x = torch.rand(1, 1, 4 * architecture.divisor, 4 * architecture.divisor, generator=torch.Generator().manual_seed(0))
    network(x, torch.tensor([2.0])).square().sum().backward()
    idle = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    # Softmax ignores what all keys share, the bias of NIN_1; the Fourier frequencies do have a gradient.
    assert {name for name in idle if not name.endswith("NIN_1.b")} == set()


def test_denoise_is_tweedies_formula(architecture, random_network):
    network = random_network(architecture)
    x = torch.randn(
        3, 1, 4 * architecture.divisor, 4 * architecture.divisor, generator=torch.Generator().manual_seed(0)
    )
    sigma = torch.tensor([0.01, 1.0, 50.0])
    s = sigma[:, None, None, None].double()
    expected = x.double() + s**2 * network(x, sigma).double()
    # One float32 product and sum: relative to the largest term, not to what cancellation leaves.
    error = (network.denoise(x, sigma) - expected).abs().amax(dim=(1, 2, 3))
    assert (error < 1e-6 * (x.abs().amax(dim=(1, 2, 3)) + (s**2 * network(x, sigma)).abs().amax(dim=(1, 2, 3)))).all()


def test_scale_by_sigma_divides_the_output(small, random_network):
    x, sigma = torch.rand(2, 1, 16, 16), torch.tensor([0.1, 20.0])
    plain = random_network(replace(small, scale_by_sigma=False))(x, sigma)
    scaled = random_network(small)(x, sigma)
    torch.testing.assert_close(scaled, plain / sigma[:, None, None, None], rtol=0, atol=0)


def test_uncentered_network_doubles_and_shifts_its_input(small, random_network):
    x, sigma = torch.rand(2, 1, 16, 16), torch.tensor([0.1, 20.0])
    expected = random_network(replace(small, centered=True))(2 * x - 1, sigma)
    torch.testing.assert_close(random_network(small)(x, sigma), expected, rtol=0, atol=0)


def test_of_weights_equals_loading(architecture, random_network):
    network = random_network(architecture)
    weights = network.state_dict()
    before = torch.random.get_rng_state()
    rebuilt = NCSNpp.of_weights(architecture, {k: v for k, v in weights.items() if k != "sigmas"})
    assert torch.equal(torch.random.get_rng_state(), before)
    assert list(rebuilt.state_dict()) == list(weights)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in rebuilt.state_dict().items())
    x = torch.rand(1, 1, 2 * architecture.divisor, 2 * architecture.divisor)
    assert torch.equal(rebuilt(x, torch.tensor([1.0])), network(x, torch.tensor([1.0])))


def test_of_weights_computes_in_float32(small, random_network):
    half = {k: v.half() if k != "sigmas" else v for k, v in random_network(small).state_dict().items()}
    network = NCSNpp.of_weights(small, half)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert network.sigmas.dtype == torch.float64


@pytest.mark.parametrize("plane", ["xy", "yz"])
def test_recorded_score_and_its_vjp(reference_tiny, plane):
    network, _ = load_checkpoint(reference_tiny / f"{plane}.pth")
    recorded = np.load(reference_tiny / f"network_{plane}.npz")
    x, sigma, cotangent = (torch.from_numpy(recorded[k]).float() for k in ("x", "sigma", "cotangent"))
    x.requires_grad_(True)
    score = network(x, sigma)
    (pulled_back,) = torch.autograd.grad(score, x, cotangent)

    def relative_error(got, expected):
        norms = [np.linalg.norm(a.reshape(len(a), -1), axis=1) for a in (got - expected, expected)]
        return norms[0] / norms[1]

    # float32 on both sides, other algorithms for FIR filters and attention: rounding that a dozen layers carry on, and
    # for the vector-Jacobian product again on the way back.
    assert (relative_error(score.detach().numpy(), recorded["score"]) < 1e-5).all()
    assert (relative_error(pulled_back.numpy(), recorded["vjp_score"]) < 1e-4).all()


@pytest.mark.parametrize("plane", ["xy", "yz"])
def test_tensors_come_in_the_recorded_order(reference_tiny, plane):
    """The EMA list has no names: only the order says which tensor is which."""
    stored = torch.load(reference_tiny / f"{plane}.pth", weights_only=True)["model"]
    network, _ = load_checkpoint(reference_tiny / f"{plane}.pth")
    assert [f"module.{name}" for name in network.state_dict()] == list(stored)
