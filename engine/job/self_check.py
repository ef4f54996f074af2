"""What the priors of a run are worth on its own scan of thick slices, measured on the scan itself."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.backends.borders import padded
from engine.job.job import Job
from engine.methods import METHODS, solve
from engine.methods.trial_slices import fullest
from engine.operators import ThickSlices
from engine.report.metrics import TISSUE, tissue_psnr
from engine.sampling.posterior_mean import Prior
from engine.sampling.problem import InverseProblem
from engine.volume import Plane

log = logging.getLogger("engine")

#: Slices that are thinned, at most: a few percent of a run's time.
_N_SLICES = 8
#: Gain over interpolation below which a prior knows little of a scan, in dB.
_LITTLE_DB = 0.3


@dataclass(frozen=True)
class SelfCheck:
    """How well slices of the scan were brought back from fewer of their own rows or columns.

    Parameters
    ----------
    n_slices : int
    psnr_db, cubic_psnr_db : float
        Of the tissue, by one prior and by cubic splines.
    """

    n_slices: int
    psnr_db: float
    cubic_psnr_db: float

    @property
    def gain_db(self) -> float:
        return self.psnr_db - self.cubic_psnr_db

    def record(self) -> dict[str, Any]:
        """For the record of a run."""
        return {**asdict(self), "gain_db": self.gain_db}

    def __str__(self) -> str:
        return (
            f"{self.gain_db:+.1f} dB against cubic splines ({self.psnr_db:.1f} and {self.cubic_psnr_db:.1f} dB), one "
            f"plane alone, on {self.n_slices} of the scan's own slices"
        )


def self_check(job: Job) -> SelfCheck | None:
    """Reconstruct slices of the scan, whose pixels are fine and known, from thick rows as thick as the scan's slices.

    The scan's slices are of the person, contrast and scanner that the run is about, and were not trained on. What a
    prior gains on them over interpolation it may be expected to gain between them.

    Parameters
    ----------
    job : Job

    Returns
    -------
    SelfCheck or None
        None where there is nothing to be learned: another task, a method without priors, a truth that will be compared
        with anyway, no prior for slices of the measured plane, a runner bound to one size of slices, or slices
        that are too small or empty.
    """
    operator, axis = job.problem.operator, job.acquisition.thick_axis
    if not isinstance(operator, ThickSlices) or axis is None or job.acquisition.truth is not None:
        return None
    if METHODS[job.method].n_priors == 0 or job.n_ranks > 1 or job.selection.device.name != "cpu":
        return None
    found = _role_of_slices(axis, job)
    if found is None:
        return None
    role, plane = found
    _, y = job.problem.measured_slices()
    slices = plane.slices_of(job.problem.plane.volume_of(y))
    # Whole blocks alone: a rest would be a guess.
    slices = slices[:, : slices.shape[1] // operator.factor * operator.factor]
    chosen = fullest((slices > TISSUE).mean(axis=(1, 2)), _N_SLICES)
    least = 2 * max(operator.factor, *(bundle.divisor for bundle in job.bundles.values()))
    if min(slices.shape[1:]) < least or not len(chosen):
        return None
    truth = np.ascontiguousarray(slices[chosen])
    prior = Prior(
        padded(job.selection.denoisers[role], job.bundles[role], plane, job.cut_faces, truth.shape[1:]), plane
    )
    thinned = ThickSlices(truth.shape[1:], operator.factor, 1, operator.profile, operator.gap)
    problem = InverseProblem(
        plane,
        plane.volume_shape(truth.shape),
        thinned,
        thinned.apply(truth),
        # Noise of the slices, less what the mean over a block leaves of it.
        job.problem.noise_level / float(np.sqrt(operator.factor)),
        name=job.problem.name,
    )
    result = plane.slices_of(solve("single", problem, [prior], job.settings).volume)
    cubic = thinned.classical(problem.measurement)
    check = SelfCheck(len(truth), tissue_psnr(truth, result), tissue_psnr(truth, cubic))
    if check.gain_db < _LITTLE_DB:
        log.warning(
            "the prior knows little of this scan: on its own slices it gains %.1f dB over cubic splines; train it on "
            "them with --adapt 5, or take the interpolated volume",
            check.gain_db,
        )
    return check


def _role_of_slices(axis: int, job: Job) -> tuple[str, Plane] | None:
    """The prior that knows slices across an axis, and their plane."""
    row, column = (i for i in range(3) if i != axis)
    for (role, bundle), prior in zip(job.bundles.items(), job.priors, strict=True):
        if bundle.serves_all_planes:
            return role, Plane((axis, row, column))
        if prior.plane.slice_axis == axis:
            return role, prior.plane
    return None
