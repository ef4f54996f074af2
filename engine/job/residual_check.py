"""Whether the result of a run explains its measurement, as far as noise lets it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.job.job import Job
from engine.methods import METHODS
from engine.problems.noise_level import estimated
from engine.sampling.image_phase import turned
from engine.sampling.problem import InverseProblem
from engine.sampling.reconstruction import Reconstruction

log = logging.getLogger("engine")

#: Residuals that are at most so many times the noise, or such a part of the samples' root mean square, are ordinary.
_TIMES_NOISE, _PART_OF_SAMPLES = 1.5, 0.02
#: What is wrong where no image of the kind that was asked for explains the samples.
_CAUSES = {
    "csmri": "wrong --coil-maps or a wrong --mask",
    "svct": "a wrong centre of rotation, or wrong angles or bins, in --geometry",
    "mrzsr": "a wrong --slice-profile, --gap or --factor",
}
_REAL = "a phase that varies fast or an echo off the centre (--phase joint), "


@dataclass(frozen=True)
class ResidualCheck:
    """How far the result is from its measurement, beside the noise.

    Parameters
    ----------
    residual : float
        Root mean square of A x − y over the samples, of the real and the imaginary part each.
    noise_level : float
        Standard deviation of the noise in a sample that was assumed, or estimated for this alone; of each part, too.
    sample_rms : float
        Root mean square of y, of each part.
    """

    residual: float
    noise_level: float
    sample_rms: float

    @property
    def is_ordinary(self) -> bool:
        """Whether noise, or how exactly methods fit, is all that is left."""
        return self.residual <= max(_TIMES_NOISE * self.noise_level, _PART_OF_SAMPLES * self.sample_rms)

    def record(self) -> dict[str, Any]:
        """For the record of a run."""
        return {"residual": self.residual, "noise_level": self.noise_level, "sample_rms": self.sample_rms}

    def __str__(self) -> str:
        times = f"{self.residual / self.noise_level:.2g} times the noise, " if self.noise_level else ""
        part = self.residual / self.sample_rms if self.sample_rms else 0.0
        return f"residual {times}{part:.2%} of the samples"


def residual_check(job: Job, result: Reconstruction) -> ResidualCheck | None:
    """Compare the residual of a result with the noise, and warn where it is far above.

    A wrong model of the measurement shows there, and often nowhere else: the picture may look like one.

    Parameters
    ----------
    job : Job
    result : Reconstruction
        The last sample, on the root.

    Returns
    -------
    ResidualCheck or None
        None where nothing was measured.
    """
    problem = job.problem
    if problem.operator is None or problem.measurement is None:
        return None
    check = compared(problem, result, _level(job))
    if METHODS[job.method].fits_data and not check.is_ordinary:
        causes = (_REAL if problem.shows_magnitude and not problem.is_complex else "") + _CAUSES[problem.name]
        log.warning("the result does not explain the measurement (%s): likely causes are %s", check, causes)
    return check


def compared(problem: InverseProblem, result: Reconstruction, noise_level: float) -> ResidualCheck:
    """The check of a result with this noise level."""
    slices = problem.plane.slices_of(result.volume)
    if result.phase is not None:
        problem, slices = problem.of_complex_images(), turned(slices, problem.plane.slices_of(result.phase))
    operator, y = problem.measured()
    # What was not sampled is zero on both sides.
    n = max(1, int((y != 0).sum()) * (2 if y.dtype.kind == "c" else 1))
    power = float(sum((abs(part).astype(np.float64) ** 2).sum() for part in np.atleast_2d(y)))
    residual = float(np.sqrt(operator.squared_residual(slices, y) / n))
    return ResidualCheck(residual, noise_level, float(np.sqrt(power / n)))


def _level(job: Job) -> float:
    """The noise level that was assumed; where none was, that of the measurement, 0 if it is unknown."""
    problem = job.problem
    if problem.noise_level or job.acquisition.knows_noise:
        return problem.noise_level
    try:
        return estimated(*problem.measured())
    except InputError:
        # Too few samples to tell: the check is then by the size of the samples alone.
        return 0.0
