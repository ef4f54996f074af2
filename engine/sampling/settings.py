"""The settings of a run, and the numbers that it takes where nothing was stated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.errors import InputError
from engine.options import Options, documented, option
from engine.sampling.dps import published_weight
from engine.sampling.posterior_mean import ALL
from engine.sampling.problem import InverseProblem
from engine.sampling.schedule import MOST_STEPS, Schedule, plan_of

SAMPLERS = ("pc", "ddim", "heun")
GUIDANCE = ("dps", "proximal")
MIXES = ("alternate", "sum")
#: From where ddim and heun start with a classical reconstruction, in units of image intensity.
START_LEVEL = 0.3
#: How much of the told noise ddim adds: `benchmarks/quality.py --sweep noise_scale=0,0.25,0.5,1`. Less gains much on
#: the demonstration's head, an average, and some on single ones; below this the curve is flat, and on Colin 27 it
#: falls.
NOISE_SCALE = 0.25
#: How often the priors alternate, where the published method does not say.
_K = 2
#: The range of noise levels of priors that serve all.
_SIGMA_MIN, _SIGMA_MAX = 0.01, 50.0
#: Trained ranges are stored as rounded logarithms: a part in 1e6 is no difference.
_ROUNDING = 1e-6

#: Smallest and largest noise level that a network was trained on.
Range = tuple[float, float]
ANY: Range = (0.0, float("inf"))


@documented
@dataclass(frozen=True)
class Settings(Options):
    """Settings of a run. The defaults are those of the preset "fast"; None is resolved when a run starts."""

    sampler: str = option(
        "ddim",
        choices=SAMPLERS,
        default_words="ddim; uncond pc",
        help="pc: the published predictor-corrector; ddim, heun: first and second order",
    )
    guidance: str = option(
        "proximal",
        choices=GUIDANCE,
        default_words="proximal; pc dps",
        help="proximal: estimates are moved to the measurement; dps: gradients through the network, as published",
    )
    n_steps: int = option(
        20,
        name="steps",
        low=2,
        high=MOST_STEPS,
        default_words="20",
        help="noise levels; the published number is 2000",
        remedy="20 to 2000 are usual",
    )
    K: int | float | None = option(
        None,
        default_words="2; svct with pc 2.7",
        help="integer: every K-th step is the auxiliary's; with a point: each step with probability 1/K",
    )
    mix: str = option("alternate", choices=MIXES, default_words="alternate", help="one prior a step, or the sum of all")
    alpha: float = option(
        0.5,
        above=0,
        below=1,
        needs={"mix": ("sum",)},
        default_words="0.5",
        help="share of the primary prior, the others having equal parts of the rest",
        remedy="0.5 weighs planes alike",
    )
    eta: float | None = option(
        None,
        low=0,
        high=1,
        needs={"sampler": ("ddim", "heun")},
        default_words="ddim 1, heun 0, dds 0.85",
        help="new part of each step's noise, 0 to 1; also read by the method dds",
        remedy="1 makes all noise anew, 0 none",
    )
    noise_scale: float | None = option(
        None,
        low=0,
        high=1,
        needs={"sampler": ("ddim", "heun")},
        default_words=f"ddim {NOISE_SCALE} with proximal guidance, else 1",
        help="added part of that noise, 0 to 1, while the network is told all of it: 1 gives samples, less their mean",
        remedy="1 adds the noise that is told",
    )
    rho: float | None = option(
        None,
        low=0,
        needs={"guidance": ("proximal",)},
        default_words="from the measurement's noise; 0 without",
        help="weight of the estimate against the measurement, in units of the operator's squared norm",
    )
    dps_weight: float | None = option(
        None,
        low=0,
        needs={"guidance": ("dps",)},
        default_words="adaptive, from residual, operator and noise; with --unlimited-steps or --preset reference the "
        "published one, carried over to size and steps",
        help="step size λ of data consistency",
    )
    group: int = option(
        6,
        low=1,
        default_words="6",
        help="pc, dps with a fixed λ, diffusionmbir: slices over which norms are taken; changes the result",
        remedy="the published value is 6",
    )
    snr: float = option(
        0.16,
        above=0,
        high=1000,
        needs={"sampler": ("pc",)},
        default_words="0.16",
        help="signal-to-noise ratio of the corrector; also read by the method diffusionmbir",
        remedy="the published value is 0.16",
    )
    stable: bool = option(
        True,
        name="unlimited-steps",
        needs={"guidance": ("dps",)},
        help="let data consistency overshoot, as the published method may; for runs of thousands of steps",
    )
    seed: int = option(0, low=0, high=2**64 - 1, help="seed of noise and sampling mask", remedy="choose another")
    sigma_min: float | None = option(None, above=0, default_words="the trained one", help="last noise level")
    sigma_max: float | None = option(
        None,
        above=0,
        default_words=f"{START_LEVEL} for ddim and heun with a measurement, else the largest trained one",
        help="first noise level",
    )
    sparsity_weight: float | None = option(
        None,
        low=0,
        default_words="one for each method and task",
        help="tv, wavelet, dds, diffusionmbir: weight of total variation or wavelet coefficients against the "
        "measurement, without unit",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # Both refuse values out of range.
        low = _SIGMA_MIN if self.sigma_min is None else self.sigma_min
        Schedule(low, max(_SIGMA_MAX, 2 * low) if self.sigma_max is None else self.sigma_max, self.n_steps)
        plan_of(2, _K if self.K is None else self.K, 2, self.seed)

    def resolved(self, problem: InverseProblem, trained: Range = ANY) -> Settings:
        """The same with the numbers that a run takes for None.

        Parameters
        ----------
        problem : InverseProblem
        trained : (float, float)
            Noise levels on which all priors were trained.

        Raises
        ------
        InputError
            Noise levels outside of `trained`.
        """
        settings = self.with_levels(trained, whole_range=self.sampler == "pc" or problem.operator is None)
        if settings.K is None:
            published = problem.published
            settings = replace(settings, K=published.K if published and self.sampler == "pc" else _K)
        if self.guidance == "dps" and self.dps_weight is None and not self.stable:
            settings = replace(settings, dps_weight=published_weight(problem, self.group, self.n_steps))
        if self.sampler == "pc":
            return settings
        # Without a measurement nothing but the noise makes details; gradients were tuned with all of it.
        is_tied = problem.operator is not None and self.guidance == "proximal"
        scale = NOISE_SCALE if self.sampler == "ddim" and is_tied else 1.0
        eta = 1.0 if self.sampler == "ddim" else 0.0
        return replace(
            settings,
            eta=eta if self.eta is None else self.eta,
            noise_scale=scale if self.noise_scale is None else self.noise_scale,
        )

    def with_levels(self, trained: Range = ANY, *, whole_range: bool = False) -> Settings:
        """The same with both noise levels, those that were stated within the trained ones.

        Parameters
        ----------
        trained : (float, float)
        whole_range : bool
            Whether a run that states no first level starts from noise alone.

        Raises
        ------
        InputError
            A stated level outside of `trained`.
        """
        low, high = trained
        for name, value in (("sigma-min", self.sigma_min), ("sigma-max", self.sigma_max)):
            if value is not None and not low * (1 - _ROUNDING) <= value <= high * (1 + _ROUNDING):
                expected = f"{low:g} to {high:g}, on which all networks were trained"
                raise InputError(name, expected, f"{value:g}", "stay within")
        last, first = low or _SIGMA_MIN, high if np.isfinite(high) else _SIGMA_MAX
        settings = replace(
            self,
            sigma_min=last if self.sigma_min is None else self.sigma_min,
            sigma_max=(first if whole_range else min(START_LEVEL, first)) if self.sigma_max is None else self.sigma_max,
        )
        Schedule(*settings.levels, settings.n_steps)
        return settings

    @property
    def levels(self) -> Range:
        """Last and first noise level of resolved settings."""
        assert self.sigma_min is not None and self.sigma_max is not None
        return self.sigma_min, self.sigma_max

    def plan(self, n_priors: int) -> np.ndarray:
        """int (n_steps,): the prior at work at each step of resolved settings, see `PosteriorMean`."""
        if self.mix == "sum" and n_priors > 1:
            return np.full(self.n_steps, ALL)
        assert self.K is not None
        return plan_of(n_priors, self.K, self.n_steps, self.seed)

    def shares(self, n_priors: int) -> tuple[float, ...]:
        """Weights of the priors in a sum."""
        return (1.0,) if n_priors == 1 else (self.alpha, *[(1 - self.alpha) / (n_priors - 1)] * (n_priors - 1))
