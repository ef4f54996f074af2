"""What every network of this package promises: the mean of the clean image given the noisy one."""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor, nn


class DenoisingNetwork(nn.Module, abc.ABC):
    """``denoise(x, sigma) → x̂₀`` for x = x₀ + σ·noise, whatever the network inside was trained to predict."""

    @property
    @abc.abstractmethod
    def divisor(self) -> int:
        """Image sides must be multiples of this."""

    @property
    @abc.abstractmethod
    def sigma_range(self) -> tuple[float, float]:
        """Smallest and largest noise level of the training, in units of image intensity."""

    @property
    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that fixes the network beside its weights, as plain values; ``sigma_min`` and ``sigma_max`` are among
        them."""

    @abc.abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return x̂₀.

        Parameters
        ----------
        x : float (n, 1, h, w)
            Noisy images; h and w multiples of `divisor`.
        sigma : float (n,)
            Noise level of each image, within `sigma_range`.

        Returns
        -------
        float (n, 1, h, w)
        """
