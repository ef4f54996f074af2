"""The estimate of the clean volume at one step: whose turn it is, and what the measurement adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.parallel.decomposition import UNDIVIDED, Decomposition
from engine.sampling.denoiser import Denoiser
from engine.sampling.dps import Dps
from engine.sampling.proximal import ProximalConsistency
from engine.volume import Plane
from kernels.arrays import library_of

#: In a plan, for a step at which all priors work.
ALL = -1


@dataclass(frozen=True)
class Prior:
    """A denoiser and the plane whose slices it knows."""

    denoiser: Denoiser
    plane: Plane


@dataclass(frozen=True)
class Estimate:
    """What is known of the clean slices.

    Parameters
    ----------
    plane : Plane
        In whose slices x̂₀ is: that of the step, or where consistency is proximal the measured one.
    x0 : float32 (n, h, w)
        x̂₀, moved to the measurement where consistency is proximal.
    pullback : float32 (n, h, w) or None
        Direction of data consistency through the network; None where there is none.
    weights : float32 (n,) or None
        Its length for every slice.
    residual : float64 () or None
        ‖A x̂₀ − y‖₂ of the whole volume, of the network's x̂₀; None where nothing was compared.
    """

    plane: Plane
    x0: Any
    pullback: Any = None
    weights: Any = None
    residual: Any = None


@dataclass(frozen=True)
class PosteriorMean:
    """The product of slice priors: one after another, or their weighted sum, with data consistency.

    The score of a product of powers is the weighted sum of the scores, and so is x̂₀ = x + σ² score for weights that sum
    to one. Alternation takes one of the terms at a time.

    Parameters
    ----------
    priors : tuple of Prior
        The first is the primary one, whose plane is measured.
    plan : int (n_steps,)
        Which prior works at a step; `ALL` for the weighted sum.
    shares : tuple of float
        Weights of the sum, one a prior; they sum to one.
    guidance : Dps or None
        Works where the primary prior does.
    consistency : ProximalConsistency or None
        Works at every step. Without either, the priors alone are sampled.
    decomposition : Decomposition
        Where the slices are.
    """

    priors: tuple[Prior, ...]
    plan: np.ndarray
    shares: tuple[float, ...]
    guidance: Dps | None = None
    consistency: ProximalConsistency | None = None
    decomposition: Decomposition = UNDIVIDED

    @property
    def primary(self) -> Plane:
        """The plane that is measured."""
        return self.priors[0].plane

    def plane_at(self, step: int) -> Plane:
        """The plane in whose slices a step works."""
        return self.priors[max(0, int(self.plan[step]))].plane

    def is_guided(self, step: int) -> bool:
        """Whether a step's estimate comes with a gradient through the primary network."""
        return self.guidance is not None and self.plan[step] in (0, ALL)

    def __call__(self, x: Any, sigma: float, step: int, groups: Sequence[slice], noise: Any = None) -> Estimate:
        """Estimate the clean slices.

        Parameters
        ----------
        x : float32 (n, h, w), C-contiguous, NumPy or CuPy
            In the plane of the step.
        sigma : float
        step : int
        groups : sequence of slice
            Of DPS, see there: of all slices.
        noise : array (n, *operator.data_shape), optional
            Of DPS, see there.
        """
        which = int(self.plan[step])
        if which == ALL:
            return self._sum(x, sigma, groups, noise)
        prior = self.priors[which]
        if which == 0:
            return self._moved(self._first(x, sigma, groups, noise), sigma)
        return self._moved(Estimate(prior.plane, prior.denoiser.denoise(x, sigma)), sigma)

    def _first(self, x: Any, sigma: float, groups: Sequence[slice], noise: Any) -> Estimate:
        """The primary prior's own estimate."""
        denoiser = self.priors[0].denoiser
        if self.guidance is None:
            return Estimate(self.primary, denoiser.denoise(x, sigma))
        return Estimate(self.primary, *self.guidance(denoiser, x, sigma, groups, noise))

    def _sum(self, x: Any, sigma: float, groups: Sequence[slice], noise: Any) -> Estimate:
        found = self._first(x, sigma, groups, noise)
        x0 = np.float32(self.shares[0]) * found.x0
        for prior, share in zip(self.priors[1:], self.shares[1:], strict=True):
            there = self.decomposition.between(x, self.primary, prior.plane)
            other = prior.denoiser.denoise(there, sigma)
            x0 += np.float32(share) * self.decomposition.between(other, prior.plane, self.primary)
        return self._moved(replace(found, x0=x0), sigma)

    def _moved(self, found: Estimate, sigma: float) -> Estimate:
        if self.consistency is None:
            return found
        moved, squared = self.consistency(self.decomposition.between(found.x0, found.plane, self.primary), sigma)
        squared = self.decomposition.all_of(squared, self.primary)
        library = library_of(squared=squared)
        residual = library.asarray(library.sqrt(squared.sum()))
        return replace(found, plane=self.primary, x0=moved, residual=residual)
