"""The ASTRA toolbox on the project's geometries: slice by slice on either device, whole stacks on CUDA."""

from __future__ import annotations

from typing import Any

import numpy as np

import kernels
from benchmarks.lib.rows import Call, Setting, Unavailable, load, same

#: Joseph's method: linear interpolation along one axis.
JOSEPH = "linear"
#: Lengths of the ray in every pixel: the only quick one for fans on a CPU.
FAN_LINE = "line_fanflat"


def toolbox(setting: Setting) -> Any:
    """Return the package, if it can compute on the device."""
    astra = load("astra")
    if setting.is_cuda and not astra.use_cuda():
        raise Unavailable(f"ASTRA {astra.__version__} finds no CUDA device, or was built without CUDA")
    return astra


def _window(geometry: kernels.ParallelGeometry) -> tuple[float, float]:
    """Ends of the image along either axis, from the rotation's centre in pixels: x to the right, y downwards."""
    offset = (geometry.n_bins - 1) / 2 - geometry.pad_before - (geometry.n - 1) / 2
    return -geometry.n / 2 - offset, geometry.n / 2 - offset


def parallel(astra: Any, geometry: kernels.ParallelGeometry) -> tuple[Any, Any]:
    """Return ASTRA's volume and projection geometries of one slice."""
    low, high = _window(geometry)
    # ASTRA's y points up, and its row 0 lies on top.
    volume = astra.create_vol_geom(geometry.n, geometry.n, low, high, -high, -low)
    return volume, astra.create_proj_geom("parallel", 1.0, geometry.n_bins, np.asarray(geometry.angles_rad))


def fan(
    astra: Any,
    n: int,
    n_bins: int,
    spacing_px: float,
    angles_rad: np.ndarray,
    source_px: float,
    detector_px: float,
) -> tuple[Any, Any]:
    """Return the geometries of one slice under a fan and a flat detector, the source above the image at angle 0.

    Parameters
    ----------
    n, n_bins : int
        Sides of the image; bins.
    spacing_px : float
        Distance of bins on the detector.
    angles_rad : float64 (n_views,)
    source_px, detector_px : float
        Distances of source and detector from the centre of the image.
    """
    cosine, sine = np.cos(angles_rad), np.sin(angles_rad)
    # Source, middle of the detector, from bin to bin; x to the right, y up. ASTRA's own angles start at the bottom.
    columns = -source_px * sine, source_px * cosine, detector_px * sine, -detector_px * cosine
    vectors = np.stack([*columns, spacing_px * cosine, spacing_px * sine], axis=1)
    return astra.create_vol_geom(n, n), astra.create_proj_geom("fanflat_vec", n_bins, vectors)


def by_slice(
    setting: Setting, astra: Any, algorithm: str, projector: str, geometries: tuple[Any, Any], given: np.ndarray
) -> Call:
    """Prepare one of ASTRA's 2D algorithms for every slice, all data linked, so that a run does nothing else.

    Parameters
    ----------
    algorithm : "FP", "BP" or "FBP"
    projector : str
        Type of projector on the CPU.
    geometries : pair
        Of the volume and of the projections.
    given : float32 (n_slices, …)
        Images for "FP", else sinograms.
    """
    volume, projections = geometries
    n_rows, n_columns = volume["GridRowCount"], volume["GridColCount"]
    is_forward = algorithm == "FP"
    n_views = len(projections["Vectors" if "Vectors" in projections else "ProjectionAngles"])
    shape = (n_views, projections["DetectorCount"]) if is_forward else (n_rows, n_columns)
    result = np.zeros((len(given), *shape), np.float32)
    projector_id = astra.create_projector("cuda" if setting.is_cuda else projector, projections, volume)
    images, sinograms = (given, result) if is_forward else (result, given)
    data_ids, algorithm_ids = [], []
    for image, sinogram in zip(images, sinograms, strict=True):
        image_id = astra.data2d.link("-vol", volume, image)
        sinogram_id = astra.data2d.link("-sino", projections, sinogram)
        settings = astra.astra_dict(f"{algorithm}_CUDA" if setting.is_cuda else algorithm)
        settings["ProjectorId"] = projector_id
        settings["ProjectionDataId"] = sinogram_id
        settings["VolumeDataId" if is_forward else "ReconstructionDataId"] = image_id
        if algorithm == "FBP":
            settings["FilterType"] = "Ram-Lak"
        algorithm_ids.append(astra.algorithm.create(settings))
        data_ids += [image_id, sinogram_id]

    def run() -> np.ndarray:
        setting.for_each(astra.algorithm.run, algorithm_ids)
        return result

    def close() -> None:
        astra.algorithm.delete(algorithm_ids)
        astra.data2d.delete(data_ids)
        astra.projector.delete(projector_id)

    how = "through the host's memory" if setting.is_cuda else f"{projector} projector, {setting.threads} at a time"
    return Call(run, same, is_same=False, note=f"one call a slice, {how}", close=close)


def whole_stack(setting: Setting, geometry: kernels.ParallelGeometry, given: np.ndarray, is_forward: bool) -> Call:
    """Prepare ASTRA's 3D projector on CuPy arrays, the stack as one volume: nothing leaves the device."""
    astra = toolbox(setting)
    experimental = load("astra.experimental")
    n, n_slices = geometry.n, len(given)
    low, high = _window(geometry)
    volume = astra.create_vol_geom(n, n, n_slices, low, high, low, high, -n_slices / 2, n_slices / 2)
    # In 3D rows are counted along y: upside down, where 2D is not, so that rotations turn the other way.
    angles_rad = -np.asarray(geometry.angles_rad)
    projections = astra.create_proj_geom("parallel3d", 1.0, 1.0, n_slices, geometry.n_bins, angles_rad)
    projector_id = astra.create_projector("cuda3d", projections, volume)
    shape = (n_slices, geometry.n_views, geometry.n_bins) if is_forward else (n_slices, n, n)
    given, result = setting.array(given), setting.array(np.zeros(shape, np.float32))

    def run() -> Any:
        if is_forward:
            experimental.direct_FP3D(projector_id, given, result)
        else:
            experimental.direct_BP3D(projector_id, result, given)
        return result

    note = "the stack as one volume, on the device"
    return Call(run, same, is_same=False, note=note, close=lambda: astra.projector3d.delete(projector_id))
