"""The training loop: denoising score matching with a cosine schedule, averaged weights and checkpoints."""

from __future__ import annotations

import csv
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm

from engine.errors import InputError
from engine.io.files import replacing
from engine.volume import ALL_PLANES
from networks import NCSNpp, save_checkpoint
from networks.checkpoint import read_stored
from training.patches import PatchSampler

#: Bands of noise levels, and patches, of the validation loss.
N_BANDS, N_VALIDATION = 4, 32
#: Bands of noise levels whose losses are weighed against each other.
_N_SCALES, _SCALE_DECAY = 8, 0.99
#: First number of a draw's seed: training patches, training noise, validation.
_PATCHES, _NOISE, _VALIDATION = range(3)


@dataclass(frozen=True)
class Schedule:
    """Length and rates of a training.

    Parameters
    ----------
    steps : int
    minutes : float or None
        Time limit; the cosine ends with the first limit that is reached.
    batch_size : int
        Patches a step.
    learning_rate : float
        AdamW's, after warm-up.
    warmup : int
        Steps.
    ema : float
        Decay of the weights' moving average, in [0, 1); shorter at the start.
    clip : float
        Largest norm of the gradient.
    save_every : int
        Steps between checkpoints and rows of the curve.
    """

    steps: int
    minutes: float | None = None
    batch_size: int = 12
    learning_rate: float = 1.5e-3
    warmup: int = 100
    ema: float = 0.999
    clip: float = 1.0
    save_every: int = 500

    def rate(self, step: int, minutes: float) -> float:
        """Return the learning rate: a linear rise over the warm-up times a half cosine over the whole training."""
        done = min(1.0, max(step / self.steps, minutes / self.minutes if self.minutes else 0.0))
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup)) * (0.5 + 0.5 * math.cos(math.pi * done))


def score_matching_loss(
    network: Callable[[Tensor, Tensor], Tensor], clean: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """σ²-weighted denoising score matching loss of every image, per pixel.

    Parameters
    ----------
    network : callable
        ``network(x, sigma)`` returns the score.
    clean, noise : float (n, 1, h, w)
    sigma : float (n,)

    Returns
    -------
    float (n,)
        1 for a network that returns zero.
    """
    s = sigma[:, None, None, None]
    return (s * network(clean + s * noise, sigma) + noise).square().mean(dim=(1, 2, 3))


def log_uniform_sigma(n: int, sigma_min: float, sigma_max: float, generator: torch.Generator) -> Tensor:
    """Noise levels σ(t) = σ_min (σ_max/σ_min)^t for uniform t, stratified over the batch to steady the loss."""
    t = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    return sigma_min * torch.exp(t * math.log(sigma_max / sigma_min))


class LossScale:
    """Running mean of the loss in bands of noise levels: what losses are divided by, so that all levels count alike.

    At small noise most of the loss is noise of the scanner, which nobody can predict; at large noise, where anatomy is
    learned, it is a tenth of that. Undivided, the gradient would come from the former.

    Parameters
    ----------
    sigma_min, sigma_max : float
        Ends of the bands.

    Attributes
    ----------
    means : list of float
        1 at first, as of a network that returns zero.

    Source: Karras et al., Analyzing and improving the training dynamics of diffusion models, CVPR 2024 (weights from
    the loss itself).
    """

    def __init__(self, sigma_min: float, sigma_max: float):
        self._low, self._width = math.log(sigma_min), math.log(sigma_max / sigma_min) / _N_SCALES
        self.means = [1.0] * _N_SCALES

    def __call__(self, sigma: Tensor) -> Tensor:
        """The divisor of every level's loss, float32 (n,)."""
        return torch.tensor([self.means[band] for band in self._bands(sigma)], device=sigma.device)

    def update(self, sigma: Tensor, losses: Tensor, decay: float) -> None:
        """Take in losses (n,) at levels (n,)."""
        for band, loss in zip(self._bands(sigma), losses.tolist(), strict=True):
            self.means[band] += (1 - decay) * (loss - self.means[band])

    def _bands(self, sigma: Tensor) -> list[int]:
        return ((sigma.log() - self._low) / self._width).long().clamp(0, _N_SCALES - 1).tolist()


class Training:
    """Network, optimiser and average on their way through a schedule.

    Every step draws from its own seed, so that a resumed training continues as if it had never stopped.

    Parameters
    ----------
    network : NCSNpp
        Trained in place.
    sampler : PatchSampler
    out : path
        Checkpoint; the curve goes beside it, with the suffix ``.csv``.
    schedule : Schedule
    validation : PatchSampler or None
        Patches of other people.
    seed : int
        Of patches and noise.
    """

    def __init__(
        self,
        network: NCSNpp,
        sampler: PatchSampler,
        out: Path,
        schedule: Schedule,
        validation: PatchSampler | None = None,
        seed: int = 0,
    ):
        self.network, self.sampler, self.out, self.schedule, self.seed = network, sampler, out, schedule, seed
        self.device = next(network.parameters()).device
        network.train().requires_grad_(True)
        if network.architecture.embedding == "fourier":
            network.all_modules[0].requires_grad_(False)
        self.trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=schedule.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.shadow = {name: p.detach().clone() for name, p in self.trained.items()}
        a = network.architecture
        self.scale = LossScale(a.sigma_min, a.sigma_max)
        self.held_out = validation.draw(N_VALIDATION, (_VALIDATION, seed)).to(self.device) if validation else None
        self.step, self.minutes = 0, 0.0
        self.losses: list[float] = []
        self.curve: list[dict[str, Any]] = []

    def resume(self) -> None:
        """Go on from the checkpoint at `out`.

        Raises
        ------
        InputError
            Nothing there, another network or other patches, or a schedule that is over.
        networks.CheckpointError
            The checkpoint cannot be read.
        """
        if not self.out.is_file():
            raise InputError(
                "resume", f"the checkpoint of an earlier run at '{self.out}'", "nothing", "drop --resume to start anew"
            )
        stored = read_stored(self.out)
        for name, mine in self._described().items():
            if stored.get(name) != mine:
                raise InputError(
                    "resume",
                    f"{name} as stored in '{self.out}' ({stored.get(name)})",
                    mine,
                    "repeat the first run's options",
                )
        if not stored.get("optimizer"):
            raise InputError("resume", f"the optimiser's state in '{self.out}'", "none", "drop --resume to start anew")
        self.network.load_state_dict({k.removeprefix("module."): v for k, v in stored["model"].items()})
        self.optimizer.load_state_dict(stored["optimizer"])
        for mine, theirs in zip(self.shadow.values(), stored["ema"]["shadow_params"], strict=True):
            mine.copy_(theirs)
        self.step, self.minutes = int(stored["step"]), float(stored["minutes"])
        self.losses = list(stored["losses"])
        self.scale.means = list(stored["loss_means"])
        if self._curve_path.is_file():
            with self._curve_path.open(newline="") as stream:
                self.curve = [row for row in csv.DictReader(stream) if int(row["step"]) <= self.step]
        unit, done, limit = "steps", float(self.step), float(self.schedule.steps)
        if done < limit and self.schedule.minutes is not None:
            unit, done, limit = "minutes", self.minutes, self.schedule.minutes
        if done >= limit:
            raise InputError(unit, f"more than the {done:.4g} done so far", f"{limit:g}", f"raise --{unit}")

    def run(self, *, progress: bool = True) -> float:
        """Train to the end of the schedule; whatever ends it early, Ctrl-C included, the steps done are saved first.

        Returns
        -------
        float
            Mean loss of the last steps.

        Raises
        ------
        InputError
            A loss that is not finite.
        """
        schedule, first, before, started = self.schedule, self.step, self.minutes, time.monotonic()
        bar = tqdm(initial=first, total=schedule.steps, unit="step", disable=not progress, mininterval=5)
        try:
            while self.step < schedule.steps and not (
                schedule.minutes and self.minutes >= schedule.minutes and self.step > first
            ):
                self.losses.append(self._advance())
                self.step += 1
                self.minutes = before + (time.monotonic() - started) / 60
                bar.update()
                if self.step % schedule.save_every == 0:
                    row = self._save_row()
                    bar.set_postfix(loss=row["loss"], refresh=False)
        finally:
            bar.close()
            if self.step > first and self.losses:
                self._save()
        return float(self.curve[-1]["loss"]) if not self.losses else sum(self.losses) / len(self.losses)

    def _advance(self) -> float:
        """Take one optimiser step and return its loss."""
        schedule, a = self.schedule, self.network.architecture
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.rate(self.step, self.minutes)
        clean = self.sampler.draw(schedule.batch_size, (_PATCHES, self.seed, self.step)).to(self.device)
        generator = self._generator(_NOISE, self.step)
        sigma = log_uniform_sigma(schedule.batch_size, a.sigma_min, a.sigma_max, generator).to(self.device)
        noise = torch.randn(clean.shape, generator=generator).to(self.device)
        # No bfloat16: its 8 bits would round away the smallest noise.
        losses = score_matching_loss(self.network, clean, sigma, noise)
        loss = (losses / self.scale(sigma)).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self.trained.values(), schedule.clip))
        # Both, and before the weights change: they are saved on the way out.
        if not (math.isfinite(loss.item()) and math.isfinite(norm)):
            raise InputError(
                "learning_rate",
                "a finite loss and gradient",
                f"{loss.item():g} and {norm:g} at step {self.step}",
                "lower --learning-rate",
            )
        self.optimizer.step()
        self.scale.update(sigma, losses.detach(), min(_SCALE_DECAY, (1 + self.step) / (10 + self.step)))
        # The average starts short and lengthens, so that it does not remember the random start.
        decay = min(schedule.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.shadow.values()), [p.detach() for p in self.trained.values()], 1 - decay)
        return losses.mean().item()

    def validate(self) -> dict[str, float]:
        """Return the averaged weights' loss on the held-out patches, a band of noise levels each."""
        if self.held_out is None:
            return {}
        a, n = self.network.architecture, len(self.held_out)
        edges = [a.sigma_min * (a.sigma_max / a.sigma_min) ** (i / N_BANDS) for i in range(N_BANDS + 1)]
        generator = self._generator(_VALIDATION, 0)
        averaged: Callable[..., Tensor] = lambda x, s: functional_call(self.network, self.shadow, (x, s))  # noqa: E731
        losses = {}
        with torch.no_grad():
            for low, high in itertools.pairwise(edges):
                sigma = log_uniform_sigma(n, low, high, generator).to(self.device)
                noise = torch.randn(self.held_out.shape, generator=generator).to(self.device)
                parts = [
                    score_matching_loss(averaged, *part)
                    for part in zip(*(t.split(8) for t in (self.held_out, sigma, noise)), strict=True)
                ]
                losses[f"sigma {low:.3g} to {high:.3g}"] = round(float(torch.cat(parts).mean()), 5)
        return losses

    def _generator(self, purpose: int, step: int) -> torch.Generator:
        # NumPy mixes the three numbers well; one torch seed has to hold them all.
        mixed = np.random.SeedSequence((purpose, self.seed, step)).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(mixed >> 1))

    @property
    def _curve_path(self) -> Path:
        return self.out.with_suffix(".csv")

    def _described(self) -> dict[str, Any]:
        """What the checkpoint says of the network and of the patches that it was trained on."""
        s = self.sampler
        return {
            "architecture": self.network.architecture.to_dict(),
            "plane": list(s.plane.axes) if s.plane and not s.serves_all else ALL_PLANES,
            "image_size": s.size,
            "voxel_mm": list(s.voxel_mm),
        }

    def _save_row(self) -> dict[str, Any]:
        """Add a row to the curve, and save."""
        loss = round(sum(self.losses) / len(self.losses), 5)
        row = {"step": self.step, "minutes": round(self.minutes, 2), "loss": loss, **self.validate()}
        self.curve.append(row)
        self.losses = []
        self._save()
        return row

    def _save(self) -> None:
        described = self._described()
        del described["architecture"]  # save_checkpoint's own
        save_checkpoint(
            self.out, self.network, list(self.shadow.values()), step=self.step, optimizer=self.optimizer.state_dict(),
            ema_decay=self.schedule.ema, minutes=self.minutes, losses=self.losses, loss_means=self.scale.means,
            **described,
        )  # fmt: skip
        if self.curve:
            # A run that was resumed with or without validation has rows of both kinds.
            names = list(dict.fromkeys(name for row in self.curve for name in row))
            with replacing(self._curve_path) as temporary, temporary.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, names)
                writer.writeheader()
                writer.writerows(self.curve)
