"""The four problems: what is measured, how a run starts, and what a scanner would show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

import kernels
from engine.device import Device
from engine.errors import InputError
from engine.operators import CoilFourier, LinearOperator, MaskedFourier, Radon, ThickSlices
from engine.operators.thick_slices import PROFILES
from engine.problems.coil_maps import simulated
from engine.problems.masks import poisson_disc
from engine.volume import Plane

#: Far beyond any scanner's, and within what the kernels accept.
_MAX_VIEWS = 100_000
_MAX_COILS = 64
#: Times the root mean square of the samples: nothing but noise.
_MOST_NOISE = 1000.0
TASKS = ("csmri", "mrzsr", "svct", "uncond")
#: What a run's record says of the measurement.
Details = dict[str, float | str]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Task:
    """One problem on one volume shape, measured in slices of one plane.

    Parameters
    ----------
    name : str
        One of `TASKS`.
    plane : Plane
        The plane whose slices are measured: the primary one.
    operator : LinearOperator or None
        None for unconditional generation.
    measurement : array (n_slices, *operator.data_shape) or None
    residual_scale : float
        Weight of the residual in the published guidance.
    renoise : bool
        Whether the published guidance compares with a re-noised measurement: for thick slices that are the means of
        their blocks. Its noise, one normal a block over √factor, is that of such a mean; for another profile the method
        says nothing, and the measurement stays as it is.
    details : dict
        What the run's record says of the measurement.
    noise_level : float
        Standard deviation of the noise in a sample of the measurement, of the real and the imaginary part each.
    sample_rms : float
        Root mean square of the measured samples before noise, those that are zero left out: the unit of
        `Measurement.noise`.
    """

    name: str
    plane: Plane
    operator: LinearOperator | None
    measurement: np.ndarray | None
    residual_scale: float
    renoise: bool
    details: Details
    noise_level: float = 0.0
    sample_rms: float = 0.0

    def on(self, device: Device) -> Task:
        """The same problem with its arrays on a device."""
        if self.operator is None or self.measurement is None:
            return self
        return replace(self, operator=self.operator.on(device), measurement=device.put(self.measurement))

    def at(self, which: slice) -> Task:
        """The same problem of some of its slices."""
        if self.operator is None or self.measurement is None:
            return self
        return replace(self, operator=self.operator.at(which), measurement=self.measurement[which])

    def classical(self) -> np.ndarray | None:
        """Zero-filled, repeated or back-projected volume, float32 (d0, d1, d2); None without a measurement."""
        if self.operator is None or self.measurement is None:
            return None
        return self.plane.volume_of(self.operator.classical(self.measurement))

    def start(self, normal: np.ndarray, sigma_max: float) -> np.ndarray:
        """Return the first state, in slices of the plane.

        Parameters
        ----------
        normal : float32 (n, h, w)
            Standard normal.
        sigma_max : float

        Returns
        -------
        float32 (n, h, w)
            σ_max z; for block means the repeated slices plus that noise, without it in the first of each block, and
            zero where nothing was measured (reference semantics).
        """
        x = np.float32(sigma_max) * normal
        if self.renoise and isinstance(self.operator, ThickSlices) and self.measurement is not None:
            x = x.copy()
            self.operator.first_of_block(x)[...] = 0
            np.moveaxis(x, self.operator.axis, -1)[..., self.operator.n_covered :] = 0
            x += self.operator.classical(self.measurement)
        return x


@dataclass(frozen=True)
class Measurement:
    """How a task's measurement is simulated.

    Parameters
    ----------
    acceleration : float
        csmri: total k-space samples over those taken.
    factor : int
        mrzsr: thin slices from one thick one to the next.
    thick_axis : int
        mrzsr: axis of the volume along which slices are thick (2: from foot to head).
    views : int or None
        svct: angles over 180°; None is as sparse as published, 36 for 256 pixels and in proportion.
    seed : int
        Of the sampling mask.
    coils : int
        csmri: coils around the patient; 1 sees all alike.
    slice_profile : str
        mrzsr: "box" or "gaussian", see `engine.operators.ThickSlices`.
    gap : float
        mrzsr: thin slices, or parts of them, between thick ones.
    noise : float
        Standard deviation of the noise added to every sample (real and imaginary part each), as a part of the root mean
        square of the measured samples.
    """

    acceleration: float = 4.0
    factor: int = 4
    thick_axis: int = 2
    views: int | None = None
    seed: int = 0
    slice_profile: str = "box"
    gap: float = 0.0
    noise: float = 0.0
    coils: int = 1


def simulate(name: str, volume: np.ndarray | None, shape: tuple[int, int, int], plane: Plane, how: Measurement) -> Task:
    """Measure a known volume.

    Parameters
    ----------
    name : str
        One of `TASKS`.
    volume : float32 (d0, d1, d2) or None
        None for "uncond" only.
    shape : (int, int, int)
        Shape of the volume to reconstruct.
    plane : Plane
        The primary plane.
    how : Measurement

    Raises
    ------
    InputError
        The plane or the shape does not suit the task, or a setting is out of range.
    """
    if not 0 <= how.noise <= _MOST_NOISE:
        raise InputError("noise", f"0 to {_MOST_NOISE:g}", how.noise, "0.01 is one per cent")
    if name == "uncond":
        return Task(name, plane, None, None, 1.0, False, {})
    if volume is None:
        raise InputError("volume", f"one to measure for the task {name}", "none", "pass --volume")
    slices = plane.slices_of(volume)
    build: Callable[..., tuple[LinearOperator, Details]] = {
        "csmri": _fourier,
        "mrzsr": thick_operator,
        "svct": lambda shape, plane, how: _radon(shape[1:], plane, how),
    }[name]
    operator, details = build(slices.shape, plane, how)
    measurement = operator.apply(slices)
    task = measured(name, plane, operator, measurement, details)
    if not how.noise:
        return task
    level = how.noise * task.sample_rms
    measurement = measurement + level * _noise(operator, measurement, how.seed)
    return replace(task, measurement=measurement, details={**details, "noise": how.noise}, noise_level=level)


def measured(name: str, plane: Plane, operator: LinearOperator, measurement: np.ndarray, details: Details) -> Task:
    """The problem that a measurement poses.

    Parameters
    ----------
    name : str
        One of `TASKS`, not "uncond".
    plane : Plane
        The plane whose slices the operator measures.
    operator : LinearOperator
    measurement : array (n_slices, *operator.data_shape)
    details : dict
        For the run's record; what the task's default weights go by (acceleration, factor or views) is among them.

    Returns
    -------
    Task
        With no noise; `engine.problems.noise_level` says otherwise.
    """
    scale, renoise = 1.0, False
    if isinstance(operator, ThickSlices):
        # The published residual is taken between repeated slices, √factor longer than between single ones.
        scale, renoise = float(np.sqrt(operator.factor)), operator.is_block_mean
    sampled = measurement[measurement != 0]
    rms = float(np.sqrt(np.mean(abs(sampled) ** 2, dtype=np.float64))) if sampled.size else 0.0
    return Task(name, plane, operator, measurement, scale, renoise, details, sample_rms=rms)


def _noise(operator: LinearOperator, measurement: np.ndarray, seed: int) -> np.ndarray:
    """White noise of standard deviation 1 in every sample that was taken, of the measurement's type."""
    # Another stream than the sampling mask's.
    generator = np.random.Generator(np.random.Philox(seed).jumped())
    z = generator.standard_normal(measurement.shape, np.float32)
    if not np.iscomplexobj(measurement):
        return z
    noise = (z + 1j * generator.standard_normal(measurement.shape, np.float32)).astype(measurement.dtype)
    return noise * operator.mask if isinstance(operator, (MaskedFourier, CoilFourier)) else noise


def _fourier(shape: Shape, plane: Plane, how: Measurement) -> tuple[LinearOperator, Details]:
    if not 1 <= how.coils <= _MAX_COILS:
        raise InputError("coils", f"1 to {_MAX_COILS}", how.coils, "8 is usual")
    mask = poisson_disc(shape[1:], how.acceleration, how.seed)
    details: Details = {
        "acceleration": how.acceleration,
        "achieved_acceleration": float(mask.size / mask.sum()),
    }
    details["mask_seed"] = how.seed
    if how.coils == 1:
        return MaskedFourier(mask), details
    return CoilFourier(mask, simulated(how.coils, shape)), {**details, "coils": how.coils}


def thick_operator(shape: Shape, plane: Plane, how: Measurement) -> tuple[ThickSlices, Details]:
    """What thick slices see of a stack, and what the run's record says of it.

    Parameters
    ----------
    shape : (int, int, int)
        Of the stack, in the layout of the plane.
    plane : Plane
    how : Measurement

    Raises
    ------
    InputError
        A plane that does not show the thick axis, or a value out of range.
    """
    if how.thick_axis == plane.slice_axis:
        raise InputError(
            "primary",
            f"a prior whose slices show the thick axis {how.thick_axis}",
            f"the plane {plane}, which is cut across it",
            "swap --primary and --auxiliary",
        )
    axis = plane.axes.index(how.thick_axis)
    if not 2 <= how.factor <= shape[axis]:
        raise InputError("factor", f"2 to {shape[axis]}", how.factor, "4 or 5 is usual")
    if how.slice_profile not in PROFILES:
        raise InputError("slice-profile", f"{' or '.join(PROFILES)}", f"'{how.slice_profile}'", "choose one of them")
    if not 0 <= how.gap < how.factor:
        raise InputError(
            "gap",
            f"0 to less than the factor {how.factor}",
            how.gap,
            "it is the part of a slice's spacing that its thickness leaves out",
        )
    details: Details = {"factor": how.factor, "thick_axis": how.thick_axis}
    if (how.slice_profile, how.gap) != ("box", 0):
        details |= {"slice_profile": how.slice_profile, "gap": how.gap}
    return ThickSlices(shape[1:], how.factor, axis, how.slice_profile, how.gap), details


def _radon(shape: tuple[int, int], plane: Plane, how: Measurement) -> tuple[LinearOperator, Details]:
    side = max(shape)
    views = max(1, round(36 * side / 256)) if how.views is None else how.views
    if not 1 <= views <= _MAX_VIEWS:
        raise InputError("views", f"1 to {_MAX_VIEWS}", views, "36 is usual for 256 pixels")
    return Radon(kernels.ParallelGeometry.from_views(side, views), shape), {"views": views}
