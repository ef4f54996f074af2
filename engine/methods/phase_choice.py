"""Whether an image is real beside its slow phase, or has a phase to be found: asked of samples that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from engine.methods import METHODS, solve
from engine.methods.trial_slices import fullest
from engine.operators import CoilFourier, MaskedFourier
from engine.sampling.image_phase import turned
from engine.sampling.posterior_mean import Prior
from engine.sampling.problem import InverseProblem
from engine.sampling.reconstruction import Reconstruction
from engine.sampling.settings import Settings

#: Slices that are tried twice, at most.
_N_SLICES = 4
#: Part of the samples that is held out, and the side of the square about the zero frequency, as a part of the image's,
#: that is not: the slow phase comes from there.
_HELD_OUT, _CENTRE = 0.1, 0.15
#: A reconstruction of few steps by the prior of the measured plane is enough to tell.
_STEPS = 20


@dataclass(frozen=True)
class PhaseChoice:
    """How well images of both kinds foretell samples that they were not made from.

    Parameters
    ----------
    n_slices : int
    real_error, complex_error : float
        Norm of the difference over the norm of these samples.
    """

    n_slices: int
    real_error: float
    complex_error: float

    @property
    def is_real(self) -> bool:
        return self.real_error <= self.complex_error

    def record(self) -> dict[str, Any]:
        """For the record of a run."""
        return {**asdict(self), "chosen": "estimate" if self.is_real else "joint"}

    def __str__(self) -> str:
        chosen = "its slow phase alone" if self.is_real else "a phase found with the magnitude"
        return (
            f"samples held out of {self.n_slices} slices are {self.real_error:.0%} off with the slow phase alone, "
            f"{self.complex_error:.0%} with one found with the magnitude: {chosen}"
        )


def phase_choice(
    problem: InverseProblem, method: str, priors: Sequence[Prior], settings: Settings, seed: int = 0
) -> PhaseChoice:
    """Reconstruct a few slices from most of their samples, as real images and as complex ones, and compare the rest.

    A real image has half as many unknowns, which is worth several dB where its phase is what the operator says, and
    explains nothing where that is wrong: neither noise level nor truth are needed to see which.

    Parameters
    ----------
    problem : InverseProblem
        Of complex images, in NumPy arrays.
    method : str
        One of `engine.methods.METHODS`; those with priors are tried by the primary one alone.
    priors : sequence of Prior
    settings : Settings
        Resolved.
    seed : int
        Of the samples that are held out.

    Source: Yaman et al., Self-supervised learning of physics-guided reconstruction neural networks without fully
    sampled reference data, MRM 84:3172 (2020), for judging a reconstruction by samples that it has not seen.
    """
    operator, y = problem.measured_slices()
    assert isinstance(operator, (MaskedFourier, CoilFourier))
    # An operator takes such numbers as well as a slice.
    which: Any = fullest(np.array([float((abs(part) ** 2).sum(dtype=np.float64)) for part in y]), _N_SLICES)
    held, few = _held_out(operator.mask, seed), np.ascontiguousarray(y[which])
    kept = operator.mask * (1 - held)
    # Across planes and slices as many methods work, the plane that was measured tells alone.
    has_prior = METHODS[method].n_priors != 0
    if has_prior:
        settings = replace(settings, sampler="ddim", guidance="proximal", n_steps=min(settings.n_steps, _STEPS))
        settings = settings.resolved(problem)
    shape = problem.plane.volume_shape((len(which), *operator.slice_shape))
    errors = []
    for kind in (operator.of_real_images(), operator.of_complex_images()):
        there = kind.at(which)
        assert isinstance(there, (MaskedFourier, CoilFourier))
        part = replace(problem, operator=there.with_mask(kept), measurement=few * (1 - held), shape=shape)
        found = solve("single" if has_prior else method, part, priors[:1], settings)
        errors.append(_error(there.with_mask(operator.mask * held), found, problem, few * held))
    return PhaseChoice(len(which), *errors)


def _error(operator: Any, found: Reconstruction, problem: InverseProblem, held_out: np.ndarray) -> float:
    slices = problem.plane.slices_of(found.volume)
    if found.phase is not None:
        slices = turned(slices, problem.plane.slices_of(found.phase))
    return float(np.linalg.norm(operator.apply(slices) - held_out) / (np.linalg.norm(held_out) or 1.0))


def _held_out(mask: np.ndarray, seed: int) -> np.ndarray:
    """1 for samples to hold out, float32 (h, w): some of those that were taken outside of the centre."""
    away = np.ones(mask.shape, bool)
    away[tuple(slice(n // 2 - round(_CENTRE * n / 2), n // 2 + round(_CENTRE * n / 2) + 1) for n in mask.shape)] = False
    drawn = np.random.Generator(np.random.Philox(seed)).random(mask.shape) < _HELD_OUT
    return (drawn & away & (mask > 0)).astype(np.float32)
