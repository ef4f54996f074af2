"""The four tasks as measurements of a known volume."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

import kernels
from engine.errors import InputError
from engine.operators import (
    CoilFourier,
    ConeBeam,
    LinearOperator,
    MaskedFourier,
    Radon,
    ThickSlices,
    VolumeOperator,
)
from engine.operators.thick_slices import PROFILES
from engine.options import Options, documented, option
from engine.problems.coil_maps import simulated
from engine.problems.masks import poisson_disc
from engine.problems.pose import AXIAL, Details, pose, uncond
from engine.sampling.problem import InverseProblem, Shape
from engine.volume import Plane

#: Far beyond any scanner's, and within what the kernels accept.
_MAX_VIEWS = 100_000
_MAX_COILS = 64
#: Times the root mean square of the samples: nothing but noise.
_MOST_NOISE = 1000
#: From the axis to the source and the detector of a cone beam, as parts of the volume's longest side: a head's scanner.
_DISTANCES = 3, 2
TASKS = ("csmri", "mrzsr", "svct", "uncond")


#: Options of a simulated measurement alone: one from a file says the same itself.
_SIMULATED = {"source": ("--volume",)}


@documented
@dataclass(frozen=True)
class Measurement(Options):
    """How a task's measurement is simulated, or what thick slices from a file are; `seed` draws mask and noise."""

    acceleration: float = option(
        4.0, low=1, needs={"task": ("csmri",), **_SIMULATED}, help="all k-space samples over those taken"
    )
    factor: int = option(
        4,
        needs={"task": ("mrzsr",)},
        default_words="4; with --thick what makes voxels cubic",
        help="thin slices from one thick one to the next",
    )
    thick_axis: int = option(
        2,
        choices=(0, 1, 2),
        needs={"task": ("mrzsr",)},
        default_words="2; with --thick that of the largest spacing",
        help="axis of the volume (0 to the right, 1 to the front, 2 to the top) along which slices are thick",
    )
    views: int | None = option(
        None,
        low=1,
        high=_MAX_VIEWS,
        needs={"task": ("svct",), **_SIMULATED},
        default_words="36 for 256 pixels, in proportion; of a cone beam twice as many",
        help="angles over 180 degrees, of a cone beam over 360",
        remedy="36 is usual for 256 pixels",
    )
    beam: str = option(
        "parallel",
        choices=("parallel", "cone"),
        needs={"task": ("svct",), **_SIMULATED},
        help="rays: parallel, in every slice; cone, from a source that turns about the middle of the axial slices",
    )
    seed: int = 0
    slice_profile: str = option(
        "box", choices=PROFILES, needs={"task": ("mrzsr",)}, help="profile of a thick slice across it"
    )
    gap: float = option(
        0.0,
        needs={"task": ("mrzsr",)},
        default_words="0; with --thick what the thickness of slices leaves out, where the file says it",
        help="thin slices between thick ones; the rest of the factor is thickness",
    )
    noise: float = option(
        0.0,
        low=0,
        high=_MOST_NOISE,
        needs=_SIMULATED,
        help="standard deviation of the noise added to every sample, real and imaginary part each, as a part of the "
        "root mean square of the samples",
        remedy="0.01 is one per cent",
    )
    coils: int = option(
        1,
        low=1,
        high=_MAX_COILS,
        needs={"task": ("csmri",), **_SIMULATED},
        help="coils around the patient",
        remedy="8 is usual",
    )


def simulate(
    name: str, volume: np.ndarray | None, plane: Plane, how: Measurement | None = None, shape: Shape | None = None
) -> InverseProblem:
    """Measure a known volume.

    Parameters
    ----------
    name : str
        One of `TASKS`.
    volume : float32 (d0, d1, d2) or None
        None for "uncond" only.
    plane : Plane
        The primary plane, whose slices are measured.
    how : Measurement, optional
    shape : (int, int, int), optional
        Of the volume to generate, where there is none to measure.

    Raises
    ------
    InputError
        The plane or the shape does not suit the task, or a setting is out of range.
    """
    how = how or Measurement()
    if name == "uncond":
        shape = volume.shape if shape is None and volume is not None else shape
        if shape is None:
            raise InputError("shape", "that of the volume to generate", "none", "pass a shape")
        return uncond(shape, plane)
    if volume is None:
        raise InputError("volume", f"one to measure for the task {name}", "none", "pass --volume")
    slices = plane.slices_of(volume)
    build: Callable[..., tuple[LinearOperator | VolumeOperator, Details]] = {
        "csmri": _fourier,
        "mrzsr": thick_operator,
        "svct": _cone if how.beam == "cone" else _radon,
    }[name]
    operator, details = build(slices.shape, plane, how)
    measurement = operator.apply(slices)
    problem = pose(name, plane, operator, measurement, details)
    if not how.noise:
        return problem
    level = how.noise * problem.sample_rms
    measurement = measurement + level * _noise(operator, measurement, how.seed)
    return replace(problem, measurement=measurement, details={**details, "noise": how.noise}, noise_level=level)


def _noise(operator: LinearOperator | VolumeOperator, measurement: np.ndarray, seed: int) -> np.ndarray:
    """White noise of standard deviation 1 in every sample that was taken, of the measurement's type."""
    # Another stream than the sampling mask's.
    generator = np.random.Generator(np.random.Philox(seed).jumped())
    z = generator.standard_normal(measurement.shape, np.float32)
    if not np.iscomplexobj(measurement):
        return z
    noise = (z + 1j * generator.standard_normal(measurement.shape, np.float32)).astype(measurement.dtype)
    return noise * operator.mask if isinstance(operator, (MaskedFourier, CoilFourier)) else noise


def _fourier(shape: Shape, plane: Plane, how: Measurement) -> tuple[LinearOperator, Details]:
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


def _radon(shape: Shape, plane: Plane, how: Measurement) -> tuple[LinearOperator, Details]:
    side = max(shape[1:])
    views = _views_of(side) if how.views is None else how.views
    return Radon(kernels.ParallelGeometry.from_views(side, views), shape[1:]), {"views": views}


def _cone(shape: Shape, plane: Plane, how: Measurement) -> tuple[VolumeOperator, Details]:
    """A scanner whose detector sees the whole volume, with a line and a bin for every voxel on the axis."""
    slices, rows, columns = AXIAL.shape_of(plane.volume_shape(shape))
    views = 2 * _views_of(max(rows, columns)) if how.views is None else how.views
    source, detector = (part * max(shape) for part in _DISTANCES)
    reach, radius = source + detector, math.hypot(rows, columns) / 2
    spacing = reach / source
    # Shadows of the cylinder about the volume: its sides, and the edge that is nearest to the source.
    shadows = reach * radius / math.sqrt(source**2 - radius**2), reach * slices / 2 / (source - radius)
    n_bins, n_lines = (2 * math.ceil(shadow / spacing) for shadow in shadows)
    angles = np.linspace(0, 2 * np.pi, views, endpoint=False)
    geometry = kernels.ConeGeometry(
        (slices, rows, columns), angles, source, detector, n_lines, n_bins, spacing, spacing
    )
    return ConeBeam(geometry, plane.axes_of(AXIAL)), cone_details(geometry)


def cone_details(geometry: kernels.ConeGeometry) -> Details:
    """What the record of a run says of a cone beam."""
    return {"beam": "cone", "views": geometry.n_views, "lines": geometry.n_lines, "bins": geometry.n_bins}


def _views_of(side: int) -> int:
    return max(1, round(36 * side / 256))
