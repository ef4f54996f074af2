"""Projection of a volume by a cone beam, its exact transpose, and the reconstruction of Feldkamp, Davis and Kress."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.arrays import library_of
from kernels.checks import check_array
from kernels.cone_geometry import ConeGeometry
from kernels.filters import FILTERS, filter_detector_lines
from kernels.native import native_of
from kernels.redundancy import redundancy_weights

Float32 = npt.NDArray[np.float32]


def check_volume(volume: Any, geometry: ConeGeometry) -> None:
    """Raise unless `volume` is float32 (n_slices, n_rows, n_columns) of the geometry's shape."""
    check_array("volume", volume, geometry.shape, np.float32, "rebuild the geometry for this volume")


def check_projections(projections: Any, geometry: ConeGeometry) -> None:
    """Raise unless `projections` is float32 (n_views, n_lines, n_bins) of the geometry's sizes."""
    remedy = "rebuild the geometry for these views and this detector"
    check_array("projections", projections, geometry.data_shape, np.float32, remedy)


def cone_forward(volume: Float32, geometry: ConeGeometry) -> Float32:
    """Sum a volume along the rays of every view; linear in `volume`.

    A ray is sampled where it crosses the planes of rows or columns, whichever it runs along more; bilinear
    interpolation there, zeros outside the volume. Rays must not run along the slices' axis more than along these.

    Parameters
    ----------
    volume : float32 (n_slices, n_rows, n_columns), C-contiguous, NumPy or CuPy
        Any unit.
    geometry : ConeGeometry

    Returns
    -------
    float32 (n_views, n_lines, n_bins)
        Line integrals, in volume units times voxels; same library and device as `volume`.

    Raises
    ------
    TypeError
        `volume` is not an array, or not float32.
    ValueError
        `volume` has another rank, size or layout.

    Source: Joseph, An improved algorithm for reprojecting rays through pixel images, 1982.
    """
    check_volume(volume, geometry)
    library = library_of(volume=volume)
    native, context = native_of(library)
    out: Float32 = library.empty(geometry.data_shape, np.float32)
    native.cone_forward(volume, geometry.tables(library), _scratch(geometry, library), out, context)
    return out


def cone_adjoint(projections: Float32, geometry: ConeGeometry) -> Float32:
    """Apply the exact transpose of `cone_forward`.

    For all x, y: <cone_forward(x), y> == <x, cone_adjoint(y)> up to rounding of the sums; both use the same float32
    weights. No filter, no scaling; this is not an inverse.

    Parameters
    ----------
    projections : float32 (n_views, n_lines, n_bins), C-contiguous, NumPy or CuPy
    geometry : ConeGeometry

    Returns
    -------
    float32 (n_slices, n_rows, n_columns)
        Same library and device as `projections`.

    Raises
    ------
    TypeError
        `projections` is not an array, or not float32.
    ValueError
        `projections` has another rank, size or layout.
    """
    check_projections(projections, geometry)
    library = library_of(projections=projections)
    native, context = native_of(library)
    out: Float32 = library.empty(geometry.shape, np.float32)
    native.cone_adjoint(projections, geometry.tables(library), _scratch(geometry, library), out, context)
    return out


def cone_fdk(projections: Float32, geometry: ConeGeometry, window: str = "ramp") -> Float32:
    """Reconstruct by filtered back-projection along the cone's rays; linear, exact at the source's height alone.

    Views count by the angle that they stand for, and a scan of less than a turn, or a detector that sees one side,
    shares rays as in a fan (`kernels.redundancy`); of such a detector what is filtered ends where it does.

    Parameters
    ----------
    projections : float32 (n_views, n_lines, n_bins), C-contiguous, NumPy or CuPy
        Line integrals, in volume units times voxels.
    geometry : ConeGeometry
    window : "ramp" or "hann"
        As for `radon_fbp`.

    Returns
    -------
    float32 (n_slices, n_rows, n_columns)
        In volume units; same library and device as `projections`.

    Raises
    ------
    TypeError
        `projections` is not an array, or not float32.
    ValueError
        `projections` has another rank, size or layout; an unknown window.

    Source: Feldkamp, Davis and Kress, Practical cone-beam algorithm, 1984.
    """
    check_projections(projections, geometry)
    if window not in FILTERS:
        raise ValueError(f"window: expected one of {', '.join(FILTERS)}, got {window!r}; choose one of these")
    library = library_of(projections=projections)
    native, context = native_of(library)
    if geometry.n_views == 0:
        return library.zeros(geometry.shape, np.float32)  # type: ignore[no-any-return]
    reach = geometry.source_to_detector
    weights = reach / np.sqrt(reach**2 + geometry.bins**2 + geometry.lines[:, None] ** 2)
    redundancy = redundancy_weights(geometry.fan)
    per_voxel = geometry.fan.shadow[1]
    scale = np.pi / geometry.n_views * per_voxel
    filtered = library.empty(geometry.data_shape, np.float32)
    for view in range(geometry.n_views):
        # One at a time: the filter works in doubles.
        here = weights if redundancy is None else weights * redundancy[view]
        filtered[view] = filter_detector_lines(projections[view] * library.asarray(here), window, library)
    out: Float32 = library.empty(geometry.shape, np.float32)
    native.cone_backproject(filtered, geometry.tables(library), scale, _scratch(geometry, library), out, context)
    return out


def _scratch(geometry: ConeGeometry, library: Any) -> Any:
    n_voxels, n_samples = (int(np.prod(shape)) for shape in (geometry.shape, geometry.data_shape))
    return library.empty(max(n_voxels, n_samples), np.float32)
