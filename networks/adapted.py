"""Networks of other packages as denoisers of this one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import InputError
from networks.denoiser import DenoisingNetwork
from networks.schedule import Schedule
from networks.trial import DENOISES, MARGIN, mean_error, noisy_images

#: Noise levels that hide neither all of an image in [0, 1] nor nothing.
_VISIBLE = (0.02, 1.0)


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

    @torch.no_grad()
    def choose_intensities(self) -> str:
        """Set `centered` to what clearly denoises better, else to True; return how that was found.

        Levels are those at which the images can be seen. What denoises has to be well below what the noisy image
        itself, or one grey value, would give: random weights that predict images come near those.
        """
        low, high = self.schedule.sigma_range
        low, high = max(low, _VISIBLE[0]), min(high / 2, _VISIBLE[1])
        unclear = "intensities as they are, for no trial decides; --no-centered maps them from [0, 1] to [-1, 1]"
        if not low < high:
            self.centered = True
            return unclear
        x, noise, sigma = noisy_images(self.divisor, (low, high))
        level = sigma[:, None, None, None]
        clean = x - level * noise
        grey = clean.mean(dim=(1, 2, 3), keepdim=True).expand_as(x)
        trivial = min(mean_error((guess - x) / level, noise) for guess in (x, grey))
        errors = {}
        for self.centered in (False, True):
            errors[self.centered] = mean_error((self.denoise(x, sigma) - x) / level, noise)
        best, other = sorted(errors.values())
        decided = best < DENOISES * trivial and other > MARGIN * best
        self.centered = errors[True] == best or not decided
        if not decided:
            return unclear
        kind = "as they are" if self.centered else "from [0, 1] to [-1, 1]"
        return f"intensities {kind}, by trial: σ-weighted score error {best:.2g}, the other choice {other:.2g}"

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


def settle(network: AdaptedNetwork, centered: bool | None, **limits: float | None) -> str:
    """Settle intensities and range of noise levels, in place; return how the intensities were found.

    Parameters
    ----------
    network : AdaptedNetwork
    centered : bool or None
        As stated; None: `AdaptedNetwork.choose_intensities`.
    **limits
        As of `narrowed`.

    Raises
    ------
    InputError
        As `narrowed`.
    """
    if centered is None:
        how = network.choose_intensities()
    else:
        network.centered = centered
        how = "stated: intensities " + ("as they are" if centered else "from [0, 1] to [-1, 1]")
    narrowed(network, **limits)
    return how


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
