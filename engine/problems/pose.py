"""From data in memory to inverse problems: the four tasks in the field's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import kernels
from engine.errors import InputError
from engine.operators import CoilFourier, LinearOperator, MaskedFourier, Radon, ThickSlices, VolumeOperator
from engine.sampling.problem import InverseProblem, Published, Shape
from engine.volume import NAMED_PLANES, Plane

#: For messages and the record of a run.
Details = dict[str, Any]
AXIAL, CORONAL = Plane(NAMED_PLANES["axial"]), Plane(NAMED_PLANES["coronal"])

#: Published weights λ, for 2000 steps on 256 × 256 slices in groups of 6: by acceleration, by factor, or by views.
#: Beyond the ends of a table its last value holds: acceleration 4 takes that of 8.
_WEIGHTS = {
    "csmri": ("acceleration", {8: 0.002, 24: 0.007, 48: 0.01}),
    "mrzsr": ("factor", {2: 1.0, 3: 2.0, 4: 3.0, 5: 4.0}),
    "svct": ("views", {36: 0.025}),
}
#: ‖A‖ of the three published operators (svct: 36 views of 256 × 256; a block mean weighted by √factor has norm 1).
_NORMS = {"csmri": 256.0, "mrzsr": 1.0, "svct": 94.35}
#: Published ratio of the two networks' turns.
_K: dict[str, int | float] = {"csmri": 2, "mrzsr": 2, "svct": 2.7, "uncond": 2}


def csmri(
    kspace: Any, mask: Any, coil_maps: Any = None, *, plane: Plane = AXIAL, noise_level: float = 0.0
) -> InverseProblem:
    """Compressed-sensing MRI: samples of k-space, of one coil or several.

    Parameters
    ----------
    kspace : complex64 (n_slices, h, w), or (n_slices, n_coils, h, w) with `coil_maps`
        Of images in which white is 1; zero where nothing was sampled; the zero frequency at (h // 2, w // 2).
    mask : float32 (h, w)
        0 where nothing was sampled.
    coil_maps : complex64 (n_coils, h, w) or (n_slices, n_coils, h, w), optional
        Sensitivities; they may hold the image's phase.
    plane : Plane
        Of the slices.
    noise_level : float
        Standard deviation of the noise in a sample, of the real and of the imaginary part each.

    Raises
    ------
    ValueError
        Arrays that do not fit each other.
    """
    operator = MaskedFourier(mask) if coil_maps is None else CoilFourier(mask, coil_maps)
    operator.check_data("kspace", kspace)
    details = {"acceleration": float(operator.mask.size / operator.mask.sum())}
    return pose("csmri", plane, operator, kspace, details, noise_level)


def mrzsr(
    thick: Any,
    factor: int,
    *,
    axis: int = 2,
    profile: str = "box",
    gap: float = 0.0,
    plane: Plane = CORONAL,
    noise_level: float = 0.0,
) -> InverseProblem:
    """MRI super-resolution across thick slices.

    Parameters
    ----------
    thick : float32 (d0, d1, d2)
        A volume in which white is 1, one voxel along `axis` a thick slice.
    factor : int
        Thin slices from one thick one to the next.
    axis : int
        Axis of the volume across the thick slices.
    profile, gap
        See `engine.operators.ThickSlices`.
    plane : Plane
        One whose slices show the thick axis.
    noise_level : float

    Raises
    ------
    InputError
        A plane that is cut across the thick axis.
    ValueError
        A value out of range.
    """
    if plane.slice_axis == axis:
        raise InputError("plane", f"one whose slices show the thick axis {axis}", plane, "choose another plane")
    stack_axis = plane.axes.index(axis)
    slices = plane.slices_of(np.asarray(thick, np.float32))
    n_rows, n_columns = (n * factor if i == stack_axis else n for i, n in enumerate(slices.shape) if i)
    operator = ThickSlices((n_rows, n_columns), factor, stack_axis, profile, gap)
    return pose("mrzsr", plane, operator, slices, {"factor": factor, "thick_axis": axis}, noise_level)


def svct(
    sinogram: Any,
    geometry: kernels.Geometry,
    slice_shape: tuple[int, int] | None = None,
    *,
    plane: Plane = AXIAL,
    noise_level: float = 0.0,
) -> InverseProblem:
    """Sparse-view CT: projections of every slice.

    Parameters
    ----------
    sinogram : float32 (n_slices, n_views, n_bins)
        Line integrals of images in which white is 1, in pixels.
    geometry : kernels.Geometry
    slice_shape : (int, int), optional
        Rows and columns, see `engine.operators.Radon`.
    plane : Plane
    noise_level : float

    Raises
    ------
    ValueError
        Arrays that do not fit the geometry.
    """
    operator = Radon(geometry, slice_shape)
    operator.check_data("sinogram", sinogram)
    details = {"views": geometry.n_views, "bins": geometry.n_bins}
    return pose("svct", plane, operator, sinogram, details, noise_level)


def uncond(shape: Shape, plane: Plane = AXIAL) -> InverseProblem:
    """Unconditional generation of a volume of that shape."""
    return InverseProblem(plane, shape, published=Published(_K["uncond"], 0.0), name="uncond")


def pose(
    name: str,
    plane: Plane,
    operator: LinearOperator | VolumeOperator,
    measurement: Any,
    details: Mapping[str, Any],
    noise_level: float = 0.0,
) -> InverseProblem:
    """The inverse problem of a measurement.

    Parameters
    ----------
    name : str
        "csmri", "mrzsr" or "svct".
    plane : Plane
        The plane whose slices the operator measures.
    operator : LinearOperator or VolumeOperator
    measurement : array (n_slices, *operator.data_shape) or (operator.n_samples,)
    details : mapping
        For the run's record; the published weights go by one of them (acceleration, factor or views).
    noise_level : float
    """
    scale, renoise = 1.0, False
    if isinstance(operator, ThickSlices):
        # The published residual is taken between repeated slices, √factor longer than between single ones.
        scale, renoise = float(np.sqrt(operator.factor)), operator.is_block_mean
    shape = operator.shape if isinstance(operator, VolumeOperator) else (len(measurement), *operator.slice_shape)
    return InverseProblem(
        *(plane, plane.volume_shape(shape), operator, measurement),
        noise_level=noise_level,
        residual_scale=scale,
        renoise=renoise,
        sample_rms=rms_of_samples(measurement),
        published=_published(name, details),
        name=name,
        details=dict(details),
    )


def rms_of_samples(measurement: Any) -> float:
    """Root mean square of the samples, zeros left out."""
    sampled = measurement[measurement != 0]
    return float(np.sqrt(np.mean(abs(sampled) ** 2, dtype=np.float64))) if sampled.size else 0.0


def _published(name: str, details: Mapping[str, Any]) -> Published:
    key, weights = _WEIGHTS[name]
    weight = float(np.interp(float(details[key]), list(weights), list(weights.values())))
    return Published(_K[name], weight * _NORMS[name])
