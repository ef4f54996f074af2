"""Every input and output pyramid: score_sde's tensors, and results beside a slow walk over those tensors."""

from __future__ import annotations

import json
import math

import torch
import torch.nn.functional as F

from networks import Architecture, NCSNpp
from networks.architecture import TRACELESS
from networks.infer import infer_architecture


def fir(x, up=1, down=1, padding=(0, 0), gain=1.0):
    """Zeros between the samples, zeros around them, (1, 3, 3, 1) both ways, every `down`-th sample."""
    n, c, h, w = x.shape
    stuffed = x.new_zeros(n, c, h * up, w * up)
    stuffed[:, :, ::up, ::up] = x
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]).to(x) / 8
    windows = F.pad(stuffed, (*padding, *padding)).unfold(2, 4, 1).unfold(3, 4, 1)
    return gain * torch.einsum("nchwij,i,j->nchw", windows, taps, taps)[:, :, ::down, ::down]


class Walk:
    """Takes the numbered layers of score_sde one after another, each as what its tensors' names say that it is."""

    def __init__(self, tensors, architecture):
        self.a, self.next = architecture, 0
        self.layers: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name != "sigmas":
                _, number, rest = name.split(".", 2)
                self.layers.setdefault(int(number), {})[rest] = tensor.double()

    def take(self):
        self.next += 1
        # Layers without tensors have a number too.
        return self.layers.pop(self.next - 1, {})

    def add(self, x, h):
        return (x + h) / math.sqrt(2) if self.a.skip_rescale else x + h

    def norm(self, x, t, name=""):
        return F.group_norm(x, min(x.shape[1] // 4, 32), t[f"{name}weight"], t[f"{name}bias"], eps=1e-6)

    def conv(self, x, t, name="", **options):
        return F.conv2d(x, t[f"{name}weight"], t[f"{name}bias"], **options)

    def resized(self, x, direction):
        if direction == "down":
            return fir(x, down=2, padding=(1, 1)) if self.a.fir else F.avg_pool2d(x, 2)
        return fir(x, up=2, padding=(2, 1), gain=4) if self.a.fir else x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def block(self, x, embedding, direction=None):
        t = self.take()
        h = F.silu(self.norm(x, t, "GroupNorm_0."))
        if direction:
            h, x = self.resized(h, direction), self.resized(x, direction)
        h = self.conv(h, t, "Conv_0.", padding=1)
        h = h + F.linear(F.silu(embedding), t["Dense_0.weight"], t["Dense_0.bias"])[:, :, None, None]
        h = self.conv(F.silu(self.norm(h, t, "GroupNorm_1.")), t, "Conv_1.", padding=1)
        if "Conv_2.weight" in t:
            x = self.conv(x, t, "Conv_2.")
        elif "NIN_0.W" in t:
            x = torch.einsum("bchw,co->bohw", x, t["NIN_0.W"]) + t["NIN_0.b"][:, None, None]
        return self.add(x, h)

    def attention(self, x):
        t = self.take()
        normed = self.norm(x, t, "GroupNorm_0.")
        q, k, v = (torch.einsum("bchw,co->bohw", normed, t[f"NIN_{i}.W"]) for i in range(3))
        q, k, v = (y + t[f"NIN_{i}.b"][:, None, None] for i, y in enumerate((q, k, v)))
        weights = torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(x.shape[1])
        weights = torch.softmax(weights.flatten(3), dim=-1).reshape(weights.shape)
        mixed = torch.einsum("bhwij,bcij->bchw", weights, v)
        return self.add(x, torch.einsum("bchw,co->bohw", mixed, t["NIN_3.W"]) + t["NIN_3.b"][:, None, None])

    def resample(self, x, direction):
        """A layer that resamples, with the convolution that its tensors tell, or none."""
        t = self.take()
        if not t:
            return self.resized(x, direction)
        if "Conv_0.weight" in t:
            if direction == "down":
                return self.conv(F.pad(x, (0, 1, 0, 1)), t, "Conv_0.", stride=2)
            return self.conv(self.resized(x, "up"), t, "Conv_0.", padding=1)
        weight, bias = t["Conv2d_0.weight"], t["Conv2d_0.bias"]
        if direction == "down":
            return F.conv2d(fir(x, padding=(2, 2)), weight, bias, stride=2)
        n, c, h, w = x.shape
        stuffed = x.new_zeros(n, c, 2 * h - 1, 2 * w - 1)
        stuffed[:, :, ::2, ::2] = x
        spread = F.conv2d(stuffed, weight, padding=2)
        return fir(spread, padding=(1, 1), gain=4) + bias[:, None, None]

    def resampled_features(self, h, embedding, direction):
        return self.block(h, embedding, direction) if self.a.resblock == "biggan" else self.resample(h, direction)

    def head(self, h):
        activated = F.silu(self.norm(h, self.take()))
        return self.conv(activated, self.take(), padding=1)


def walk(tensors, architecture, x, sigma):
    """The score in float64, as the published description of NCSN++ goes through score_sde's tensors."""
    a, w = architecture, Walk(tensors, architecture)
    if a.embedding == "fourier":
        phase = 2 * math.pi * torch.log(sigma)[:, None] * w.take()["W"]
    else:
        # Numbers of the table's levels, to which the other ones are interpolated.
        number = (a.n_scales - 1) * torch.log(a.sigma_max / sigma) / math.log(a.sigma_max / a.sigma_min)
        half = a.nf // 2
        # The table of frequencies is in float32.
        frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10000) / (half - 1))).double()
        phase = number[:, None] * frequencies
    embedding = torch.cat([torch.sin(phase), torch.cos(phase)], dim=1)
    first, second = w.take(), w.take()
    embedding = F.silu(F.linear(embedding, first["weight"], first["bias"]))
    embedding = F.linear(embedding, second["weight"], second["bias"])
    pyramid = x if a.centered else 2 * x - 1
    h = w.conv(pyramid, w.take(), padding=1)
    skips = [h]
    for level in range(a.n_levels):
        for _ in range(a.n_res_blocks):
            h = w.block(h, embedding)
            if level in a.attention_levels:
                h = w.attention(h)
            skips.append(h)
        if level < a.n_levels - 1:
            h = w.resampled_features(h, embedding, "down")
            if a.progressive_input == "input_skip":
                pyramid = w.resized(pyramid, "down")
                joined = w.conv(pyramid, w.take(), "Conv_0.")
                h = torch.cat([joined, h], dim=1) if a.progressive_combine == "cat" else joined + h
            elif a.progressive_input == "residual":
                h = pyramid = w.add(w.resample(pyramid, "down"), h)
            skips.append(h)
    h = w.block(w.attention(w.block(h, embedding)), embedding)
    out = pyramid
    for level in reversed(range(a.n_levels)):
        for _ in range(a.n_res_blocks + 1):
            h = w.block(torch.cat([h, skips.pop()], dim=1), embedding)
        if level in a.attention_levels:
            h = w.attention(h)
        coarsest = level == a.n_levels - 1
        if a.progressive == "output_skip":
            image = w.head(h)
            out = image if coarsest else w.resized(out, "up") + image
        elif a.progressive == "residual":
            if coarsest:
                out = w.head(h)
            else:
                h = out = w.add(w.resample(out, "up"), h)
        if level > 0:
            h = w.resampled_features(h, embedding, "up")
    if a.progressive != "output_skip":
        out = w.head(h)
    assert not w.layers and not skips
    return out / sigma[:, None, None, None] if a.scale_by_sigma else out


def test_score_and_adjoint_are_those_of_the_tensors(architecture, random_network):
    network = random_network(architecture)
    tensors = network.state_dict()
    side = 4 * architecture.divisor
    generator = torch.Generator().manual_seed(0)
    sigma = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    x = torch.rand(3, 1, side, side + architecture.divisor, dtype=torch.float64, generator=generator)
    cotangent = torch.randn(x.shape, dtype=torch.float64, generator=generator)

    def score_and_adjoint(function):
        z = x.clone().requires_grad_()
        score = function(z)
        return score.detach(), torch.autograd.grad(score, z, cotangent)[0]

    ours = score_and_adjoint(lambda z: network.double()(z, sigma))
    slow = score_and_adjoint(lambda z: walk(tensors, architecture, z, sigma))
    for got, expected in zip(ours, slow, strict=True):
        # Both in float64: the order of sums is all that differs.
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_all_of_score_sdes_recorded_tensors_are_recognised(reference_tiny):
    """Names, shapes and their order, from which the list of moving averages gets its names."""
    recorded = json.loads((reference_tiny.parent / "score_sde_names.json").read_text())
    for entry in recorded:
        settings, shapes = entry["architecture"], entry["tensors"]
        expected = Architecture.from_dict({**settings, "n_scales": shapes["sigmas"][0]})
        weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
        weights["sigmas"] = torch.linspace(50, 0.01, shapes["sigmas"][0])
        traceless = {name: getattr(expected, name) for name in TRACELESS}
        found, _ = infer_architecture(weights, {}, {"fir": expected.fir, **traceless})
        unused = set() if expected.progressive_input == "input_skip" else {"progressive_combine"}
        for name in settings.keys() - unused:
            assert getattr(found, name) == getattr(expected, name), (settings, name)
        network = NCSNpp.of_weights(found, weights)
        assert {name: list(t.shape) for name, t in network.state_dict().items()} == shapes
        assert list(network.state_dict()) == list(shapes)
    assert len(recorded) == 28
