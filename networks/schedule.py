"""Noise schedules of diffusion models, by noise level: the time that a network is told, how its input is scaled, and
what of input and output x̂₀ is made of.

Everywhere σ is the noise level of ``x = x₀ + σ·noise``. A variance-preserving model with cumulative product ᾱ sees
``√ᾱ·x`` for σ = √(1−ᾱ)/√ᾱ.
"""

from __future__ import annotations

import abc
from typing import Any, cast

import torch
from torch import Tensor, nn


class Schedule(nn.Module, abc.ABC):
    """Turns noise levels, float (n,), into what a network takes.

    Parameters
    ----------
    prediction : str
        What the network returns; one of `predictions`.
    sigma_range : (float, float)
        Noise levels of the training.
    """

    #: What the networks of this schedule may return.
    predictions: tuple[str, ...]

    def __init__(self, prediction: str, sigma_range: tuple[float, float]):
        super().__init__()
        if prediction not in self.predictions:
            raise ValueError(f"prediction: expected one of {', '.join(self.predictions)}, got {prediction}")
        self.prediction, self.sigma_range = prediction, sigma_range

    @abc.abstractmethod
    def time(self, sigma: Tensor) -> Tensor:
        """The time that the network is told, continuous."""

    @abc.abstractmethod
    def input_scale(self, sigma: Tensor) -> Tensor:
        """Factor of the noisy image before the network."""

    @abc.abstractmethod
    def x0(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        """x̂₀ of noisy images, the network's output, and noise levels, float (n, 1, 1, 1)."""


class VariancePreserving(Schedule):
    """A table of ᾱ, such as that of DDPM, DDIM and their relatives.

    Between two entries the time is linear in the logarithm of the signal-to-noise ratio, −2 ln σ; at an entry it is the
    entry's number, on which the network was trained.

    Parameters
    ----------
    alphas_cumprod : tensor (n_times,)
        ᾱ, falling, within (0, 1); entries of zero at the end, where no signal is left, are not used.
    prediction : "epsilon", "v_prediction", "sample" or "score"
    """

    predictions = ("epsilon", "v_prediction", "sample", "score")

    def __init__(self, alphas_cumprod: Tensor, prediction: str):
        alphas = alphas_cumprod.double()
        alphas = alphas[: int((alphas > 0).sum())]
        sigmas = torch.sqrt((1 - alphas) / alphas)
        if len(sigmas) < 2 or not (sigmas[0] > 0 and (sigmas.diff() > 0).all()):
            raise ValueError("alphas_cumprod: expected at least two falling values within (0, 1)")
        super().__init__(prediction, (float(sigmas[0]), float(sigmas[-1])))
        self.register_buffer("lower", sigmas[:-1].float(), persistent=False)
        self.register_buffer("per_entry", (1 / sigmas.log().diff()).float(), persistent=False)

    def time(self, sigma: Tensor) -> Tensor:
        # Every interval adds what of it lies below σ: whole ones, parts of one, nothing. The logarithm of a ratio near
        # one is exact where the difference of two logarithms would not be.
        parts = torch.log(sigma[:, None] / cast(Tensor, self.lower)) * cast(Tensor, self.per_entry)
        return parts.clamp(0, 1).sum(dim=1)

    def input_scale(self, sigma: Tensor) -> Tensor:
        return torch.rsqrt(1 + sigma * sigma)

    def x0(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return x - sigma * output
        if self.prediction == "sample":
            return output
        scale = self.input_scale(sigma)
        if self.prediction == "score":
            return x + sigma * (sigma * scale) * output
        return scale * (scale * x) - (sigma * scale) * output


class VarianceExploding(Schedule):
    """Images as they are, σ for the time.

    Parameters
    ----------
    sigma_range : (float, float)
    prediction : "epsilon", "sample" or "score"
    """

    predictions = ("epsilon", "sample", "score")

    def __init__(self, sigma_range: tuple[float, float], prediction: str):
        super().__init__(prediction, sigma_range)

    def time(self, sigma: Tensor) -> Tensor:
        return sigma

    def input_scale(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def x0(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        if self.prediction == "sample":
            return output
        return x - sigma * output if self.prediction == "epsilon" else x + sigma * (sigma * output)


class Edm(Schedule):
    """Preconditioning of Karras et al., Elucidating the design space of diffusion-based generative models, 2022.

    Parameters
    ----------
    sigma_range : (float, float)
    sigma_data : float
        Standard deviation of the training images.
    prediction : "epsilon" or "v_prediction"
        The latter turns the sign of the output.
    """

    predictions = ("epsilon", "v_prediction")

    def __init__(self, sigma_range: tuple[float, float], sigma_data: float, prediction: str):
        super().__init__(prediction, sigma_range)
        self.sigma_data = sigma_data

    def time(self, sigma: Tensor) -> Tensor:
        return torch.log(sigma) * 0.25

    def input_scale(self, sigma: Tensor) -> Tensor:
        return torch.rsqrt(sigma * sigma + self.sigma_data**2)

    def x0(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        scale = self.input_scale(sigma)
        sign = self.sigma_data if self.prediction == "epsilon" else -self.sigma_data
        skip = self.sigma_data * scale
        return skip * (skip * x) + sign * (sigma * scale) * output


class RectifiedFlow(Schedule):
    """Straight lines from image to noise, (1−s)·x₀ + s·noise, with s = σ / (1 + σ).

    The output is the velocity, noise − x₀; the time is s times `n_times`. The last entry, noise alone, is not used.

    Parameters
    ----------
    n_times : int
    """

    predictions = ("velocity",)

    def __init__(self, n_times: int):
        super().__init__("velocity", (1 / (n_times - 1), float(n_times - 1)))
        self.n_times = n_times

    def time(self, sigma: Tensor) -> Tensor:
        return self.n_times * (sigma * self.input_scale(sigma))

    def input_scale(self, sigma: Tensor) -> Tensor:
        return torch.reciprocal(1 + sigma)

    def x0(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        scale = self.input_scale(sigma)
        return scale * x - (sigma * scale) * output


def schedule_of(scheduler: Any) -> Schedule:
    """The schedule of a scheduler object of diffusers or MONAI.

    Raises
    ------
    ValueError
        It is of another kind, or predicts something else; the message names both.
    """
    name = type(scheduler).__name__
    config = getattr(scheduler, "config", None)

    def setting(key: str, default: Any) -> Any:
        # diffusers' schedulers have a configuration, MONAI's have attributes.
        return getattr(scheduler, key, default) if config is None else config.get(key, default)

    prediction = setting("prediction_type", "epsilon")
    prediction = str(getattr(prediction, "value", prediction))
    levels = setting("sigma_min", None), setting("sigma_max", None)
    if name == "ScoreSdeVeScheduler":
        return VarianceExploding(levels, "score")
    if name.startswith("EDM"):
        return Edm(levels, setting("sigma_data", None), prediction)
    if name.startswith("FlowMatch") and not setting("invert_sigmas", False):
        return RectifiedFlow(setting("num_train_timesteps", None))
    plain = setting("timestep_type", "discrete") == "discrete" and not setting("use_flow_sigmas", False)
    if plain and isinstance(getattr(scheduler, "alphas_cumprod", None), Tensor):
        return VariancePreserving(scheduler.alphas_cumprod, prediction)
    raise ValueError(f"a scheduler without a table of ᾱ that is none of ScoreSdeVe, EDM and flow matching, {name},")
