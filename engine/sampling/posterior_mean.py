"""The posterior mean x̂₀ at one step: the turns of the priors, and data consistency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.parallel.stack import Stack
from engine.sampling.denoiser import Denoiser
from engine.sampling.dps import Dps
from engine.sampling.image_phase import magnitude_along, phase_of, turned
from engine.sampling.noise import Phase
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

    def denoise(self, x: Stack, sigma: float) -> Stack:
        """x̂₀ of a stack in the prior's plane."""
        return x.of(self.denoiser.denoise(x.data, sigma))


@dataclass(frozen=True)
class Pull:
    """What the measurement adds to a step beside x̂₀.

    Parameters
    ----------
    direction : float32 (n_own, h, w) or None
        Of data consistency through the network, in the slices of x̂₀; None where there is none.
    weights : float32 (n_own,) or None
        Its length for every slice.
    residual : float64 () or None
        ‖A x̂₀ − y‖₂ of the whole volume, of the network's x̂₀; None where nothing was compared.
    image_phase : Stack or None
        φ of the moved x̂₀, in the measured plane; None for real images.
    """

    direction: Any = None
    weights: Any = None
    residual: Any = None
    image_phase: Stack | None = None


@dataclass(frozen=True)
class PosteriorMean:
    """The product of slice priors, one after another or as their weighted sum, with data consistency.

    The score of a product of powers is the weighted sum of the scores, and so is x̂₀ = x + σ² score for weights that sum
    to one. Alternation takes one of the terms at a time.

    Parameters
    ----------
    priors : tuple of Prior
        The first is the primary one, of the plane that is measured.
    plan : int (n_steps,)
        The prior at work at a step; `ALL` for the weighted sum.
    shares : tuple of float
        Weights of the sum, one a prior; they sum to one.
    dps : Dps or None
        Works on the primary prior's turns.
    consistency : ProximalConsistency or None
        Works at every step. Without either, the priors alone are sampled.
    """

    priors: tuple[Prior, ...]
    plan: np.ndarray
    shares: tuple[float, ...]
    dps: Dps | None = None
    consistency: ProximalConsistency | None = None

    @property
    def primary(self) -> Plane:
        """The plane that is measured."""
        return self.priors[0].plane

    def plane_at(self, step: int) -> Plane:
        """The plane in whose slices a step works."""
        return self.priors[max(0, int(self.plan[step]))].plane

    def __call__(
        self,
        x: Stack,
        sigma: float,
        step: int,
        phase: Phase = Phase.PREDICTOR,
        image_phase: Stack | None = None,
    ) -> tuple[Stack, Pull]:
        """Estimate the clean slices.

        Parameters
        ----------
        x : Stack
            In the plane of the step.
        sigma : float
        step : int
        phase : Phase
            Which of a step's estimates this is.
        image_phase : Stack or None
            φ so far of the image whose magnitude x is, in the measured plane; None for real images.

        Returns
        -------
        x0 : Stack
            x̂₀, with proximal consistency moved to the measurement, in the measured plane; else in that of the step.
        pull : Pull
        """
        which = int(self.plan[step])
        if which > 0:
            x0, pull = self.priors[which].denoise(x, sigma), Pull()
        elif self.dps is None:
            x0, pull = self.priors[0].denoise(x, sigma), Pull()
        else:
            data, *terms = self.dps(self.priors[0].denoiser, x, sigma, step, phase)
            x0, pull = x.of(data), Pull(*terms)
        if which == ALL:
            x0 = self._sum(x0, x, sigma)
        return (x0, pull) if self.consistency is None else self._moved(x0, sigma, image_phase)

    def _sum(self, first: Stack, x: Stack, sigma: float) -> Stack:
        """The weighted sum of the primary prior's x̂₀ and those of all others."""
        x0 = np.float32(self.shares[0]) * first.data
        for prior, share in zip(self.priors[1:], self.shares[1:], strict=True):
            x0 += np.float32(share) * prior.denoise(x.to(prior.plane), sigma).to(x.plane).data
        return x.of(x0)

    def _moved(self, x0: Stack, sigma: float, image_phase: Stack | None) -> tuple[Stack, Pull]:
        """x̂₀ moved to the measurement, and with it the phase."""
        assert self.consistency is not None
        x0 = x0.to(self.primary)
        if image_phase is None:
            moved, squared = self.consistency(x0.data, sigma)
        else:
            image, squared = self.consistency(turned(x0.data, image_phase.data), sigma)
            image_phase = x0.of(phase_of(image, sigma))
            moved = magnitude_along(image, image_phase.data)
        squared = x0.all_gather(squared)
        library = library_of(squared=squared)
        return x0.of(moved), Pull(residual=library.asarray(library.sqrt(squared.sum())), image_phase=image_phase)
