"""Noise levels of the VE SDE, and whose turn it is at each of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engine.errors import InputError

#: The last time at which the network is evaluated; the published sampler stops short of t = 0.
_LAST_TIME = 1e-5
#: Far beyond what anyone waits for, and within what memory holds.
MOST_STEPS = 1_000_000
_LARGEST_K = 1e9


@dataclass(frozen=True)
class Schedule:
    """Noise levels for n steps, coarse to fine, with the published discretisation.

    Parameters
    ----------
    sigma_min, sigma_max : float
        Ends of the range, in units of image intensity.
    n_steps : int
        At least 2.

    Raises
    ------
    InputError
        Values out of range.
    """

    sigma_min: float
    sigma_max: float
    n_steps: int

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < np.inf:
            raise InputError(
                "sigma",
                "0 < sigma_min < sigma_max, both finite",
                f"{self.sigma_min:g} and {self.sigma_max:g}",
                "swap or mend them",
            )
        if not 2 <= self.n_steps <= MOST_STEPS:
            raise InputError("steps", f"2 to {MOST_STEPS}", self.n_steps, "20 to 2000 are usual")

    @cached_property
    def sigmas(self) -> np.ndarray:
        """float64 (n_steps,): σ(t_i), the level that the network is told at each step."""
        t = np.linspace(1.0, _LAST_TIME, self.n_steps)
        return np.asarray(self.sigma_min * (self.sigma_max / self.sigma_min) ** t)

    def __getitem__(self, step: int) -> float:
        """σ at a step."""
        return float(self.sigmas[step])

    @cached_property
    def variance_drops(self) -> np.ndarray:
        """float64 (n_steps,): G_i² = σ_j² − σ_{j−1}² with j = n_steps − 1 − i, by which the predictor lowers the
        variance.

        The discrete levels differ slightly from σ(t_i), as in the reference.
        """
        levels = np.exp(np.linspace(np.log(self.sigma_min), np.log(self.sigma_max), self.n_steps))
        return np.asarray(np.diff(levels**2, prepend=0.0)[::-1])


@dataclass(frozen=True)
class Levels:
    """Noise levels that lie closer together the smaller they are: σ^(1/p) falls in equal steps.

    Parameters
    ----------
    sigma_min, sigma_max : float
        The last and the first level, in units of image intensity; from the last one the step goes to zero noise.
    n_steps : int
        At least 2.
    power : float
        p; 1 gives equal steps, and large numbers equal ratios.

    Raises
    ------
    InputError
        Values out of range.

    Source: Karras et al., Elucidating the design space of diffusion-based generative models, NeurIPS 2022.
    """

    sigma_min: float
    sigma_max: float
    n_steps: int
    power: float = 7.0

    def __post_init__(self) -> None:
        Schedule(self.sigma_min, self.sigma_max, self.n_steps)

    @cached_property
    def sigmas(self) -> np.ndarray:
        """float64 (n_steps,)."""
        ends = self.sigma_max ** (1 / self.power), self.sigma_min ** (1 / self.power)
        return np.asarray(np.linspace(*ends, self.n_steps) ** self.power)

    def __getitem__(self, step: int) -> float:
        """σ at the start of a step; zero after the last one."""
        return float(self.sigmas[step]) if step < self.n_steps else 0.0


def plan_of(n_priors: int, K: int | float, n_steps: int, seed: int) -> np.ndarray:
    """Decide which prior works at every step.

    Parameters
    ----------
    n_priors : int
        The primary one and the auxiliary ones, which share their turns evenly, one after another; a single one has all.
    K, n_steps, seed
        See `turns`.

    Returns
    -------
    int (n_steps,)
        Indices of priors, 0 the primary one.

    Raises
    ------
    InputError
        As `turns`.
    """
    if n_priors == 1:
        return np.zeros(n_steps, int)
    auxiliary = ~turns(K, n_steps, seed)
    return np.where(auxiliary, 1 + (np.cumsum(auxiliary) - 1) % (n_priors - 1), 0)


def turns(K: int | float, n_steps: int, seed: int) -> np.ndarray:
    """Decide for every step whether it is the primary network's turn.

    Parameters
    ----------
    K : int or float
        Integer: the auxiliary network has every K-th step. Float: each step is the auxiliary's with probability 1/K.
    n_steps : int
    seed : int
        Of the float case's draws.

    Returns
    -------
    bool (n_steps,)
        True where the primary network works.

    Raises
    ------
    InputError
        Integer K below 2, float K below 1.
    """
    if not abs(K) < _LARGEST_K:
        raise InputError("K", f"a number below {_LARGEST_K:g}", K, "2 is usual")
    if isinstance(K, (int, np.integer)):
        if K < 2:
            raise InputError("K", "an integer of at least 2, or a number of at least 1 with a point", K, "2 is usual")
        return np.asarray(np.arange(n_steps) % K != K - 1)
    if not (np.isfinite(K) and K >= 1):
        raise InputError("K", "a number of at least 1 with a point, or an integer of at least 2", K, "2.0 is usual")
    return np.asarray(np.random.Generator(np.random.Philox(seed)).random(n_steps) >= 1 / K)
