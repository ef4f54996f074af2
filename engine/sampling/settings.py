"""The settings of a run, and the numbers that it takes where nothing was stated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.errors import InputError
from engine.sampling.dps import published_weight
from engine.sampling.posterior_mean import ALL
from engine.sampling.problem import InverseProblem
from engine.sampling.schedule import Schedule, plan_of

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


@dataclass(frozen=True)
class Settings:
    """Settings of a run. The defaults are those of the preset "fast".

    Parameters
    ----------
    sampler : str
        "pc": the published predictor-corrector; "ddim", "heun": of first and second order.
    guidance : str
        "proximal": x̂₀ is moved to the measurement (`engine.sampling.proximal`); "dps": the published gradient
        through the network (`engine.sampling.dps`).
    n_steps : int
        Noise levels; the published number is 2000.
    K : int, float or None
        How often the priors alternate, see `engine.sampling.schedule.turns`. None: 2, with pc that of the published
        problem.
    mix : str
        "alternate": one prior a step; "sum": all at every step, their scores summed.
    alpha : float
        The primary prior's share of that sum, the rest being the others' in equal parts.
    eta : float or None
        ddim and heun: part of each step's noise that is new. None: 1 for ddim, 0 for heun.
    noise_scale : float or None
        ddim and heun: how much of that noise is added, while the network is told all of it. None: `NOISE_SCALE` for
        ddim with a measurement and proximal guidance; else 1.
    rho : float or None
        proximal: weight of staying at x̂₀ in units of ‖A‖². None: from the noise of the measurement.
    sparsity_weight : float or None
        Of the methods tv, wavelet, dds and diffusionmbir: weight of the sparse term, without unit, see
        `engine.methods`. None: the method's default for the task.
    dps_weight : float or None
        dps: λ. None: adaptive (`engine.sampling.dps.Dps`), or with `stable` False the published one
        (`engine.sampling.dps.published_weight`).
    group : int
        Slices over which pc and dps take norms.
    snr : float
        pc: signal-to-noise ratio of the corrector.
    stable : bool
        Keep dps from overshooting (`engine.sampling.dps.Dps`); False is the published method to the letter.
    seed : int
        Of the noise and of a float K's draws.
    sigma_min : float or None
        Last noise level. None: the smallest on which all priors were trained.
    sigma_max : float or None
        First noise level. None: `START_LEVEL` for ddim and heun with a measurement, where the classical reconstruction
        is near enough to start from; else the largest on which all priors were trained.
    """

    sampler: str = "ddim"
    guidance: str = "proximal"
    n_steps: int = 20
    K: int | float | None = None
    mix: str = "alternate"
    alpha: float = 0.5
    eta: float | None = None
    noise_scale: float | None = None
    rho: float | None = None
    dps_weight: float | None = None
    group: int = 6
    snr: float = 0.16
    stable: bool = True
    seed: int = 0
    sigma_min: float | None = None
    sigma_max: float | None = None
    sparsity_weight: float | None = None

    def __post_init__(self) -> None:
        for name, choices in (("sampler", SAMPLERS), ("guidance", GUIDANCE), ("mix", MIXES)):
            if getattr(self, name) not in choices:
                raise InputError(name, f"one of {', '.join(choices)}", f"'{getattr(self, name)}'", "choose one")
        if not 0 < self.alpha < 1:
            raise InputError("alpha", "more than 0 and less than 1", self.alpha, "0.5 weighs planes alike")
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise InputError("eta", "0 to 1", self.eta, "1 makes all noise anew, 0 none")
        if self.noise_scale is not None and not 0 <= self.noise_scale <= 1:
            raise InputError("noise-scale", "0 to 1", self.noise_scale, "1 adds the noise that is told")
        for name in ("rho", "sparsity_weight", "dps_weight"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value >= 0):
                remedy = "leave it out for the default"
                raise InputError(name.replace("_", "-"), "a number of at least 0", value, remedy)
        if self.group < 1:
            raise InputError("group", "at least 1 slice", self.group, "the published value is 6")
        if not 0 < self.snr <= 1000:
            raise InputError("snr", "more than 0 and at most 1000", self.snr, "the published value is 0.16")
        if not 0 <= self.seed < 2**64:
            raise InputError("seed", "0 to 2^64 − 1", self.seed, "choose another")
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
