"""Whether a network denoises: what decides between settings that leave no trace in its tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: A setting found by trial must denoise at least this much better than its best rival.
MARGIN = 1.5
#: A network whose σ-weighted score error is above this denoises nothing (predicting no noise at all gives 1).
DENOISES = 0.5


def noisy_images(divisor: int, sigma_range: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """Smooth synthetic images, in [0, 1], with noise of several levels of the range.

    Returns
    -------
    x, noise : float (n, 1, side, side)
        The images are x − σ·noise.
    sigma : float (n,)
    """
    generator = torch.Generator().manual_seed(0)
    side = max(32, 4 * divisor)
    grid = torch.linspace(-1, 1, side)
    radius2 = grid[:, None] ** 2 + (1.3 * grid[None, :]) ** 2
    clean = (0.6 * torch.sigmoid((0.6 - radius2) * 12))[None, None]
    position = torch.linspace(0.25, 0.95, 8)
    low, high = sigma_range
    sigma = low * torch.exp(position * math.log(high / low))
    noise = torch.randn(len(sigma), 1, side, side, generator=generator)
    return clean + sigma[:, None, None, None] * noise, noise, sigma


def mean_error(weighted_score: Tensor, noise: Tensor) -> float:
    """Mean of ‖σ·score + noise‖² / ‖noise‖² over images of several noise levels.

    A trained network is well below 1 at every level where the images are smoother than the noise; a network read with
    the wrong conventions is not.
    """
    error = (weighted_score + noise).square().mean(dim=(1, 2, 3)) / noise.square().mean(dim=(1, 2, 3))
    # The logarithm keeps one hopeless level from hiding what the others say.
    return float(torch.exp(torch.log(error.nan_to_num(nan=1e6).clamp(1e-6, 1e6)).mean()))
