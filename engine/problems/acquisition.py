"""What a run starts from: a grid in the world, and what was measured on it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from engine.errors import InputError
from engine.io.measurements.kspace import KSpace
from engine.io.measurements.sinogram import Sinogram
from engine.io.orientation import Orientation
from engine.io.volumes.intensities import WHITE_PERCENTILE
from engine.io.volumes.volume import Volume
from engine.operators import CoilFourier, LinearOperator, MaskedFourier, Radon, Weighted
from engine.problems.coil_maps import espirit
from engine.problems.phase import echo_is_whole, estimate_phase
from engine.problems.pose import Details, pose, uncond
from engine.problems.tasks import Measurement, simulate, thick_operator
from engine.sampling.problem import InverseProblem, Shape
from engine.volume import Plane

log = logging.getLogger("engine")

#: Where the phase of an image comes from: found with its magnitude, from the centre of k-space alone, or nowhere; or
#: whichever of the first two foretells samples better.
PHASES = ("auto", "joint", "estimate", "none")
#: Planes of priors for a cone beam, which measures the volume as a whole: a third prior's turns cost nothing, and gain
#: half a decibel.
CONE_PLANES = 3
#: Thin slices for a thick one: no scan has slices thicker than this many pixels.
_MOST_THIN = 64
#: Part of their distance by which slices may be thinner and still leave no gap: headers round.
_SAME_MM = 0.01


@dataclass(frozen=True)
class Acquisition:
    """A measurement, simulated or real, and the grid of the volume that is to explain it.

    Parameters
    ----------
    name : str
        One of `engine.problems.tasks.TASKS`.
    shape : (int, int, int)
        Of the volume.
    affine : float64 (4, 4)
        Its voxel indices to mm (right, anterior, superior).
    problem : function
        Of the primary plane: the inverse problem, in units in which white is 1. Raises InputError for a plane that does
        not suit the measurement.
    source : str
        Where it came from.
    scale, offset : float
        Intensities times scale plus offset are in the file's units.
    orientation : Orientation or None
        How the file's axes lie in those of the volume; None: they are the same.
    truth : float32 (d0, d1, d2) or None
        What was measured, where that is known.
    slice_axis : int or None
        Axis of the volume that the primary plane has to cut across, where the measurement says so.
    thick_axis : int or None
        Axis that the primary plane has to show.
    n_planes : int
        Planes of priors that suit it, where a set has as many.
    window : tuple of 3 slice or None
        The part of the volume that is to be shown: a scanner may measure more than its field of view. None: all.
    knows_noise : bool
        Whether the task's noise level is that of the measurement: of a simulation it is, of a file if that says so.
    phase : float32 (d0, d1, d2) or None
        What of the image's phase the operator knows, in radians.
    chooses_phase : bool
        Whether the problem, of complex images, may as well be one of real ones: see `engine.methods.phase_choice`.
    """

    name: str
    shape: Shape
    affine: np.ndarray
    problem: Callable[[Plane], InverseProblem]
    source: str
    scale: float = 1.0
    offset: float = 0.0
    orientation: Orientation | None = None
    truth: np.ndarray | None = None
    slice_axis: int | None = None
    thick_axis: int | None = None
    n_planes: int = 2
    window: tuple[slice, slice, slice] | None = None
    knows_noise: bool = False
    phase: np.ndarray | None = None
    chooses_phase: bool = False

    @property
    def voxel_mm(self) -> np.ndarray:
        """Edge lengths of a voxel along the three axes, in mm."""
        return np.asarray(np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)))

    def in_file_units(self, volume: np.ndarray) -> np.ndarray:
        """A volume on the grid in the units of the file, float32."""
        return volume * np.float32(self.scale) + np.float32(self.offset)

    def shown(self, volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The part of a volume on the grid that is to be shown, a view, and its affine."""
        if self.window is None:
            return volume, self.affine
        move = np.eye(4)
        move[:3, 3] = [part.start for part in self.window]
        return volume[self.window], self.affine @ move

    def unsuitable(self, plane: Plane) -> bool:
        """Whether the measurement is none of slices of this plane."""
        if self.slice_axis is not None:
            return plane.slice_axis != self.slice_axis
        return plane.slice_axis == self.thick_axis


def of_nothing(shape: Shape, affine: np.ndarray) -> Acquisition:
    """A grid on which nothing was measured."""
    return Acquisition("uncond", shape, affine, lambda plane: uncond(shape, plane), "nothing")


def of_volume(name: str, volume: Volume, how: Measurement) -> Acquisition:
    """Measure a known volume, to see how near a reconstruction comes to it.

    Parameters
    ----------
    name : str
        One of `engine.problems.tasks.TASKS`.
    volume : Volume
    how : Measurement
        Of thick slices as many as fill blocks are measured: the rest of the volume is left out, with a warning.
    """
    data = volume.data
    if name == "mrzsr":
        data = _whole_blocks(data, how, volume.source)
    shape = data.shape
    return Acquisition(
        name,
        shape,
        volume.affine,
        lambda plane: simulate(name, data, plane, how),
        volume.source,
        volume.scale,
        volume.offset,
        volume.orientation,
        data,
        thick_axis=how.thick_axis if name == "mrzsr" else None,
        n_planes=CONE_PLANES if name == "svct" and how.beam == "cone" else 2,
        knows_noise=True,
    )


def _whole_blocks(data: np.ndarray, how: Measurement, source: str) -> np.ndarray:
    """A volume without the thin slices beyond its last thick one; as it is where not even one block is full."""
    n = data.shape[how.thick_axis]
    rest = n % how.factor if how.factor > 0 else 0
    if not rest or n < how.factor:
        return data
    log.warning("%d of the %d slices of '%s' fill no block of %d, and are left out", rest, n, source, how.factor)
    return np.ascontiguousarray(np.take(data, range(n - rest), how.thick_axis))


def of_thick(
    thick: Volume,
    factor: int | None = None,
    axis: int | None = None,
    slice_profile: str = "box",
    gap: float | None = None,
) -> Acquisition:
    """A scan with thick slices, each to become `factor` thin ones.

    Parameters
    ----------
    thick : Volume
        One voxel along `axis` a thick slice.
    factor : int or None
        Thin slices from one thick one to the next. None: what comes nearest to cubic voxels.
    axis : int or None
        Axis of the volume along which slices are thick. None: that of the largest spacing.
    slice_profile : str
        "box" or "gaussian".
    gap : float or None
        Thin slices, or parts of them, between thick ones. None: what the thickness of slices leaves of their distance,
        where the file says it; else 0.

    Raises
    ------
    InputError
        Voxels that do not tell the axis or the factor, or a value out of range.
    """
    spacing = thick.voxel_mm
    if axis is None:
        axis = int(spacing.argmax())
        if (spacing > 0.99 * spacing[axis]).sum() > 1:
            raise InputError(
                "thick-axis",
                f"one axis with the largest spacing in '{thick.source}'",
                f"voxels of {_mm(spacing)}",
                "name the axis with --thick-axis",
            )
    others = [i for i in range(3) if i != axis]
    if factor is None:
        factor = round(float(spacing[axis] / spacing[others].mean()))
        if factor < 2:
            raise InputError(
                "factor",
                f"slices at least 1.5 times as thick as pixels are wide in '{thick.source}'",
                f"voxels of {_mm(spacing)}",
                "state how many thin slices each should become with --factor",
            )
    if not 2 <= factor <= _MOST_THIN:
        raise InputError("factor", f"2 to {_MOST_THIN}", factor, "4 or 5 is usual")
    shape = [*thick.data.shape]
    shape[axis] *= factor
    # Thin slice j lies at (j + ½)/factor − ½ of the thick ones' indices.
    finer = np.eye(4)
    finer[axis, axis], finer[axis, 3] = 1 / factor, 0.5 / factor - 0.5
    gap, origin = _gap_of(thick, axis, factor) if gap is None else (gap, "")
    how = Measurement(factor=factor, thick_axis=axis, slice_profile=slice_profile, gap=gap)
    fine: Shape = (shape[0], shape[1], shape[2])

    def problem(plane: Plane) -> InverseProblem:
        operator, details = thick_operator(plane.shape_of(fine), plane, how)
        details |= {"gap_from": origin} if origin else {}
        return pose("mrzsr", plane, operator, plane.slices_of(thick.data), details)

    return Acquisition(
        "mrzsr",
        fine,
        thick.affine @ finer,
        problem,
        thick.source,
        thick.scale,
        thick.offset,
        thick.orientation,
        thick_axis=axis,
    )


def _gap_of(thick: Volume, axis: int, factor: int) -> tuple[float, str]:
    """Thin slices between thick ones, and why; 0 where the file does not say how thick slices are along the axis."""
    known, spacing = thick.thickness, float(thick.voxel_mm[axis])
    if known is None or known.axis not in (None, axis) or abs(known.mm - spacing) < _SAME_MM * spacing:
        return 0.0, ""
    if known.mm > spacing:
        log.warning(
            "'%s': slices overlap, %.4g mm thick and %.4g mm apart (%s); they are taken for as thick as they are apart",
            *(thick.source, known.mm, spacing, known.origin),
        )
        return 0.0, ""
    gap = round(factor * (1 - known.mm / spacing), 4)
    return gap, f"slices {known.mm:.4g} mm thick and {spacing:.4g} mm apart ({known.origin})"


def of_kspace(
    kspace: KSpace, coil_maps: np.ndarray | None = None, phase: str = "joint", white: float | None = None
) -> Acquisition:
    """Samples of k-space, of one coil or several.

    The prior knows magnitudes, and so the volume is real. What of its phase varies slowly is found from the fully
    sampled centre of k-space beforehand and belongs to the operator; the rest is found with the volume.

    Parameters
    ----------
    kspace : KSpace
    coil_maps : complex64 (n_slices, n_coils, h, w) or None
        In the layout of the samples, as `load_maps` returns them. None, for several coils: estimated by ESPIRiT.
    phase : str
        "joint"; "auto", the same for `engine.methods.phase_choice` to decide upon; "estimate" for images whose phase
        varies slowly everywhere, where the centre's is all there is; "none" for images that are real and positive.
    white : float or None
        Intensity that becomes 1. None: that of the zero-filled image.

    Raises
    ------
    InputError
        No centre to estimate from, or a value out of range.
    """
    if phase not in PHASES:
        raise InputError("phase", f"{' or '.join(PHASES)}", f"'{phase}'", "choose one")
    zero_filled = kspace.zero_filled()
    scale = white_of(zero_filled, kspace.source) if white is None else checked_white(white)
    samples = (kspace.data / np.float32(scale)).astype(np.complex64)
    details: Details = {"acceleration": float(kspace.mask.size / kspace.mask.sum()), "phase": phase}
    if kspace.noise_origin:
        details["noise_scan"] = kspace.noise_origin
    maps: np.ndarray | None = None
    if kspace.is_multicoil:
        if coil_maps is not None:
            maps = coil_maps
        elif kspace.calibration is not None:
            maps = _in_file_units(espirit(kspace.calibration.data / np.float32(scale), kspace.calibration.mask), kspace)
        else:
            maps = _in_file_units(espirit(samples, kspace.mask), kspace)
        details |= {"coils": samples.shape[1], "coil_maps": "ESPIRiT" if coil_maps is None else "given"}
    elif coil_maps is not None:
        raise InputError("coil-maps", "k-space of several coils", "that of one", "drop --coil-maps")
    if not echo_is_whole(samples, kspace.mask):
        log.warning(
            "%s: the strongest samples lie off the zero frequency, at the border of what was sampled: the echo is not "
            "at its place, and what is missing of it no method makes up; take the mask about the echo",
            kspace.source,
        )
    slow = None
    if phase != "none":
        slow = _slow_phase(kspace, samples, maps, scale, is_all=phase == "estimate")
        turned = np.exp(1j * slow).astype(np.complex64)[:, None]
        maps = turned if maps is None else maps * turned
    if maps is not None and not kspace.is_multicoil:
        samples = samples[:, None]
    shape = kspace.plane.volume_shape((len(samples), *samples.shape[-2:]))

    def problem(plane: Plane) -> InverseProblem:
        _check_slice_axis(plane, kspace.plane)
        y, mask, s = samples, kspace.mask, maps
        if plane != kspace.plane:
            # The same slices, rows and columns swapped.
            y, mask = (np.ascontiguousarray(a.swapaxes(-1, -2)) for a in (y, mask))
            s = None if s is None else np.ascontiguousarray(s.swapaxes(-1, -2))
        operator = MaskedFourier(mask) if s is None else CoilFourier(mask, s)
        level = 0.0 if kspace.noise_level is None else kspace.noise_level / scale
        if phase in ("auto", "joint"):
            operator = operator.of_complex_images()
        return replace(pose("csmri", plane, operator, y, details, level), shows_magnitude=True)

    window = [slice(0, n) for n in shape]
    for axis, ends in zip(kspace.plane.axes[1:], kspace.crop, strict=True):
        window[axis] = slice(*ends)
    return Acquisition(
        *("csmri", shape, kspace.affine, problem, kspace.source, scale),
        slice_axis=kspace.plane.slice_axis,
        window=(window[0], window[1], window[2]),
        knows_noise=kspace.noise_level is not None,
        phase=None if slow is None else kspace.plane.volume_of(slow),
        chooses_phase=phase == "auto",
    )


def _in_file_units(maps: np.ndarray, kspace: KSpace) -> np.ndarray:
    """Maps whose squares sum to 1 over the file's own channels, for the intensities and the shading that these have."""
    if kspace.file_grid is None or kspace.file_grid.whitening is None:
        return maps
    size = np.linalg.norm(kspace.file_grid.of_channels(maps), axis=1, keepdims=True)
    return np.asarray(maps / np.where(size > 0, size, 1), np.complex64)


def _slow_phase(
    kspace: KSpace, samples: np.ndarray, maps: np.ndarray | None, scale: float, *, is_all: bool
) -> np.ndarray:
    """The phase from the centre of k-space, float32 (n_slices, h, w): all there is, or a start."""
    mask, least = kspace.mask, {} if is_all else {"least_half_width": 0}
    if kspace.calibration is not None and kspace.calibration.is_of_image and maps is not None:
        samples, mask = kspace.calibration.data / np.float32(scale), kspace.calibration.mask
    return estimate_phase(samples, mask, maps, **least)


def of_sinogram(sinogram: Sinogram, white: float | None = None) -> Acquisition:
    """Projections of every slice.

    Parameters
    ----------
    sinogram : Sinogram
    white : float or None
        Intensity that becomes 1, in the units of the image. None: that of the filtered back-projection.
    """
    operator: LinearOperator = Radon(sinogram.geometry, sinogram.slice_shape)
    if white is None:
        scale = white_of(operator.classical(sinogram.data), sinogram.source)
    else:
        scale = checked_white(white)
    y = sinogram.data / np.float32(scale)
    if sinogram.weights is not None:
        roots = np.sqrt(sinogram.weights)
        operator, y = Weighted(operator, roots), y * roots

    def problem(plane: Plane) -> InverseProblem:
        if plane != sinogram.plane:
            raise InputError(
                "primary",
                f"a prior of the plane {sinogram.plane}, in which the sinogram was measured",
                plane,
                "swap --primary and --auxiliary, or state the orientation in the geometry",
            )
        details: Details = {"views": sinogram.geometry.n_views, "bins": sinogram.geometry.n_bins, **sinogram.details}
        return pose("svct", plane, operator, y, details)

    shape = sinogram.plane.volume_shape((len(y), *sinogram.slice_shape))
    return Acquisition(
        "svct", shape, sinogram.affine, problem, sinogram.source, scale, slice_axis=sinogram.plane.slice_axis
    )


def _check_slice_axis(plane: Plane, measured_in: Plane) -> None:
    if plane.slice_axis != measured_in.slice_axis:
        raise InputError(
            "primary",
            f"a prior of slices like the measured ones, {measured_in}",
            f"the plane {plane}",
            "swap --primary and --auxiliary, or state the directions of the axes with --orientation",
        )


def checked_white(white: float) -> float:
    if not (np.isfinite(white) and white > 0):
        raise InputError("white", "a positive number", white, "leave it out to have it estimated")
    return white


def _mm(lengths: np.ndarray) -> str:
    return "×".join(f"{length:.3g}" for length in lengths) + " mm"


def white_of(data: np.ndarray, source: str) -> float:
    """The intensity of bright tissue in a classical reconstruction."""
    tissue = data[data > 0]
    if not tissue.size:
        raise InputError(
            "white",
            f"positive intensities in the classical reconstruction of '{source}'",
            "none",
            "check the file, or state the intensity that is to become 1 with --white",
        )
    return float(np.percentile(tissue, WHITE_PERCENTILE))
