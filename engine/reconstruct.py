"""From a task and two priors to a volume: the function behind the command line."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from engine.device import Device
from engine.errors import InputError
from engine.guidance import Dps
from engine.noise import CounterNoise, Noise, Phase
from engine.operators import ThickSlices
from engine.sampler import PredictorCorrector, Prior, State
from engine.schedule import Schedule, turns
from engine.tasks import Task
from engine.volume import Plane
from kernels.arrays import to_numpy

#: Called after every step with the new state and its noise level.
Callback = Callable[[State, float], None]

#: Published weights λ, for 2000 steps on 256 × 256 slices in groups of 6: by acceleration, by factor, or by views.
_PUBLISHED = {
    "csmri": {8: 0.002, 24: 0.007, 48: 0.01},
    "mrzsr": {2: 1.0, 3: 2.0, 4: 3.0, 5: 4.0},
    "svct": {36: 0.025},
}
_PUBLISHED_STEPS, _PUBLISHED_PIXELS = 2000, 6 * 256**2
#: ‖A‖ of the three published operators (svct: 36 views of 256 × 256; a block mean weighted by √factor has norm 1).
_PUBLISHED_NORM = {"csmri": 256.0, "mrzsr": 1.0, "svct": 94.35}


@dataclass(frozen=True)
class Settings:
    """Settings of the published sampler.

    Parameters
    ----------
    n_steps : int
        Noise levels; the published number is 2000.
    K : int or float
        See `engine.schedule.turns`.
    dps_weight : float or None
        λ; None takes `default_dps_weight`.
    group : int
        Slices over which norms are taken.
    snr : float
        Signal-to-noise ratio of the corrector.
    stable : bool
        Keep data consistency from overshooting (`engine.guidance.Dps`); False is the published method to the letter.
    seed : int
        Of the noise and of a float K's draws.
    sigma_min, sigma_max : float
        Range of noise levels.
    """

    n_steps: int = 60
    K: int | float = 2
    dps_weight: float | None = None
    group: int = 6
    snr: float = 0.16
    stable: bool = True
    seed: int = 0
    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if self.group < 1:
            raise InputError(f"group: expected at least 1 slice, got {self.group}; the published value is 6")
        if not (np.isfinite(self.snr) and self.snr > 0):
            raise InputError(f"snr: expected a positive number, got {self.snr}; the published value is 0.16")
        if self.dps_weight is not None and not (np.isfinite(self.dps_weight) and self.dps_weight >= 0):
            raise InputError(
                f"dps-weight: expected a number of at least 0, got {self.dps_weight}; leave it out for the default"
            )
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed: expected 0 to 2^64 − 1, got {self.seed}; choose another")


@dataclass(frozen=True)
class Reconstruction:
    """What a run leaves.

    Parameters
    ----------
    volume : float32 (d0, d1, d2)
    primary_turns : bool (n_steps,)
    settings : Settings
        With the weight that was used.
    residuals : list of float
        ‖A x̂₀ − y‖₂ after every step, NaN before the first guided one.
    seconds : float
        Wall time of the sampling.
    """

    volume: np.ndarray
    primary_turns: np.ndarray
    settings: Settings
    residuals: list[float] = field(repr=False)
    seconds: float


def reconstruct(
    task: Task,
    primary: Prior,
    auxiliary: Prior,
    shape: tuple[int, int, int],
    settings: Settings,
    *,
    callback: Callback | None = None,
    noise: Noise | None = None,
) -> Reconstruction:
    """Sample a volume that both priors find likely and that agrees with the measurement.

    Parameters
    ----------
    task : Task
        From `engine.tasks.simulate`.
    primary, auxiliary : Prior
        Two planes that differ; the task's plane is the primary's.
    shape : (int, int, int)
        Of the volume.
    settings : Settings
        The run works where the priors' denoisers do; the task, and the result, are NumPy's.
    callback : function, optional
        Called after every step.
    noise : Noise, optional
        Instead of counter noise with the settings' seed.

    Returns
    -------
    Reconstruction

    Raises
    ------
    InputError
        Planes that do not fit, or a setting out of range.

    Examples
    --------
    Four steps on the demonstration volume, far too few for a good picture:

    >>> from engine import demo
    >>> from engine.reconstruct import Settings, reconstruct
    >>> from engine.tasks import Measurement, simulate
    >>> head = demo.volume()
    >>> axial, coronal = demo.priors()
    >>> task = simulate("csmri", head.data, head.data.shape, axial.plane, Measurement(acceleration=4))
    >>> result = reconstruct(task, axial, coronal, head.data.shape, Settings(n_steps=4))
    >>> result.volume.shape
    (64, 64, 64)
    """
    device = device_of(primary, auxiliary)
    noise = noise or CounterNoise(settings.seed)
    # Everything that a step touches is put where the denoisers work, once; the result comes back at the end.
    with device.working():
        task = task.on(device)
        sampler = sampler_of(task, primary, auxiliary, settings, noise)
        if settings.dps_weight is None:
            settings = replace(settings, dps_weight=sampler.guidance.weight if sampler.guidance else 0.0)
        normal = device.put(noise.draw(0, Phase.START, primary.plane, shape, library=device.library))
        state = State(primary.plane.volume_of(task.start(normal, settings.sigma_max)), 0)
        residuals: list[np.ndarray | None] = []
        started = time.monotonic()
        while state.step < settings.n_steps:
            state = sampler.step(state)
            residuals.append(state.residual)
            if callback:
                callback(state, float(sampler.schedule.sigmas[state.step - 1]))
        # Read as numbers only now: each would have made the steps wait for a GPU.
        numbers = [float("nan") if residual is None else float(residual) for residual in residuals]
        volume = to_numpy(state.x)
        return Reconstruction(volume, sampler.primary_turns, settings, numbers, time.monotonic() - started)


def device_of(primary: Prior, auxiliary: Prior) -> Device:
    """Where a run with these priors works.

    Raises
    ------
    InputError
        They work on two devices.
    """
    one, other = primary.denoiser.device, auxiliary.denoiser.device
    if one != other:
        raise InputError(
            f"auxiliary: expected an engine on {one.name} like the primary's, got one on {other.name}; open both on "
            "one device"
        )
    return one


def sampler_of(task: Task, primary: Prior, auxiliary: Prior, settings: Settings, noise: Noise) -> PredictorCorrector:
    """Compose the sampler that `reconstruct` runs.

    Raises
    ------
    InputError
        Planes that do not fit, or a setting out of range.
    """
    check_planes(primary.plane, auxiliary.plane)
    if task.plane != primary.plane:
        raise InputError(
            f"task: expected the primary's plane ({primary.plane}) to be the one that is measured, got {task.plane}; "
            "simulate the task in the primary's plane, or swap the priors"
        )
    guidance = None
    if task.operator is not None and task.measurement is not None:
        weight = default_dps_weight(task, settings) if settings.dps_weight is None else settings.dps_weight
        guidance = Dps(task.operator, task.measurement, weight, task.residual_scale, settings.stable)
    return PredictorCorrector(
        primary,
        auxiliary,
        Schedule(settings.sigma_min, settings.sigma_max, settings.n_steps),
        turns(settings.K, settings.n_steps, settings.seed),
        noise,
        guidance,
        group=settings.group,
        snr=settings.snr,
        renoise=task.operator if task.renoise and isinstance(task.operator, ThickSlices) else None,
    )


def check_planes(primary: Plane, auxiliary: Plane) -> None:
    """Refuse two priors of the same plane: nothing would then tie the slices together.

    Raises
    ------
    InputError
    """
    if primary.slice_axis == auxiliary.slice_axis:
        raise InputError(
            f"auxiliary: expected a plane perpendicular to the primary's ({primary}), got {auxiliary}; "
            "give an engine that was trained on another plane"
        )


def default_dps_weight(task: Task, settings: Settings) -> float:
    """The published weight, carried over to other sizes and numbers of steps.

    The gradient of a norm has a length that grows with ‖A‖ alone, so that λ‖A‖ is a distance in image space; the
    distance that a run has to cover grows with the square root of the number of pixels in a group, and is shared by the
    steps. Beyond the ends of the published tables the last value holds: acceleration 4 takes that of 8.
    """
    if task.operator is None:
        return 0.0
    published = _PUBLISHED[task.name]
    asked = {"csmri": "acceleration", "mrzsr": "factor", "svct": "views"}[task.name]
    weight = float(np.interp(float(task.details[asked]), list(published), list(published.values())))
    norm = task.residual_scale * task.operator.norm()
    # A group cannot have more slices than there are.
    n_slices = min(settings.group, len(task.measurement)) if task.measurement is not None else settings.group
    n_pixels = n_slices * task.operator.slice_shape[0] * task.operator.slice_shape[1]
    distance = np.sqrt(n_pixels / _PUBLISHED_PIXELS) * _PUBLISHED_STEPS / settings.n_steps
    return float(weight * _PUBLISHED_NORM[task.name] / norm * distance)
