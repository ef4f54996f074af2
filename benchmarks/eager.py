"""The baseline: eager PyTorch, gradients by autograd through the network, as the reference implementation does it."""

from __future__ import annotations

import torch
from torch import Tensor

from networks import NCSNpp


def denoise(network: NCSNpp, x: Tensor, sigma: Tensor) -> Tensor:
    """x̂₀ without a graph for autograd; arguments as in `NCSNpp.denoise`."""
    with torch.no_grad():
        return network.denoise(x, sigma)


def guided_step(
    network: NCSNpp, x: Tensor, sigma: Tensor, mask: Tensor, measurement: Tensor, group: int
) -> tuple[Tensor, Tensor]:
    """x̂₀ and ∇ₓ‖mask · F x̂₀ − y‖₂, the norm over groups of slices.

    Parameters
    ----------
    network : NCSNpp
    x : float32 (n, 1, h, w)
    sigma : float32 (n,)
    mask : float32 (h, w)
    measurement : complex64 (n, 1, h, w)
        Centred k-space.
    group : int

    Returns
    -------
    x0, gradient : float32 (n, 1, h, w)
    """
    x = x.detach().requires_grad_()
    x0 = network.denoise(x, sigma)
    kspace = torch.fft.fftshift(torch.fft.fft2(x0), dim=(-2, -1))
    residual = kspace * mask - measurement
    # Groups do not depend on each other, so that one backward pass serves the sum of their norms.
    norms = [torch.linalg.vector_norm(r) for r in torch.tensor_split(residual, -(-len(x) // group))]
    (gradient,) = torch.autograd.grad(torch.stack(norms).sum(), x)
    return x0.detach(), gradient
