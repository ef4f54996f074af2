"""Building blocks of NCSN++, with parameter names as score_sde stores them.

Only standard operators: 1×1 convolutions where score_sde uses einsum, FIR resampling as (strided, transposed) depthwise
convolution where it uses a custom upfirdn2d. Source: Song et al., ICLR 2021, and the checkpoint layout of its PyTorch
release.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIR_TAPS = (1.0, 3.0, 3.0, 1.0)


def init_uniform(shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    """Variance-scaling uniform initialisation over the mean of fan-in and fan-out (score_sde's default)."""
    receptive = math.prod(shape[2:])
    fan_mean = (shape[0] + shape[1]) * receptive / 2
    # A scale of 0 means "almost zero": exact zeros would block the gradient of the layers before.
    bound = math.sqrt(3 * max(scale, 1e-10) / fan_mean)
    return torch.empty(shape).uniform_(-bound, bound)


def conv(
    n_in: int, n_out: int, kernel: int = 3, stride: int = 1, padding: int | None = None, scale: float = 1.0
) -> nn.Conv2d:
    """A convolution with score_sde's initialisation; "same" padding unless given."""
    layer = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2 if padding is None else padding)
    layer.weight.data = init_uniform(tuple(layer.weight.shape), scale)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


def dense(n_in: int, n_out: int) -> nn.Linear:
    """A linear layer with score_sde's initialisation."""
    layer = nn.Linear(n_in, n_out)
    layer.weight.data = init_uniform(tuple(layer.weight.shape))
    nn.init.zeros_(layer.bias)
    return layer


def group_norm(n_channels: int) -> nn.GroupNorm:
    """Group normalisation with score_sde's number of groups."""
    return nn.GroupNorm(min(n_channels // 4, 32), n_channels, eps=1e-6)


class GroupNormSilu(nn.GroupNorm):
    """Group normalisation followed by SiLU: one operator, because the two always come together before a convolution."""

    def __init__(self, n_channels: int):
        super().__init__(min(n_channels // 4, 32), n_channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class FourierFeatures(nn.Module):
    """Gaussian Fourier features of ln σ: (n,) -> (n, 2·n_features)."""

    def __init__(self, n_features: int, scale: float = 16.0):
        super().__init__()
        self.W = nn.Parameter(torch.randn(n_features) * scale, requires_grad=False)

    def forward(self, log_sigma: Tensor) -> Tensor:
        phase = log_sigma[:, None] * self.W[None, :] * (2 * math.pi)
        return torch.cat([torch.sin(phase), torch.cos(phase)], dim=-1)


class PositionalFeatures(nn.Module):
    """Sines and cosines of a noise level's number, from ln σ: (n,) -> (n, 2·(n_features // 2)).

    The levels are `n_levels` in geometric progression, number 0 the largest; in between numbers are fractions.
    """

    def __init__(self, n_features: int, sigma_min: float, sigma_max: float, n_levels: int):
        super().__init__()
        half = n_features // 2
        self.first = math.log(sigma_max)
        self.per_unit = (n_levels - 1) / math.log(sigma_max / sigma_min)
        # On the CPU even where parameters are only described: no checkpoint could fill it later.
        exponents = torch.arange(half, dtype=torch.float32, device="cpu") * -(math.log(10000) / (half - 1))
        self.register_buffer("frequencies", torch.exp(exponents), persistent=False)

    def forward(self, log_sigma: Tensor) -> Tensor:
        phase = ((self.first - log_sigma) * self.per_unit)[:, None] * cast(Tensor, self.frequencies)
        return torch.cat([torch.sin(phase), torch.cos(phase)], dim=-1)


class PointwiseConv(nn.Module):
    """A 1×1 convolution that stores its weight as (in, out), as score_sde's NIN does."""

    def __init__(self, n_in: int, n_out: int, scale: float = 0.1):
        super().__init__()
        self.W = nn.Parameter(init_uniform((n_in, n_out), scale))
        self.b = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.W.t()[:, :, None, None], self.b)


class FirFilter(nn.Module):
    """Depthwise separable-binomial filter (1, 3, 3, 1)², at stride 1, 2 (down) or 1/2 (up), zeros outside the image.

    Parameters
    ----------
    mode : "same", "down" or "up"
        "same" keeps the stride; its `padding` decides the output side h + 2·padding − 3.
    """

    def __init__(self, mode: str, padding: int = 1):
        super().__init__()
        self.mode, self.padding = mode, padding
        # On the CPU even where parameters are only described: this buffer is in no checkpoint that could fill it later.
        taps = torch.tensor(FIR_TAPS, device="cpu")
        kernel = taps[:, None] * taps[None, :] / taps.sum() ** 2
        # Zeros inserted between samples dilute the signal by four: the gain restores it.
        self.register_buffer("kernel", (4 * kernel if mode == "up" else kernel)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        kernel = cast(Tensor, self.kernel).expand(n, 1, 4, 4)
        if self.mode == "up":
            return F.conv_transpose2d(x, kernel, stride=2, padding=self.padding, groups=n)
        return F.conv2d(x, kernel, stride=2 if self.mode == "down" else 1, padding=self.padding, groups=n)


class NearestUp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


def resampler(direction: str, fir: bool) -> nn.Module:
    """Parameter-free resampling by two, "up" or "down"."""
    if fir:
        return FirFilter(direction)
    return NearestUp() if direction == "up" else nn.AvgPool2d(2)


class FirConv(nn.Module):
    """A 3×3 convolution merged with FIR resampling by two, padded once (StyleGAN2's order of operations)."""

    def __init__(self, n_in: int, n_out: int, direction: str):
        super().__init__()
        self.direction = direction
        self.weight = nn.Parameter(init_uniform((n_out, n_in, 3, 3)))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.filter = FirFilter("same", padding=2) if direction == "down" else FirFilter("same", padding=1)
        if direction == "up":
            self.filter.kernel = cast(Tensor, self.filter.kernel) * 4

    def forward(self, x: Tensor) -> Tensor:
        if self.direction == "down":
            return F.conv2d(self.filter(x), self.weight, self.bias, stride=2)
        # A transposed convolution with the flipped kernel is the plain convolution of the zero-stuffed image.
        spread = F.conv_transpose2d(x, self.weight.flip(2, 3).transpose(0, 1), stride=2)
        return self.filter(spread) + self.bias[:, None, None]


class Downsample(nn.Module):
    """Halve both sides, with or without a convolution. The child names follow score_sde's checkpoints."""

    def __init__(self, n_in: int, n_out: int | None = None, with_conv: bool = False, fir: bool = False):
        super().__init__()
        n_out = n_out or n_in
        self.with_conv, self.fir = with_conv, fir
        if not with_conv:
            self.resample = resampler("down", fir)
        elif fir:
            self.Conv2d_0 = FirConv(n_in, n_out, "down")
        else:
            self.Conv_0 = conv(n_in, n_out, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.with_conv:
            return cast(Tensor, self.resample(x))
        if self.fir:
            return cast(Tensor, self.Conv2d_0(x))
        return cast(Tensor, self.Conv_0(F.pad(x, (0, 1, 0, 1))))


class Upsample(nn.Module):
    """Double both sides, with or without a convolution. The child names follow score_sde's checkpoints."""

    def __init__(self, n_in: int, n_out: int | None = None, with_conv: bool = False, fir: bool = False):
        super().__init__()
        n_out = n_out or n_in
        self.with_conv, self.fir = with_conv, fir
        if with_conv and fir:
            self.Conv2d_0 = FirConv(n_in, n_out, "up")
            return
        self.resample = resampler("up", fir)
        if with_conv:
            self.Conv_0 = conv(n_in, n_out)

    def forward(self, x: Tensor) -> Tensor:
        if self.with_conv and self.fir:
            return cast(Tensor, self.Conv2d_0(x))
        x = self.resample(x)
        return cast(Tensor, self.Conv_0(x)) if self.with_conv else x


class Combine(nn.Module):
    """Join an input pyramid to the features after a 1×1 convolution."""

    def __init__(self, n_pyramid: int, n_features: int, method: str):
        super().__init__()
        self.Conv_0 = conv(n_pyramid, n_features, kernel=1)
        self.method = method

    def forward(self, pyramid: Tensor, h: Tensor) -> Tensor:
        joined = self.Conv_0(pyramid)
        return torch.cat([joined, h], dim=1) if self.method == "cat" else joined + h


def residual_sum(x: Tensor, h: Tensor, rescale: bool) -> Tensor:
    """x + h, divided by √2 where the architecture keeps the variance constant."""
    return (x + h) * math.sqrt(0.5) if rescale else x + h


class Attention(nn.Module):
    """Self-attention over all pixels, one head: (n, c, h, w) -> (n, c, h, w)."""

    def __init__(self, n: int, skip_rescale: bool):
        super().__init__()
        self.GroupNorm_0 = group_norm(n)
        self.NIN_0, self.NIN_1, self.NIN_2 = PointwiseConv(n, n), PointwiseConv(n, n), PointwiseConv(n, n)
        self.NIN_3 = PointwiseConv(n, n, scale=0.0)
        self.skip_rescale = skip_rescale

    def forward(self, x: Tensor) -> Tensor:
        c = x.shape[1]
        normed = self.GroupNorm_0(x)
        q, k, v = (project(normed).flatten(2) for project in (self.NIN_0, self.NIN_1, self.NIN_2))
        weights = torch.softmax(q.transpose(1, 2) @ k * c**-0.5, dim=-1)
        mixed = (v @ weights.transpose(1, 2)).reshape(x.shape)
        return residual_sum(x, self.NIN_3(mixed), self.skip_rescale)


class ResBlock(nn.Module):
    """The residual block of NCSN++.

    Parameters
    ----------
    kind : "biggan" or "ddpm"
        "biggan" may resample by `direction` and has a 1×1 convolution as its shortcut; "ddpm" has a pointwise layer.
    direction : "up", "down" or None
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_embedding: int,
        kind: str,
        skip_rescale: bool,
        direction: str | None = None,
        fir: bool = False,
    ):
        super().__init__()
        self.GroupNorm_0 = GroupNormSilu(n_in)
        self.Conv_0 = conv(n_in, n_out)
        self.Dense_0 = dense(n_embedding, n_out)
        self.GroupNorm_1 = GroupNormSilu(n_out)
        self.Conv_1 = conv(n_out, n_out, scale=0.0)
        self.resample = resampler(direction, fir) if direction else None
        self.shortcut = None
        if n_in != n_out or direction:
            self.shortcut = "Conv_2" if kind == "biggan" else "NIN_0"
            setattr(
                self, self.shortcut, conv(n_in, n_out, kernel=1) if kind == "biggan" else PointwiseConv(n_in, n_out)
            )
        self.skip_rescale = skip_rescale

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.GroupNorm_0(x)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.Conv_0(h) + self.Dense_0(F.silu(embedding))[:, :, None, None]
        h = self.Conv_1(self.GroupNorm_1(h))
        if self.shortcut is not None:
            x = getattr(self, self.shortcut)(x)
        return residual_sum(x, h, self.skip_rescale)
