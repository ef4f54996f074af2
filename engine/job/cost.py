"""What a run will take: its time from a few slices that are timed, its memory from the arrays that it holds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.backends.native import NativeDenoiser
from engine.backends.padding import padded_shape
from engine.cli import memory_mb
from engine.methods import METHODS, solve
from engine.methods.trial_slices import middle
from engine.sampling.posterior_mean import ALL
from engine.sampling.proximal import ProximalConsistency

if TYPE_CHECKING:
    from engine.job.job import Job

#: A call is repeated for so long, or timed once where it takes longer.
_TIMED_S = 0.05
#: Posterior means a step.
_ESTIMATES = {"ddim": 1, "heun": 2, "pc": 2}
#: Slices on which methods that tie slices are tried, and noise levels.
_TRIED, _TRIED_STEPS = (2, 6), 2
#: Volumes of float32 that a step holds at most: x and x₀ in two planes, x₀ moved, x after, that of the last state and
#: one that is saved; through the network also the gradient, in two planes, and its step.
_STEP_VOLUMES, _GUIDED_VOLUMES = 8, 3
#: What conjugate gradients of a volume that is measured as a whole hold beside: direction, residual, image, and turned
#: volumes on the way to a sample.
_JOINT_VOLUMES = 6
#: Copies of the measurement, in the operator's order and worked on.
_MEASUREMENTS = 2
#: Bytes a voxel of comparing with a truth (structural similarity in float64: two images, their squares and product, and
#: the filtered ones), and of writing a result without one.
_COMPARED_BYTES, _WRITTEN_BYTES = 80, 24
#: Of a mean and a deviation in float64, a voxel.
_MOMENTS_BYTES = 16
_MB = 2**20


@dataclass(frozen=True)
class Cost:
    """What a run is going to take.

    Parameters
    ----------
    seconds : float or None
        None where nothing was timed: on a GPU.
    n_bytes : int
        Largest memory of the process, beside that of a GPU.
    machine_bytes : int
        Of the machine, or what this process may have of it.
    """

    seconds: float | None
    n_bytes: int
    machine_bytes: int

    def __str__(self) -> str:
        duration = "time unknown before it runs" if self.seconds is None else f"about {_in_words(self.seconds)}"
        return f"{duration}, {_gb(self.n_bytes)} of the machine's {_gb(self.machine_bytes)} of memory"


def cost_of(job: Job) -> Cost | None:
    """Time a few slices of a job, and add up what it holds; takes a fraction of a second, or a few network passes.

    None for methods without a prior, which stop when they are done, and whose work a few slices do not tell.
    """
    if METHODS[job.method].n_priors == 0:
        return None
    n_bytes = int(memory_mb() * _MB) + _activations(job) + _arrays(job)
    machine = machine_bytes()
    # What does not fit is not tried.
    timed = job.selection.device.name == "cpu" and n_bytes < machine
    return Cost(job.n_samples * _seconds(job) if timed else None, n_bytes, machine)


def machine_bytes() -> int:
    """Memory of the machine, or of the control group that this process belongs to where that has less."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        words = limit.read_text().strip() if limit.is_file() else ""
        most = min(most, int(words)) if words.isdigit() else most
    return most


def _arrays(job: Job) -> int:
    """Bytes of the arrays that are not there yet."""
    n_voxels, y = int(np.prod(job.problem.shape)), job.problem.measurement
    here = n_voxels // job.n_ranks
    volumes = _STEP_VOLUMES + (_GUIDED_VOLUMES if job.settings.guidance == "dps" else 0)
    if not job.problem.is_of_slices:
        volumes += _JOINT_VOLUMES
    sampled = 4 * volumes * here + (0 if y is None else _MEASUREMENTS * y.nbytes // job.n_ranks)
    # The one is over when the other begins, but for the result.
    compared = (_COMPARED_BYTES if job.acquisition.truth is not None else _WRITTEN_BYTES) * n_voxels
    return max(sampled, compared) + (_MOMENTS_BYTES * n_voxels if job.n_samples > 1 else 0)


def _activations(job: Job) -> int:
    """Bytes in which the workers' networks work; other runners than the native one are not asked."""
    total = 0
    for (role, denoiser), prior in zip(job.selection.denoisers.items(), job.priors, strict=False):
        if isinstance(denoiser, NativeDenoiser):
            margins = getattr(prior.denoiser, "least", ((0, 0), (0, 0)))
            shape = padded_shape(prior.plane.shape_of(job.problem.shape)[1:], job.bundles[role].divisor, margins)
            is_guided = role == "primary" and job.settings.guidance == "dps"
            total += denoiser.workspace_bytes(shape, with_pullback=is_guided)
    return total


def _seconds(job: Job) -> float:
    """Of one sample."""
    method = METHODS[job.method]
    if "sampler" not in method.reads:
        return _seconds_of_trial(job)
    rates = job.settings
    plan = rates.plan(len(job.priors))
    counts = [int((plan == i).sum() + (plan == ALL).sum()) for i in range(len(job.priors))]
    total = sum(count * _of_prior(job, i) for i, count in enumerate(counts) if count)
    if job.problem.operator is not None and rates.guidance == "proximal":
        total += len(plan) * _of_consistency(job)
    return _ESTIMATES[rates.sampler] * total / job.n_ranks


def _of_prior(job: Job, number: int) -> float:
    """Seconds of one pass of the volume through a network, with the gradient where it is asked for."""
    prior, settings = job.priors[number], job.settings
    n, *sides = prior.plane.shape_of(job.problem.shape)
    few = min(n, prior.denoiser.batch_size * (job.n_threads or 1))
    sigma = settings.levels[1]
    x = np.random.default_rng(0).standard_normal((few, *sides)).astype(np.float32) * np.float32(sigma)
    if number or settings.guidance != "dps" or job.problem.operator is None:
        return n / few * _timed(lambda: prior.denoiser.denoise(x, sigma))
    part = job.problem.at(slice(0, few))
    operator, y = part.measured_slices()
    fidelity = operator.fidelity(y, part.residual_scale)
    return n / few * _timed(lambda: prior.denoiser.guided(x, sigma, fidelity))


def _of_consistency(job: Job) -> float:
    """Seconds of moving the volume to the measurement."""
    n = job.problem.plane.shape_of(job.problem.shape)[0]
    which = middle(n, _TRIED[1] * (job.n_threads or 1))
    part = job.problem.at(which)
    operator, y = part.measured()
    consistency = ProximalConsistency(operator, y, part.noise_level, job.settings.rho)
    x: Any = operator.classical(y)
    return n / len(x) * _timed(lambda: consistency(x, job.settings.levels[1]))


def _seconds_of_trial(job: Job) -> float:
    """Of a method that ties slices, from a few and some more of them: a part does not depend on how many."""
    n, *sides = job.problem.plane.shape_of(job.problem.shape)
    n_steps = min(job.settings.n_steps, _TRIED_STEPS)

    def tried(which: slice) -> float:
        shape = job.problem.plane.volume_shape((which.stop - which.start, *sides))
        part = replace(job.problem.at(which), shape=shape)
        started = time.perf_counter()
        solve(job.method, part, job.priors, replace(job.settings, n_steps=n_steps))
        return time.perf_counter() - started

    few, more = min(n, _TRIED[0]), min(n, _TRIED[1])
    fixed = tried(middle(n, few))
    each = max(0.0, tried(middle(n, more)) - fixed) / (more - few) if more > few else 0.0
    return (fixed + each * (n - few)) * (job.n_steps / n_steps if job.n_steps else 1)


def _timed(call: Callable[[], Any]) -> float:
    """Seconds of a call: the second and further ones where the first, which makes memory, is quick."""
    started = time.perf_counter()
    call()
    first = time.perf_counter() - started
    if first > 20 * _TIMED_S:
        return first
    seconds: list[float] = []
    while sum(seconds) < _TIMED_S:
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    # A machine that was busy with something else for a moment is none the slower.
    return float(np.median(seconds))


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GB"
