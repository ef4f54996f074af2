"""Rewrites a score network into operators that export well, forward and backward.

Each operator here equals the PyTorch layer it replaces. Normalisation and resampling carry hand-written pullbacks, so
that a traced vector-Jacobian product holds convolutions, a few reductions and element-wise arithmetic: no
shape-dependent scalars, no Pad, no Einsum, and no depthwise transposed convolution, for which ONNX Runtime's CPU
kernels are slow.
"""

from __future__ import annotations

import copy
import math
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.trace.package_layers import fuse_silu, replacement_of
from networks import NCSNpp
from networks.denoiser import DenoisingNetwork
from networks.layers import (
    Downsample,
    FirFilter,
    FourierFeatures,
    GroupNormSilu,
    NearestUp,
    PointwiseConv,
    PositionalFeatures,
    ResBlock,
)


class GroupNormSiluFn(torch.autograd.Function):
    """silu(group_norm(x)), with the pullback written out as two means a group.

    The built-in backward ends in scalars that depend on the shape, which the exporter refuses.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, n_groups: int, eps: float, activate: bool
    ) -> tuple[Tensor, ...]:  # type: ignore[override]
        n = x.shape[0]
        grouped = x.reshape(n, n_groups, -1)
        centred = grouped - grouped.mean(-1, keepdim=True)
        rstd = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
        per_channel = _per_channel(rstd, weight)
        u = centred.reshape(x.shape) * per_channel + bias[:, None, None]
        if not activate:
            return u, centred, rstd, rstd
        gate = torch.sigmoid(u)
        y = u * gate
        # The slope, gate + u·gate·(1 − gate), is taken here and not in the pullback: one tensor to keep instead of two.
        return y, centred, rstd, gate + y * (1 - gate)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, weight, _, _, _, ctx.activate = inputs
        y, centred, rstd, slope = output
        ctx.shape = y.shape
        ctx.mark_non_differentiable(centred, rstd, slope)
        # Without this, unused outputs would bring tensors of zeros into the traced graph.
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight, centred, rstd, slope)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, centred, rstd, slope = ctx.saved_tensors
        du = grad * slope if ctx.activate else grad
        scaled = (du * _per_channel(rstd, weight)).reshape(centred.shape)
        along = (scaled * centred).mean(-1, keepdim=True) * (rstd * rstd)
        dx = scaled - scaled.mean(-1, keepdim=True) - centred * along
        return dx.reshape(ctx.shape), None, None, None, None, None


def _per_channel(rstd: Tensor, weight: Tensor) -> Tensor:
    """Product of a factor per group (n, g, 1) and a weight per channel (c,), as (n, c, 1, 1)."""
    n_groups = rstd.shape[1]
    return (rstd * weight.reshape(n_groups, -1)).reshape(rstd.shape[0], weight.shape[0], 1, 1)


class LoweredGroupNorm(nn.Module):
    """Group normalisation, with SiLU fused in where the network applies it next."""

    def __init__(self, norm: nn.GroupNorm, activate: bool):
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.n_groups, self.eps, self.activate = norm.num_groups, norm.eps, activate

    def forward(self, x: Tensor) -> Tensor:
        outputs = GroupNormSiluFn.apply(x, self.weight, self.bias, self.n_groups, self.eps, self.activate)  # type: ignore[no-untyped-call]
        return cast(Tensor, outputs[0])


@torch.library.custom_op("tpdm::double_pixels", mutates_args=())
def double_pixels(x: Tensor) -> Tensor:
    """Nearest-neighbour resampling by two, opaque to the tracer: one Resize in ONNX instead of a page of index
    arithmetic."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


@double_pixels.register_fake
def _(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.new_empty(n, c, 2 * h, 2 * w)


def _down(x: Tensor, kernel: Tensor) -> Tensor:
    n = x.shape[1]
    return F.conv2d(x, kernel.expand(n, 1, *kernel.shape[2:]), stride=2, padding=kernel.shape[2] // 2 - 1, groups=n)


def _up(x: Tensor, blur: Tensor | None) -> Tensor:
    """Transpose of `_down`: nearest neighbour, then a 3×3 blur for the 4×4 kernel.

    Zero-stuffing followed by (1, 3, 3, 1) is pixel doubling followed by (1, 2, 1), borders included.
    """
    x = cast(Tensor, double_pixels(x))
    if blur is None:
        return x
    n = x.shape[1]
    return F.conv2d(x, blur.expand(n, 1, 3, 3), padding=1, groups=n)


class ResampleFn(torch.autograd.Function):
    """Resampling by two; "up" is `gain`·(transpose of "down"), and each is the other's pullback."""

    @staticmethod
    def forward(x: Tensor, kernel: Tensor, blur: Tensor | None, up: bool) -> Tensor:  # type: ignore[override]
        return _up(x, blur) if up else _down(x, kernel)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.kernel, ctx.blur, ctx.up = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # Up sampling keeps intensities, so it is four times the transpose of the averaging down sampling.
        dx = 4 * _down(grad, ctx.kernel) if ctx.up else 0.25 * _up(grad, ctx.blur)
        return dx, None, None, None


class LoweredResample(nn.Module):
    """FIR or box resampling by two."""

    def __init__(self, up: bool, fir: bool):
        super().__init__()
        self.up = up
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0] if fir else [1.0, 1.0])
        self.register_buffer("kernel", (taps[:, None] * taps / taps.sum() ** 2)[None, None])
        blur = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("blur", (blur[:, None] * blur / 16)[None, None] if fir else None)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, ResampleFn.apply(x, self.kernel, self.blur, self.up))  # type: ignore[no-untyped-call]


class SiluFn(torch.autograd.Function):
    """SiLU, with a pullback that keeps one tensor, the slope; the built-in one fills tensors in place."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        gate = torch.sigmoid(x)
        y = x * gate
        return y, gate + y * (1 - gate)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return grad * cast(Tensor, slope)


class LoweredSilu(nn.Module):
    """SiLU where no normalisation comes directly before it."""

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, SiluFn.apply(x)[0])  # type: ignore[no-untyped-call]


class Scale(nn.Module):
    """Multiplication by a constant."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def _fold_rescale(block: ResBlock) -> None:
    """Move the factor √½ of the residual sum into the convolutions before it: two passes over the image less."""
    if not block.skip_rescale:
        return
    block.skip_rescale = False
    branches = [block.Conv_1]
    if block.shortcut is None:
        block.shortcut, block.scale = "scale", Scale(math.sqrt(0.5))
    else:
        branches.append(getattr(block, block.shortcut))
    for layer in branches:
        layer.weight.data = layer.weight.data * math.sqrt(0.5)
        layer.bias.data = layer.bias.data * math.sqrt(0.5)  # type: ignore[union-attr]


def _pointwise(layer: PointwiseConv) -> nn.Conv2d:
    n_in, n_out = layer.W.shape
    out = nn.Conv2d(n_in, n_out, 1)
    out.weight.data, out.bias = layer.W.data.t()[:, :, None, None].contiguous(), layer.b  # type: ignore[assignment]
    return out


def _strided(inner: nn.Conv2d) -> nn.Conv2d:
    """The 3×3 convolution of stride 2 that pads below and to the right only, as a 4×4 one that pads on all sides.

    The added first row and column of weights are zeros.
    """
    out = nn.Conv2d(inner.in_channels, inner.out_channels, 4, stride=2, padding=1)
    out.weight.data, out.bias = F.pad(inner.weight.data, (1, 0, 1, 0)), inner.bias
    return out


def _box(up: bool) -> LoweredResample:
    return LoweredResample(up, fir=False)


Network = TypeVar("Network", bound=DenoisingNetwork)


def _fourier_of_positional(network: NCSNpp) -> None:
    """Replace sines and cosines of a level's number by Fourier features of ln σ, which every runner has.

    The number is linear in ln σ: its constant part turns each pair of sine and cosine by an angle, which moves into the
    dense layer after them.
    """
    features = cast(PositionalFeatures, network.positional)
    frequencies = cast(Tensor, features.frequencies).double()
    fourier = FourierFeatures(len(frequencies))
    fourier.W.data = (-features.per_unit * frequencies / (2 * math.pi)).float()
    angle = features.first * features.per_unit * frequencies
    layer = cast(nn.Linear, network.all_modules[0])
    of_sine, of_cosine = layer.weight.data.double().chunk(2, dim=1)
    turned = [
        of_sine * torch.cos(angle) - of_cosine * torch.sin(angle),
        of_sine * torch.sin(angle) + of_cosine * torch.cos(angle),
    ]
    layer.weight.data = torch.cat(turned, dim=1).float()
    network.positional = fourier  # type: ignore[assignment]


def lower(network: Network) -> Network:
    """Return an equal network made of the operators of this module; the original stays as it is."""
    lowered = copy.deepcopy(network)
    if isinstance(lowered, NCSNpp) and lowered.positional is not None:
        _fourier_of_positional(lowered)
    _lower_children(lowered)
    return lowered.eval().requires_grad_(False)


def _lower_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        replacement: nn.Module | None = None
        if isinstance(child, nn.GroupNorm):
            replacement = LoweredGroupNorm(child, activate=isinstance(child, GroupNormSilu))
        elif isinstance(child, FirFilter) and child.mode != "same":
            replacement = LoweredResample(child.mode == "up", fir=True)
        elif isinstance(child, (NearestUp, nn.AvgPool2d)):
            replacement = _box(isinstance(child, NearestUp))
        elif isinstance(child, nn.Upsample) and child.mode == "nearest" and child.scale_factor in (2, (2.0, 2.0)):
            replacement = _box(True)
        elif isinstance(child, Downsample) and child.with_conv and not child.fir:
            replacement = _strided(child.Conv_0)
        elif isinstance(child, nn.SiLU):
            replacement = LoweredSilu()
        elif isinstance(child, PointwiseConv):
            replacement = _pointwise(child)
        else:
            replacement = replacement_of(child, LoweredGroupNorm, _box, _strided)
        if replacement is None:
            fuse_silu(child, LoweredGroupNorm)
            _lower_children(child)
            if isinstance(child, ResBlock):
                _fold_rescale(child)
        else:
            setattr(module, name, replacement)
