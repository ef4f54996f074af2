"""Layers of the packages diffusers and MONAI in operators that export well; each equals the one that it replaces."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn


class SinusoidalTime(nn.Module):
    """Sines and cosines of the time at fixed frequencies: (n,) -> (n, 2·frequencies)."""

    def __init__(self, layer: Any):
        super().__init__()
        half = layer.num_channels // 2
        # In float32 and in this order, as the package computes them.
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32)
        frequencies = torch.exp(exponent / (half - layer.downscale_freq_shift)) * layer.scale
        self.register_buffer("frequencies", frequencies)
        self.flip = bool(layer.flip_sin_to_cos)

    def forward(self, time: Tensor) -> Tensor:
        phase = time[:, None] * cast(Tensor, self.frequencies)
        waves = [torch.sin(phase), torch.cos(phase)]
        return torch.cat(waves[::-1] if self.flip else waves, dim=-1)


class PixelAttention(nn.Module):
    """Self-attention over all pixels, in heads: (n, c, h, w) -> (n, c, h, w)."""

    def __init__(self, layer: Any, out: nn.Module, norm: nn.Module | None, n_heads: int):
        super().__init__()
        self.norm, self.n_heads, self.scale = norm, n_heads, layer.scale
        self.to_q, self.to_k, self.to_v = (_pointwise(linear) for linear in (layer.to_q, layer.to_k, layer.to_v))
        self.to_out = _pointwise(out) if isinstance(out, nn.Linear) else out
        # MONAI's are always added to their input.
        self.residual = getattr(layer, "residual_connection", True)
        self.divide_by = getattr(layer, "rescale_output_factor", 1)

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        normed = x if self.norm is None else self.norm(x)
        n, height, width = x.shape[0], x.shape[2], x.shape[3]
        q, k, v = (
            project(normed).reshape(n * self.n_heads, -1, height * width)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        weights = torch.softmax(q.transpose(1, 2) @ k * self.scale, dim=-1)
        out = self.to_out((v @ weights.transpose(1, 2)).reshape(n, -1, height, width))
        return ((x + out) if self.residual else out) * (1 / self.divide_by)


class Doubling(nn.Module):
    """Nearest-neighbour resampling by two, then a convolution or none."""

    def __init__(self, up: nn.Module, convolution: nn.Module | None):
        super().__init__()
        self.up, self.convolution = up, convolution

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        x = self.up(x)
        return x if self.convolution is None else cast(Tensor, self.convolution(x))


class Halving(nn.Module):
    """Halves both sides by a layer; keeps the arguments that the package passes."""

    def __init__(self, down: nn.Module):
        super().__init__()
        self.down = down

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return cast(Tensor, self.down(x))


def _pointwise(linear: nn.Linear) -> nn.Conv2d:
    out = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None)
    out.weight.data = linear.weight.data[:, :, None, None]
    if linear.bias is not None:
        out.bias = linear.bias
    return out


def replacement_of(
    layer: nn.Module,
    norm: Callable[[nn.GroupNorm, bool], nn.Module],
    resample: Callable[[bool], nn.Module],
    strided: Callable[[nn.Conv2d], nn.Module],
) -> nn.Module | None:
    """An equal layer of exportable operators; None where the packages' own will do.

    Parameters
    ----------
    layer : Module
        Any; only those of the packages are replaced.
    norm : callable
        Makes a group normalisation, with SiLU if asked for.
    resample : callable
        Makes box resampling by two, up or down.
    strided : callable
        Makes the equal of a 3×3 convolution of stride 2 that pads below and to the right only.

    Raises
    ------
    NotImplementedError
        A kind of attention or resampling that no image model of the package uses.
    """
    it = cast(Any, layer)
    if type(layer).__module__.startswith("monai.") and type(layer).__name__ == "SpatialAttentionBlock":
        attention = it.attn
        plain = not (attention.use_combined_linear or attention.causal or attention.rel_positional_embedding)
        if not plain:
            return None
        out = attention.out_proj if attention.include_fc else nn.Identity()
        return PixelAttention(attention, out, norm(it.norm, False), attention.num_heads)
    kind = type(layer).__name__ if type(layer).__module__.startswith("diffusers.") else ""
    if kind == "Timesteps":
        return SinusoidalTime(it)
    if kind == "Attention":
        plain = it.spatial_norm is None and it.norm_q is None and it.norm_k is None and not it.only_cross_attention
        if not plain:
            raise NotImplementedError("attention with normalised queries, spatial normalisation or other inputs")
        return PixelAttention(it, it.to_out[0], None if it.group_norm is None else norm(it.group_norm, False), it.heads)
    if kind == "Upsample2D":
        if it.norm is not None or it.use_conv_transpose or not it.interpolate:
            raise NotImplementedError("up sampling other than nearest neighbour with a convolution")
        convolution = (it.conv if it.name == "conv" else it.Conv2d_0) if it.use_conv else None
        return Doubling(resample(True), convolution)
    if kind == "Downsample2D":
        if it.norm is not None:
            raise NotImplementedError("down sampling with a normalisation")
        if not it.use_conv:
            return Halving(resample(False))
        return Halving(strided(it.conv) if it.padding == 0 else it.conv)
    return None


def fuse_silu(layer: nn.Module, norm: Callable[[nn.GroupNorm, bool], nn.Module]) -> None:
    """Join normalisations with the SiLU that follows them, in place, where nothing comes between the two."""
    kind = type(layer).__name__ if type(layer).__module__.startswith("diffusers.") else ""
    it = cast(Any, layer)
    if kind == "ResnetBlock2D" and isinstance(it.nonlinearity, nn.SiLU) and it.time_embedding_norm == "default":
        it.norm1, it.norm2, it.nonlinearity = norm(it.norm1, True), norm(it.norm2, True), nn.Identity()
        if it.time_emb_proj is not None and not it.skip_time_act:
            it.time_emb_proj = nn.Sequential(nn.SiLU(), it.time_emb_proj)
    elif kind == "UNet2DModel" and isinstance(it.conv_act, nn.SiLU):
        it.conv_norm_out, it.conv_act = norm(it.conv_norm_out, True), nn.Identity()
