"""Traces the denoiser and its vector-Jacobian product into plain operator graphs.

``torch.func.vjp`` of the network is traced by ``make_fx`` with symbolic shapes, so that the backward pass becomes
ordinary operators that any exporter can write; nothing of autograd remains.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from export.trace.lowering import lower
from networks.denoiser import DenoisingNetwork

aten = torch.ops.aten


class Adjoint(nn.Module):
    """(x, sigma, cotangent) -> (x̂₀, (∂x̂₀/∂x)ᵀ · cotangent)."""

    def __init__(self, network: DenoisingNetwork):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sigma: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        x0, pull, *_ = torch.func.vjp(lambda z: self.network.denoise(z, sigma), x)
        return x0, pull(cotangent)[0]


def _convolution_input_gradient(
    grad: Tensor, x: Tensor, w: Tensor, _bias: Any, stride: list[int], padding: list[int], dilation: list[int],
    transposed: bool, _output_padding: Any, groups: int, mask: list[bool],
) -> tuple[Tensor, None, None]:  # fmt: skip
    """Pullback of a convolution to its input, as a convolution wherever there is one.

    ``convolution_backward`` has no ONNX counterpart. Weights are constants here, so that only the input's gradient
    exists.
    """
    assert not mask[1] and not mask[2], "weights are constants here"
    if transposed:
        return aten.convolution(grad, w, None, stride, padding, dilation, False, [0, 0], groups), None, None
    if all(s == 1 for s in stride) and (groups == 1 or w.shape[1] == 1):
        pad = [(w.shape[2 + i] - 1) * dilation[i] - padding[i] for i in range(2)]
        flipped = w.flip([2, 3]) if groups > 1 else w.flip([2, 3]).transpose(0, 1)
        return aten.convolution(grad, flipped, None, [1, 1], pad, dilation, False, [0, 0], groups), None, None
    # Rows and columns that the stride left over at the far border.
    rest = [
        x.shape[2 + i] - ((grad.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (w.shape[2 + i] - 1) + 1)
        for i in range(2)
    ]
    return aten.convolution(grad, w, None, stride, padding, dilation, True, rest, groups), None, None


def _split_with_sizes(x: Tensor, sizes: list[int], dim: int = 0) -> list[Tensor]:
    """Channels in parts, as slices: every operator of the graph then has one result."""
    ends = list(itertools.accumulate(sizes))
    return [aten.slice(x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _decompositions() -> dict[Any, Callable[..., Any]]:
    table = dict(core_aten_decompositions())
    table[aten.convolution_backward.default] = _convolution_input_gradient
    table[aten.split_with_sizes.default] = _split_with_sizes
    table[aten.split.Tensor] = lambda x, size, dim=0: _split_with_sizes(
        x, [min(size, x.shape[dim] - start) for start in range(0, x.shape[dim], size)], dim
    )
    table[aten.empty_permuted.default] = lambda size, order, **kw: aten.full(size, 0.0, dtype=kw.get("dtype"))
    return table


def trace(network: DenoisingNetwork) -> fx.GraphModule:
    """Return the adjoint, (x, sigma, cotangent) -> (x̂₀, pullback), as one graph of core ATen operators with symbolic
    shapes.

    The graph of the denoiser is the part of it that x̂₀ depends on.
    """
    divisor = network.divisor
    # The smallest images whose height, width and batch never agree by accident: the tracer would take equal sizes for
    # one.
    x = torch.zeros(2, 1, 4 * divisor, 6 * divisor)
    inputs = (x, torch.ones(2), x.clone())
    # Attention as products and a softmax, which any runtime has.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        return make_fx(
            Adjoint(lower(network)),
            decomposition_table=_decompositions(),
            tracing_mode="symbolic",
            _allow_non_fake_inputs=True,
        )(*inputs)
