"""Writes a score network as a program for the native CPU kernels.

The program is the network's own list of layers, taken by a symbolic trace that stops at them, with sums and factors
folded into the convolutions before them. `kernels.network.Network` runs it forward and backward.
"""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from engine.backends.bundle import PROGRAM
from export.trace.lowering import LoweredGroupNorm, LoweredResample, Scale, lower
from export.write.weights import WeightStore
from kernels.network import FORMAT
from networks import NCSNpp
from networks.layers import Attention, FirConv, FirFilter, FourierFeatures

_LAYERS = (
    Attention,
    FirConv,
    FirFilter,
    FourierFeatures,
    LoweredGroupNorm,
    LoweredResample,
    Scale,
    nn.Conv2d,
    nn.Linear,
)

Op = dict[str, Any]


class _Raw(nn.Module):
    def __init__(self, network: NCSNpp):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.network.forward_raw(x, sigma)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LAYERS)


class _Writer:
    """Translates the layers one after another; images and vectors are numbered in the order of their making."""

    def __init__(self, root: nn.Module, weights: WeightStore):
        self.root, self.weights = root, weights
        self.images: list[Op] = []
        self.vectors: list[Op] = []
        self.channels: list[int] = [1]
        self.n_vectors = 0
        #: What a node stands for: ("image", number), ("vector", number), or ("sigma" or "log sigma", 0).
        self.meaning: dict[fx.Node, tuple[str, int]] = {}

    # --- emission

    def array(self, values: Tensor) -> Op:
        array = np.ascontiguousarray(values.detach().numpy(), dtype=np.float32)
        offset, _ = self.weights.add(array)
        return {"offset": offset, "shape": list(array.shape)}

    def image(self, kind: str, inputs: list[int], channels: int, **attributes: Any) -> int:
        self.images.append({"op": kind, "in": inputs, "out": len(self.channels), **attributes})
        self.channels.append(channels)
        return len(self.channels) - 1

    def vector(self, kind: str, **attributes: Any) -> int:
        self.vectors.append({"op": kind, "out": self.n_vectors, **attributes})
        self.n_vectors += 1
        return self.n_vectors - 1

    def conv(self, x: int, weight: Tensor, bias: Tensor | None, stride: int = 1, pad: int = 0) -> int:
        bias = torch.zeros(weight.shape[0]) if bias is None else bias
        return self.image(
            "conv",
            [x],
            weight.shape[0],
            weight=weight,
            bias=bias,
            stride=stride,
            pad=pad,
            vector=None,
            addend_scale=1.0,
        )

    def norm(self, layer: LoweredGroupNorm, x: int) -> int:
        return self.image(
            "norm", [x], self.channels[x], weight=self.array(layer.weight), bias=self.array(layer.bias),
            groups=layer.n_groups, eps=layer.eps, silu=layer.activate,
        )  # fmt: skip

    # --- layers

    def layer(self, layer: nn.Module, argument: tuple[str, int]) -> tuple[str, int]:
        kind, x = argument
        if isinstance(layer, FourierFeatures):
            assert kind == "log sigma"
            return "vector", self.vector("fourier", weight=self.array(layer.W))
        if isinstance(layer, nn.Linear):
            weight, bias = self.array(layer.weight), self.array(cast(Tensor, layer.bias))
            return "vector", self.vector("dense", **{"in": x}, weight=weight, bias=bias)
        assert kind == "image", f"{type(layer).__name__} of a {kind}"
        n = self.channels[x]
        if isinstance(layer, nn.Conv2d):
            return "image", self.conv(x, layer.weight, layer.bias, layer.stride[0], cast(int, layer.padding[0]))
        if isinstance(layer, LoweredGroupNorm):
            return "image", self.norm(layer, x)
        if isinstance(layer, LoweredResample):
            return "image", self.image("up" if layer.up else "down", [x], n, fir=layer.blur is not None)
        if isinstance(layer, FirFilter):
            return "image", self.fir(layer, x)
        if isinstance(layer, Scale):
            return "image", self.image("affine", [x], n, mul=layer.factor, add=0.0)
        if isinstance(layer, FirConv):
            return "image", self.fir_conv(layer, x)
        if isinstance(layer, Attention):
            return "image", self.attention(layer, x)
        raise NotImplementedError(f"no native translation of {type(layer).__name__}")

    def fir(self, layer: FirFilter, x: int) -> int:
        assert layer.mode == "same", "other modes are lowered"
        gain = float(cast(Tensor, layer.kernel).sum())
        return self.image("fir", [x], self.channels[x], pad=layer.padding, gain=gain)

    def fir_conv(self, layer: FirConv, x: int) -> int:
        if layer.direction == "down":
            return self.conv(self.fir(layer.filter, x), layer.weight, layer.bias, stride=2)
        spread = self.image("stuff", [x], self.channels[x])
        # A transposed convolution with the flipped kernel is the plain one of the zero-stuffed image.
        spread = self.conv(spread, layer.weight, None, pad=2)
        y = self.fir(layer.filter, spread)
        # The bias comes after the filter, which is not 1 near the borders.
        return self.conv(y, torch.eye(self.channels[y])[:, :, None, None], layer.bias)

    def attention(self, layer: Attention, x: int) -> int:
        normed = self.norm(cast(LoweredGroupNorm, layer.GroupNorm_0), x)
        q, k, v = (self.conv(normed, p.weight, p.bias) for p in (layer.NIN_0, layer.NIN_1, layer.NIN_2))  # type: ignore[arg-type]
        mixed = self.image("attend", [q, k, v], self.channels[v], scale=self.channels[q] ** -0.5)
        out = self.conv(mixed, layer.NIN_3.weight, layer.NIN_3.bias)  # type: ignore[arg-type]
        self.join(self.images[-1], x, 1.0)
        if layer.skip_rescale:
            self.rescale(self.images[-1], 0.5**0.5)
        return out

    # --- sums and factors, folded into the convolutions before them

    @staticmethod
    def join(op: Op, addend: int, scale: float) -> None:
        op["in"], op["addend_scale"] = [op["in"][0], addend], scale

    @staticmethod
    def rescale(op: Op, factor: float) -> None:
        op["weight"], op["bias"] = op["weight"] * factor, op["bias"] * factor
        op["addend_scale"] *= factor

    def producer(self, image: int) -> Op:
        """The layer that makes an image; the noisy one has none."""
        return next((op for op in self.images if op["out"] == image), {"op": "none"})

    def add(self, a: fx.Node, b: fx.Node) -> tuple[str, int]:
        (_, x), (kind, y) = self.meaning[a], self.meaning[b]
        if kind == "vector":
            op = self.producer(x)
            assert op["op"] == "conv" and len(a.users) == 1 and op["vector"] is None and len(op["in"]) == 1
            op["vector"] = y
            return "image", x
        candidates = []
        for node, image, other in ((b, y, x), (a, x, y)):
            op = self.producer(image)
            if op["op"] == "conv" and len(op["in"]) == 1 and len(node.users) == 1:
                candidates.append((op["weight"][0].numel(), op, other))
        if not candidates:
            return "image", self.image("add", [x, y], self.channels[x])
        # The larger convolution: it runs last, when the other's result is there.
        _, op, addend = max(candidates, key=lambda c: c[0])
        self.images.remove(op)
        self.images.append(op)
        scale, before = 1.0, self.producer(addend)
        if before["op"] == "affine" and before["add"] == 0 and self._once(addend):
            self.images.remove(before)
            scale, addend = before["mul"], before["in"][0]
        self.join(op, addend, scale)
        return "image", op["out"]

    def _once(self, image: int) -> bool:
        nodes = [n for n, (kind, number) in self.meaning.items() if kind == "image" and number == image]
        return sum(len(n.users) for n in nodes) == 1

    def multiply(self, x: fx.Node, factor: float) -> tuple[str, int]:
        _, image = self.meaning[x]
        op = self.producer(image)
        if op["op"] == "conv" and len(x.users) == 1:
            self.rescale(op, factor)
            return "image", image
        return "image", self.image("affine", [image], self.channels[image], mul=factor, add=0.0)

    # --- nodes

    def run(self, node: fx.Node) -> None:
        args: Any = node.args
        if node.op == "call_module":
            layer = self.root.get_submodule(str(node.target))
            self.meaning[node] = self.layer(layer, self.meaning[args[0]])
        elif node.target is torch.log:
            self.meaning[node] = "log sigma", 0
        elif node.target is F.silu:
            kind, x = self.meaning[args[0]]
            assert kind == "vector"
            self.meaning[node] = "vector", self.vector("silu", **{"in": x})
        elif node.target is operator.getitem:
            self.meaning[node] = self.meaning[args[0]]
        elif node.target is torch.cat:
            parts = [self.meaning[part][1] for part in args[0]]
            self.meaning[node] = "image", self.image("cat", parts, sum(self.channels[p] for p in parts))
        elif node.target is operator.add and isinstance(args[1], fx.Node):
            self.meaning[node] = self.add(args[0], args[1])
        elif node.target is operator.mul:
            x, factor = args if isinstance(args[0], fx.Node) else args[::-1]
            self.meaning[node] = self.multiply(x, float(factor))
        elif node.target is operator.sub:
            _, image = self.meaning[args[0]]
            op = self.producer(image)
            assert op["op"] == "affine" and len(args[0].users) == 1
            op["add"] -= float(args[1])
            self.meaning[node] = "image", image
        else:
            raise NotImplementedError(f"no native translation of {node.format_node()}")


def write_program(network: NCSNpp, folder: Path, weights: WeightStore) -> None:
    """Write `network.json` into `folder`; the tensors go into the shared weights file.

    Images have numbers (0 is the noisy one), and so have the vectors that depend on the noise level alone. Every entry
    of "images" makes one image from others; "in" of a convolution may name a second image, which is added to the
    result, times "addend_scale"; "vector" one that is added to every pixel. Arrays are float32 at an offset of
    ``weights.bin``.
    """
    root = _Raw(lower(network))
    graph = fx.GraphModule(root, _Tracer().trace(root)).graph
    # An image that nothing reads would have a gradient that nothing writes.
    graph.eliminate_dead_code()
    writer = _Writer(root, weights)
    x, sigma = (n for n in graph.nodes if n.op == "placeholder")
    writer.meaning[x], writer.meaning[sigma] = ("image", 0), ("sigma", 0)
    for node in graph.nodes:
        if node.op in ("call_module", "call_function"):
            writer.run(node)
    (output,) = (n for n in graph.nodes if n.op == "output")
    for op in writer.images:
        if op["op"] == "conv":
            op["weight"], op["bias"] = writer.array(op["weight"]), writer.array(op["bias"])
    program = {
        "format": FORMAT,
        "sigma_power": 1 if network.architecture.scale_by_sigma else 2,
        "channels": writer.channels,
        "vectors": writer.vectors,
        "images": writer.images,
        "output": writer.meaning[output.args[0]][1],  # type: ignore[index]
    }
    (folder / PROGRAM).write_text(json.dumps(program) + "\n")
