"""The network in half precision, placed as in the half-precision engines, in eager PyTorch: it runs on any device."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.sampling.denoiser import CotangentOf, Denoiser
from networks import NCSNpp
from networks.layers import Downsample, FirConv, FirFilter, NearestUp, PointwiseConv, ResBlock


class _InFloat32(nn.Module):
    """A layer that computes in float32, whatever comes in; what goes out has the precision of the rest."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.layer, self.dtype = layer, dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.float()).to(self.dtype)


def half_network(network: NCSNpp, dtype: torch.dtype, ends_too: bool = False) -> NCSNpp:
    """Return a copy whose convolutions, attention and sums are computed in `dtype`.

    As in the engines, these stay float32: the embedding of σ, normalisation with its statistics, images of one channel
    with the layers that read or write them, and x̂₀ = x + σ·raw.

    Parameters
    ----------
    network : NCSNpp
        float32.
    dtype : torch.dtype
        float16 or bfloat16.
    ends_too : bool
        Halve the layers that read or write images as well, unlike the engines: where the noise is faint, rounding the
        image itself is the largest error by far.
    """
    half = copy.deepcopy(network)
    layers = half.all_modules
    # The first convolution comes after the three layers of the embedding. Of the input pyramid's layers only the first
    # reads an image; the others read features.
    pyramid = [i for i, layer in enumerate(layers) if isinstance(layer, Downsample)]
    ends = {3, len(layers) - 1, *pyramid[:1]}
    kept = {i: layers[i] for i in ends if not ends_too}
    for i in kept:
        layers[i] = nn.Identity()
    _convert(half, dtype)
    # The noisy image arrives in float32: whichever layers take it, bring it down.
    for module in half.modules():
        if isinstance(module, (nn.Conv2d, FirConv, FirFilter, NearestUp, PointwiseConv)):
            module.register_forward_pre_hook(lambda _module, inputs: tuple(t.to(dtype) for t in inputs))
    for i, layer in kept.items():
        layers[i] = _InFloat32(layer, torch.float32 if i == len(layers) - 1 else dtype)
    return half.eval().requires_grad_(False)


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm) or (isinstance(module, ResBlock) and name == "Dense_0"):
            setattr(module, name, _InFloat32(child, dtype))
        elif isinstance(child, (nn.Conv2d, FirConv, FirFilter, PointwiseConv)):
            child.to(dtype)
        else:
            _convert(child, dtype)


class TorchDenoiser(Denoiser):
    """A PyTorch network as a denoiser; gradients by autograd.

    Parameters
    ----------
    network : NCSNpp
        On any device, of any precision.
    batch_size : int
        Slices in one pass.
    """

    def __init__(self, network: NCSNpp, batch_size: int):
        self.network, self.batch_size = network, batch_size
        self.sigma_range = network.architecture.sigma_min, network.architecture.sigma_max
        self._place = next(network.parameters()).device

    def _parts(self, n: int) -> list[slice]:
        return [slice(i, min(i + self.batch_size, n)) for i in range(0, n, self.batch_size)]

    def _inputs(self, x: np.ndarray, sigma: float) -> tuple[Tensor, Tensor]:
        tensor = torch.from_numpy(x)[:, None].to(self._place)
        return tensor, torch.full((len(x),), sigma, device=self._place)

    def _denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        x0 = np.empty_like(x)
        with torch.no_grad():
            for part in self._parts(len(x)):
                x0[part] = self.network.denoise(*self._inputs(x[part], sigma))[:, 0].cpu().numpy()
        return x0

    def _vjp(self, x: np.ndarray, sigma: float, cotangent: CotangentOf) -> tuple[np.ndarray, np.ndarray]:
        x0, pulled = np.empty_like(x), np.empty_like(x)
        for part in self._parts(len(x)):
            image, level = self._inputs(x[part], sigma)
            image.requires_grad_()
            estimate = self.network.denoise(image, level)
            x0[part] = estimate.detach()[:, 0].cpu().numpy()
            towards: Any = torch.from_numpy(np.ascontiguousarray(cotangent(x0[part], part)))[:, None].to(self._place)
            # The pullback is linear: taken of a cotangent of size one it neither overflows half precision, which an
            # unscaled Fourier transform times σ would, nor underflows.
            size = (towards.abs().amax(dim=(1, 2, 3), keepdim=True) * max(sigma, 1.0)).clamp(min=1e-30)
            (gradient,) = torch.autograd.grad(estimate, image, towards / size)
            pulled[part] = (gradient * size)[:, 0].cpu().numpy()
        return x0, pulled
