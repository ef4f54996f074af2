"""From an inverse problem and its priors to a volume: the driver of the samplers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.device import Device
from engine.errors import InputError
from engine.operators import LinearOperator, ThickSlices
from engine.parallel.decomposition import UNDIVIDED, Decomposition
from engine.parallel.stack import Stack
from engine.sampling.ddim import Ddim
from engine.sampling.dps import Dps, block_noise
from engine.sampling.heun import Heun
from engine.sampling.image_phase import magnitude_along, phase_of, turned
from engine.sampling.noise import CounterNoise, Noise, Phase
from engine.sampling.posterior_mean import PosteriorMean, Prior
from engine.sampling.predictor_corrector import PredictorCorrector
from engine.sampling.problem import InverseProblem
from engine.sampling.proximal import ProximalConsistency
from engine.sampling.sampler import Sampler, State
from engine.sampling.schedule import Levels, Schedule
from engine.sampling.settings import Range, Settings
from engine.volume import Plane
from kernels.arrays import library_of, to_numpy

#: Called after every step with the new state and its noise level.
Callback = Callable[[State, float], None]


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps: with problem, priors and settings, all that the rest of it depends on.

    Parameters
    ----------
    step : int
        The next one.
    arrays : mapping of str to array, NumPy's
        `State.arrays`: the whole volume, on every rank, and what steps share.
    residuals : list of float
        Of the steps so far; NaN before the first comparison.
    seconds : float
        Wall time so far.
    """

    step: int
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    residuals: list[float] = field(default_factory=list, repr=False)
    seconds: float = 0.0


@dataclass(frozen=True)
class Reconstruction:
    """The outcome of a run.

    Parameters
    ----------
    volume : float32 (d0, d1, d2)
        On the root; empty on other ranks.
    plan : int (n_steps,)
        The prior at work at each step; −1 for all.
    settings : Settings
        As resolved.
    residuals : list of float
        ‖A x̂₀ − y‖₂ after every step, NaN before the first comparison.
    n_evaluations : int
        Passes of the whole volume through a network, those for gradients not counted again.
    seconds : float
        Wall time of the sampling.
    sigmas : float64 (n_steps,)
        Noise level of every step; empty without steps.
    phase : float32 (d0, d1, d2) or None
        Of an image whose magnitude the volume is, in radians, in (−π, π], beside what the operator knows of it.
    """

    volume: np.ndarray
    plan: np.ndarray
    settings: Settings
    residuals: list[float] = field(repr=False)
    n_evaluations: int
    seconds: float
    sigmas: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)
    phase: np.ndarray | None = field(default=None, repr=False)


def reconstruct(
    problem: InverseProblem,
    priors: Sequence[Prior],
    settings: Settings | None = None,
    *,
    callback: Callback | None = None,
    noise: Noise | None = None,
    checkpoint: Checkpoint | None = None,
    decomposition: Decomposition = UNDIVIDED,
) -> Reconstruction:
    """Sample a volume that all priors find likely and that agrees with the measurement.

    Parameters
    ----------
    problem : InverseProblem
        Its arrays, and those of the result, are NumPy's.
    priors : sequence of Prior
        One to three, of planes that differ; the first one's is the problem's. The run works where their denoisers do.
    settings : Settings, optional
    callback : function, optional
        Called after every step.
    noise : Noise, optional
        Instead of counter noise with the settings' seed.
    checkpoint : Checkpoint, optional
        Go on from there instead of from the start. The result is that of an uninterrupted run, bit for bit, if problem,
        priors and settings are its own.
    decomposition : Decomposition, optional
        Share the volume out among ranks (`engine.parallel.slabs`), of which each makes this call with the same
        arguments. Only the root's result has the volume.

    Returns
    -------
    Reconstruction

    Raises
    ------
    InputError
        Planes that do not fit, a setting out of range, or noise levels on which a prior was not trained.

    Examples
    --------
    Four steps on the demonstration volume, far too few for a good picture:

    >>> from engine import demo
    >>> from engine.problems import Measurement, simulate
    >>> from engine.sampling import Settings, reconstruct
    >>> head = demo.volume()
    >>> axial, coronal = demo.priors()
    >>> problem = simulate("csmri", head.data, axial.plane, Measurement(acceleration=4))
    >>> result = reconstruct(problem, (axial, coronal), Settings(n_steps=4))
    >>> result.volume.shape
    (64, 64, 64)
    """
    check_planes([prior.plane for prior in priors])
    settings = (settings or Settings()).resolved(problem, trained_range(priors))
    noise = noise or CounterNoise(settings.seed)

    def sampler_of(here: InverseProblem) -> Sampler:
        return compose(here, priors, settings, noise, decomposition)

    volume, phase, residuals, seconds, sampler = walk(
        *(sampler_of, problem, priors, settings, noise, callback, checkpoint, decomposition)
    )
    n_evaluations = sampler.n_estimates * (len(priors) if settings.mix == "sum" else 1)
    plan = settings.plan(len(priors))
    return Reconstruction(volume, plan, settings, residuals, n_evaluations, seconds, sampler.sigmas, phase)


def walk(
    sampler_of: Callable[[InverseProblem], Sampler],
    problem: InverseProblem,
    priors: Sequence[Prior],
    settings: Settings,
    noise: Noise,
    callback: Callback | None = None,
    checkpoint: Checkpoint | None = None,
    decomposition: Decomposition = UNDIVIDED,
) -> tuple[np.ndarray, np.ndarray | None, list[float], float, Sampler]:
    """Do the steps of a sampler that are left, where the priors work.

    Parameters
    ----------
    sampler_of : function
        Of the problem, with its arrays on the priors' device and its slices those that are here.
    problem, priors, settings, noise, callback, checkpoint, decomposition
        See `reconstruct`; the settings are resolved.

    Returns
    -------
    volume : float32 (d0, d1, d2), NumPy's
    phase : float32 (d0, d1, d2) or None
        See `Reconstruction`.
    residuals : list of float
        One a step; NaN where a state has none.
    seconds : float
        Wall time, that up to the checkpoint included.
    sampler : Sampler

    Raises
    ------
    InputError
        The problem is measured in another plane than the first prior's; priors on two devices.
    """
    plane, device = priors[0].plane, device_of(priors)
    check_measured_plane(problem, plane)
    # Everything that a step touches is put where the denoisers work, once; the result comes back at the end.
    with device.working():
        here = problem.at(decomposition.own(plane)).on(device)
        sampler = sampler_of(here)
        if checkpoint is None:
            state = sampler.init(start_of(here, settings, noise, device, decomposition))
            if here.is_complex:
                state = replace(state, image_phase=state.x.of(_first_phase(here, settings)))
            done, before = [], 0.0
        else:
            state = State.from_arrays(checkpoint.arrays, checkpoint.step, plane, decomposition).on(device)
            done, before = checkpoint.residuals, checkpoint.seconds
        residuals: list[np.ndarray | None] = []
        started = time.monotonic()
        for sigma in sampler.sigmas[state.step :]:
            state = sampler.step(state)
            residuals.append(state.residual)
            if callback:
                callback(state, float(sigma))
        # Read as numbers only now: each would have made the steps wait for a GPU.
        numbers = [float("nan") if residual is None else float(residual) for residual in residuals]
        volume, phase = _gathered(state)
        seconds = before + time.monotonic() - started
        return volume, phase, [*done, *numbers], seconds, sampler


def _gathered(state: State) -> tuple[np.ndarray, np.ndarray | None]:
    """The whole volume on the root, nothing elsewhere; where its image has a phase, its magnitude and that phase."""
    x = state.x if state.image_phase is None else state.x.to(state.image_phase.plane)
    if state.image_phase is not None:
        image = turned(x.data, state.image_phase.data)
        x, phase = x.of(abs(image)), x.of(library_of(image=image).angle(image)).gathered()
    else:
        phase = None
    volume = x.gathered()
    whole = np.zeros((0, 0, 0), np.float32) if volume is None else to_numpy(volume)
    return whole, None if phase is None else to_numpy(phase)


def _first_phase(problem: InverseProblem, settings: Settings) -> Any:
    """That of the classical reconstruction, as far as it is known at the first level."""
    operator, y = problem.measured()
    return phase_of(operator.classical(y), settings.levels[1])


def start_of(
    problem: InverseProblem, settings: Settings, noise: Noise, device: Device, decomposition: Decomposition = UNDIVIDED
) -> Stack:
    """The first state: noise, and what is known before the first step.

    ddim and heun start from noise around the classical reconstruction, whose error the first level must not fall short
    of by far. The published sampler starts from noise alone; for block means of thick slices from the repeated slices,
    with that noise except in the first of each block, and zero where nothing was measured (reference semantics).

    Parameters
    ----------
    problem : InverseProblem
        Of the slices here, on the device.
    settings : Settings
        Resolved.
    noise, device, decomposition
        See `reconstruct`.
    """
    plane = problem.plane
    x = Stack(None, plane, problem.shape, decomposition)
    z = device.put(noise.draw(0, Phase.START, plane, problem.shape, x.entries, device.library))
    x0 = np.float32(settings.levels[1]) * z
    if problem.operator is None or problem.measurement is None:
        return x.of(x0)
    if settings.sampler != "pc":
        image = problem.operator.classical(problem.measurement)
        x0 += magnitude_along(image, _first_phase(problem, settings)) if problem.is_complex else image
    elif problem.renoise and isinstance(problem.operator, ThickSlices):
        x0[problem.operator.first_entries] = 0
        np.moveaxis(x0, problem.operator.axis, -1)[..., problem.operator.n_covered :] = 0
        x0 += problem.operator.repeated(problem.measurement)
    return x.of(x0)


def compose(
    problem: InverseProblem,
    priors: Sequence[Prior],
    settings: Settings,
    noise: Noise,
    decomposition: Decomposition = UNDIVIDED,
) -> PredictorCorrector | Ddim | Heun:
    """The sampler of resolved settings, for the slices of a problem that are here."""
    check_guidance(problem, settings)
    dps, consistency = None, None
    if problem.operator is not None and problem.measurement is not None:
        if settings.guidance == "proximal":
            consistency = ProximalConsistency(
                problem.operator, problem.measurement, problem.noise_level, settings.rho, decomposition
            )
        elif isinstance(problem.operator, LinearOperator):
            thick = problem.operator if problem.renoise and isinstance(problem.operator, ThickSlices) else None
            dps = Dps(
                *(problem.operator, problem.measurement, settings.dps_weight),
                scale=problem.residual_scale,
                stable=settings.stable,
                noise_level=problem.noise_level,
                group=settings.group,
                renoise=block_noise(noise, thick) if thick and settings.sampler == "pc" else None,
                decomposition=decomposition,
            )
    n = len(priors)
    posterior_mean = PosteriorMean(tuple(priors), settings.plan(n), settings.shares(n), dps, consistency)
    if settings.sampler == "pc":
        schedule = Schedule(*settings.levels, settings.n_steps)
        return PredictorCorrector(posterior_mean, schedule, noise, group=settings.group, snr=settings.snr)
    assert settings.eta is not None and settings.noise_scale is not None
    kind = Ddim if settings.sampler == "ddim" else Heun
    return kind(posterior_mean, Levels(*settings.levels, settings.n_steps), noise, settings.eta, settings.noise_scale)


def check_guidance(problem: InverseProblem, settings: Settings) -> None:
    """Refuse gradients through the network where they are not those of the measurement's slices.

    Raises
    ------
    InputError
    """
    if settings.guidance != "dps":
        return
    if problem.is_complex:
        raise InputError(
            "guidance", "proximal for an image with a phase of its own", "dps", "choose it, or --phase estimate"
        )
    if not problem.is_of_slices:
        raise InputError("guidance", "proximal for slices that are measured together", "dps", "choose it")


def trained_range(priors: Sequence[Prior]) -> Range:
    """The noise levels on which all priors were trained."""
    ranges = [prior.denoiser.sigma_range for prior in priors]
    return max((low for low, _ in ranges), default=0.0), min((high for _, high in ranges), default=float("inf"))


def device_of(priors: Sequence[Prior]) -> Device:
    """Where a run with these priors works.

    Raises
    ------
    InputError
        They work on two devices.
    """
    first = priors[0].denoiser.device
    for prior in priors[1:]:
        if prior.denoiser.device != first:
            raise InputError(
                "auxiliary",
                f"an engine on {first.name} like the primary's",
                f"one on {prior.denoiser.device.name}",
                "open all on one device",
            )
    return first


def check_planes(planes: Sequence[Plane]) -> None:
    """Refuse none, and two priors of the same plane: nothing would then tie the slices together.

    Raises
    ------
    InputError
    """
    if not planes:
        raise InputError("priors", "at least one", "none", "pass the primary plane's")
    for i, plane in enumerate(planes):
        for other in planes[:i]:
            if plane.slice_axis == other.slice_axis:
                raise InputError(
                    "auxiliary",
                    f"a plane perpendicular to {other}",
                    plane,
                    "give an engine that was trained on another plane",
                )


def check_measured_plane(problem: InverseProblem, plane: Plane) -> None:
    """Refuse a problem that is not measured in the primary prior's plane.

    Raises
    ------
    InputError
    """
    if problem.plane != plane:
        raise InputError(
            "problem",
            f"a measurement in the primary prior's plane ({plane})",
            problem.plane,
            "pose it in that plane, or swap the priors",
        )
