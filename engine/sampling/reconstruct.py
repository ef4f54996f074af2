"""From a task and its priors to a volume: the function behind the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from engine.device import Device
from engine.errors import InputError
from engine.operators import ThickSlices
from engine.parallel.decomposition import UNDIVIDED, Decomposition
from engine.problems.tasks import Task
from engine.sampling.ddim import Ddim
from engine.sampling.dps import Dps
from engine.sampling.heun import Heun
from engine.sampling.noise import CounterNoise, Noise, Phase
from engine.sampling.posterior_mean import ALL, PosteriorMean, Prior
from engine.sampling.predictor_corrector import PredictorCorrector
from engine.sampling.proximal import ProximalConsistency
from engine.sampling.sampler import Sampler, State
from engine.sampling.schedule import Levels, Schedule, plan_of
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


#: From where ddim and heun start with a crude reconstruction, in units of image intensity.
START_LEVEL = 0.3
_SIGMA_MAX = 50.0
#: How much of the told noise ddim adds: `benchmarks/quality.py --sweep noise_scale=0,0.25,0.5,1`. Less gains much on
#: the demonstration's head, an average, and some on single ones; below this the curve is flat, and on Colin 27 it
#: falls.
NOISE_SCALE = 0.25
SAMPLERS = ("pc", "ddim", "heun")
GUIDANCE = ("dps", "proximal")
MIXES = ("alternate", "sum")


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
    K : int or float
        How often the priors alternate, see `engine.sampling.schedule.turns`.
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
        Of the methods tv, wavelet, dds and diffusionmbir: weight of what should be sparse, without unit, see
        `engine.methods`. None: the method's default for the task.
    dps_weight : float or None
        dps: λ. None: adaptive (`engine.sampling.dps.Dps`), or with `stable` False `default_dps_weight`.
    group : int
        Slices over which pc and dps take norms.
    snr : float
        pc: signal-to-noise ratio of the corrector.
    stable : bool
        Keep dps from overshooting (`engine.sampling.dps.Dps`); False is the published method to the letter.
    seed : int
        Of the noise and of a float K's draws.
    sigma_min : float
        Last noise level.
    sigma_max : float or None
        First noise level. None: `START_LEVEL` for ddim and heun with a measurement, whose crude reconstruction is near
        enough to start from; else 50.
    """

    sampler: str = "ddim"
    guidance: str = "proximal"
    n_steps: int = 20
    K: int | float = 2
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
    sigma_min: float = 0.01
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
        if self.rho is not None and not (np.isfinite(self.rho) and self.rho >= 0):
            raise InputError("rho", "a number of at least 0", self.rho, "leave it out for the default")
        if self.sparsity_weight is not None and not (np.isfinite(self.sparsity_weight) and self.sparsity_weight >= 0):
            raise InputError(
                "sparsity-weight", "a number of at least 0", self.sparsity_weight, "leave it out for the default"
            )
        if self.group < 1:
            raise InputError("group", "at least 1 slice", self.group, "the published value is 6")
        if not 0 < self.snr <= 1000:
            raise InputError("snr", "more than 0 and at most 1000", self.snr, "the published value is 0.16")
        if self.dps_weight is not None and not (np.isfinite(self.dps_weight) and self.dps_weight >= 0):
            raise InputError("dps-weight", "a number of at least 0", self.dps_weight, "leave it out for the default")
        if not 0 <= self.seed < 2**64:
            raise InputError("seed", "0 to 2^64 − 1", self.seed, "choose another")
        # Both refuse what is out of range.
        Schedule(self.sigma_min, _SIGMA_MAX if self.sigma_max is None else self.sigma_max, self.n_steps)
        plan_of(2, self.K, self.n_steps, self.seed)

    def resolved(self, task: Task) -> Settings:
        """The same with the numbers that a run of this task takes for what is None."""
        return replace(
            self,
            sigma_max=self.first_level(task),
            eta=None if self.sampler == "pc" else self.eta_used,
            noise_scale=None if self.sampler == "pc" else self.noise_scale_used(task),
            dps_weight=self.weight(task) if self.guidance == "dps" else self.dps_weight,
        )

    def first_level(self, task: Task) -> float:
        """σ_max."""
        if self.sigma_max is not None:
            return self.sigma_max
        return _SIGMA_MAX if self.sampler == "pc" or task.operator is None else START_LEVEL

    @property
    def eta_used(self) -> float:
        """η of ddim or heun."""
        if self.eta is not None:
            return self.eta
        return 1.0 if self.sampler == "ddim" else 0.0

    def noise_scale_used(self, task: Task) -> float:
        """τ of ddim or heun."""
        if self.noise_scale is not None:
            return self.noise_scale
        # Without a measurement nothing but the noise makes details; gradients were tuned with all of it.
        is_tied = task.operator is not None and self.guidance == "proximal"
        return NOISE_SCALE if self.sampler == "ddim" and is_tied else 1.0

    def weight(self, task: Task) -> float | None:
        """λ of dps; None where it is adaptive."""
        if self.dps_weight is not None or self.stable:
            return self.dps_weight
        return default_dps_weight(task, self)

    def plan(self, n_priors: int) -> np.ndarray:
        """int (n_steps,): which prior works at each step, see `engine.sampling.posterior_mean.PosteriorMean`."""
        if self.mix == "sum" and n_priors > 1:
            return np.full(self.n_steps, ALL)
        return plan_of(n_priors, self.K, self.n_steps, self.seed)

    def shares(self, n_priors: int) -> tuple[float, ...]:
        """Weights of the priors in a sum."""
        return (1.0,) if n_priors == 1 else (self.alpha, *[(1 - self.alpha) / (n_priors - 1)] * (n_priors - 1))


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is between two steps: with task, priors and settings, all that the rest of it depends on.

    Parameters
    ----------
    state : State
        NumPy or CuPy.
    residuals : list of float
        Of the steps so far; NaN before the first comparison.
    seconds : float
        Wall time so far.
    """

    state: State
    residuals: list[float] = field(default_factory=list, repr=False)
    seconds: float = 0.0


@dataclass(frozen=True)
class Reconstruction:
    """What a run leaves.

    Parameters
    ----------
    volume : float32 (d0, d1, d2)
    plan : int (n_steps,)
        Which prior worked at each step; −1 for all.
    settings : Settings
        With the weight that was used.
    residuals : list of float
        ‖A x̂₀ − y‖₂ after every step, NaN before the first comparison.
    n_evaluations : int
        Passes of the whole volume through a network, those for gradients not counted again.
    seconds : float
        Wall time of the sampling.
    sigmas : float64 (n_steps,)
        Noise level of every step; empty without steps.
    """

    volume: np.ndarray
    plan: np.ndarray
    settings: Settings
    residuals: list[float] = field(repr=False)
    n_evaluations: int
    seconds: float
    sigmas: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)


def reconstruct(
    task: Task,
    priors: Sequence[Prior],
    shape: tuple[int, int, int],
    settings: Settings,
    *,
    callback: Callback | None = None,
    noise: Noise | None = None,
    checkpoint: Checkpoint | None = None,
    decomposition: Decomposition = UNDIVIDED,
) -> Reconstruction:
    """Sample a volume that all priors find likely and that agrees with the measurement.

    Parameters
    ----------
    task : Task
        From `engine.problems.tasks.simulate`.
    priors : sequence of Prior
        One to three, of planes that differ; the first one's is the task's.
    shape : (int, int, int)
        Of the volume.
    settings : Settings
        The run works where the priors' denoisers do; the task, and the result, are NumPy's.
    callback : function, optional
        Called after every step.
    noise : Noise, optional
        Instead of counter noise with the settings' seed.
    checkpoint : Checkpoint, optional
        Go on from there instead of from the start. The result is that of an uninterrupted run, bit for bit, if task,
        priors and settings are its own.
    decomposition : Decomposition, optional
        Share the volume out among ranks (`engine.parallel.slabs`), of which each makes this call with the same
        arguments; states in callbacks then hold parts. Only the root's result has the volume.

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
    >>> from engine.sampling.reconstruct import Settings, reconstruct
    >>> from engine.problems.tasks import Measurement, simulate
    >>> head = demo.volume()
    >>> axial, coronal = demo.priors()
    >>> task = simulate("csmri", head.data, head.data.shape, axial.plane, Measurement(acceleration=4))
    >>> result = reconstruct(task, (axial, coronal), head.data.shape, Settings(n_steps=4))
    >>> result.volume.shape
    (64, 64, 64)
    """
    device = device_of(priors)
    settings, noise = settings.resolved(task), noise or CounterNoise(settings.seed)
    # Everything that a step touches is put where the denoisers work, once; the result comes back at the end.
    with device.working():
        plane = priors[0].plane
        task = task.at(decomposition.own(plane)).on(device)
        sampler = sampler_of(task, priors, settings, noise, decomposition)
        if checkpoint is None:
            normal = device.put(noise.draw(0, Phase.START, plane, shape, decomposition.entries(plane), device.library))
            start = decomposition.volume_of(start_of(task, normal, settings), plane)
            checkpoint = Checkpoint(State(start, 0))
        else:
            checkpoint = replace(
                checkpoint, state=replace(checkpoint.state, x=decomposition.part_of(checkpoint.state.x))
            )
        volume, residuals, seconds = walk(sampler, checkpoint, callback, device, decomposition)
        n_evaluations = sampler.n_estimates * (len(priors) if settings.mix == "sum" else 1)
        return Reconstruction(
            volume, sampler.posterior_mean.plan, settings, residuals, n_evaluations, seconds, sampler.sigmas
        )


def walk(
    sampler: Sampler,
    checkpoint: Checkpoint,
    callback: Callback | None,
    device: Device,
    decomposition: Decomposition = UNDIVIDED,
) -> tuple[np.ndarray, list[float], float]:
    """Do the steps of a sampler that are left.

    Parameters
    ----------
    sampler : Sampler
    checkpoint : Checkpoint
        Before the first of them.
    callback : function or None
        Called after every step.
    device : Device
        Where the sampler works; inside its `working`.
    decomposition : Decomposition
        Where its slices are; the waypoint's are here already.

    Returns
    -------
    volume : float32 (d0, d1, d2), NumPy's
        The whole on the root.
    residuals : list of float
        One a step; NaN where a state has none.
    seconds : float
        Wall time, that up to the waypoint included.
    """
    residuals: list[np.ndarray | None] = []
    state = checkpoint.state.on(device)
    started = time.monotonic()
    for sigma in sampler.sigmas[state.step :]:
        state = sampler.step(state)
        residuals.append(state.residual)
        if callback:
            callback(state, float(sigma))
    # Read as numbers only now: each would have made the steps wait for a GPU.
    numbers = [float("nan") if residual is None else float(residual) for residual in residuals]
    volume = to_numpy(decomposition.gathered(state.x))
    return volume, [*checkpoint.residuals, *numbers], checkpoint.seconds + time.monotonic() - started


def start_of(task: Task, normal: np.ndarray, settings: Settings) -> np.ndarray:
    """The first state, in slices of the primary plane: noise, and what is known before the first step.

    The published sampler starts from noise, or as `Task.start` says. The others may start at a low noise level, which
    the error of a crude reconstruction must not exceed by far.
    """
    if settings.sampler == "pc":
        return task.start(normal, settings.first_level(task))
    x = np.float32(settings.first_level(task)) * normal
    if task.operator is not None and task.measurement is not None:
        x += task.operator.classical(task.measurement)
    return x


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


def sampler_of(
    task: Task, priors: Sequence[Prior], settings: Settings, noise: Noise, decomposition: Decomposition = UNDIVIDED
) -> PredictorCorrector | Ddim | Heun:
    """Compose the sampler that `reconstruct` runs; the task is that of the slices here.

    Raises
    ------
    InputError
        Planes that do not fit, or a setting out of range.
    """
    check_planes([prior.plane for prior in priors])
    check_task_plane(task, priors[0].plane)
    n = len(priors)
    guidance, consistency = None, None
    if task.operator is not None and task.measurement is not None:
        if settings.guidance == "proximal":
            consistency = ProximalConsistency(
                task.operator, task.measurement, task.noise_level, settings.rho, decomposition
            )
        else:
            weight = settings.weight(task)
            guidance = Dps(
                *(task.operator, task.measurement, weight, task.residual_scale, settings.stable, task.noise_level),
                *(decomposition, priors[0].plane),
            )
    posterior_mean = PosteriorMean(
        tuple(priors), settings.plan(n), settings.shares(n), guidance, consistency, decomposition
    )
    if settings.sampler == "pc":
        return PredictorCorrector(
            posterior_mean,
            Schedule(settings.sigma_min, settings.first_level(task), settings.n_steps),
            noise,
            group=settings.group,
            snr=settings.snr,
            renoise=task.operator if task.renoise and isinstance(task.operator, ThickSlices) else None,
        )
    levels = Levels(settings.sigma_min, settings.first_level(task), settings.n_steps)
    kind = Ddim if settings.sampler == "ddim" else Heun
    return kind(posterior_mean, levels, noise, settings.eta_used, settings.noise_scale_used(task), settings.group)


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


def check_task_plane(task: Task, plane: Plane) -> None:
    """Refuse a task that is not measured in the primary prior's plane.

    Raises
    ------
    InputError
    """
    if task.plane != plane:
        raise InputError(
            "task",
            f"the primary's plane ({plane}) to be the one that is measured",
            task.plane,
            "simulate the task in the primary's plane, or swap the priors",
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
