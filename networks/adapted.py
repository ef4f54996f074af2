"""Networks of other packages as denoisers of this one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from engine.errors import InputError
from networks.denoiser import DenoisingNetwork
from networks.schedule import Schedule


class AdaptedNetwork(DenoisingNetwork):
    """A network of another package, called as ``network(images, times)``, and the schedule that it was trained with.

    Parameters
    ----------
    network : Module
        Takes float (n, 1, h, w) and float (n,); returns a tensor, a tuple that begins with one, or an object that has
        it as ``sample``. Of several output channels the first is used: the others are learned variances.
    schedule : Schedule
    divisor : int
    centered : bool
        True: images as they are; False: from [0, 1] to [-1, 1] and back, the network then sees twice the noise level.
    described : dict
        Plain values that say which network this is.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, divisor: int, centered: bool, described: dict[str, Any]):
        super().__init__()
        self.network, self.schedule, self.centered = network, schedule, centered
        self._divisor, self._described = divisor, described

    @property
    def divisor(self) -> int:
        return self._divisor

    @property
    def sigma_range(self) -> tuple[float, float]:
        low, high = self.schedule.sigma_range
        return (low, high) if self.centered else (low / 2, high / 2)

    @property
    def settings(self) -> dict[str, Any]:
        low, high = self.sigma_range
        return {**self._described, "centered": self.centered, "sigma_min": low, "sigma_max": high}

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        if not self.centered:
            x, sigma = 2 * x - 1, 2 * sigma
        level = sigma[:, None, None, None]
        output = self.network(self.schedule.input_scale(level) * x, self.schedule.time(sigma))
        output = getattr(output, "sample", output)
        output = output[0] if isinstance(output, tuple) else output
        if output.shape[1] > 1:
            output = output[:, :1]
        x0 = self.schedule.x0(x, output, level)
        return x0 if self.centered else 0.5 * x0 + 0.5


def narrowed(network: AdaptedNetwork, sigma_min: float | None = None, sigma_max: float | None = None) -> None:
    """Narrow the range of noise levels, in place.

    Raises
    ------
    InputError
        The schedule does not have these levels.
    """
    low, high = network.sigma_range
    asked = low if sigma_min is None else sigma_min, high if sigma_max is None else sigma_max
    if not low <= asked[0] < asked[1] <= high:
        raise InputError(
            "sigma-min" if sigma_min is not None and not low <= sigma_min < high else "sigma-max",
            f"noise levels within the schedule's {low:.6g} … {high:.6g}",
            f"{asked[0]:g} … {asked[1]:g}",
            "choose them within it",
        )
    factor = 1 if network.centered else 2
    network.schedule.sigma_range = factor * asked[0], factor * asked[1]
