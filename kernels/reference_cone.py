"""Slow readable twins of the cone-beam projections: in double precision, one plane of crossings after the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.interpolate import interpn

from kernels.cone_geometry import ConeGeometry
from kernels.redundancy import redundancy_weights

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def cone_forward(volume: Float32, geometry: ConeGeometry) -> Float32:
    """Interpolate where rays cross planes of voxels: see `kernels.cone_forward`."""
    padded = np.pad(volume.astype(np.float64), 1)
    out = np.zeros(geometry.data_shape)
    for view in range(geometry.n_views):
        for line, bins, place, weight in _corners(geometry, view):
            np.add.at(out[view], (line, bins), weight * padded[place])
    return out.astype(np.float32)


def cone_adjoint(projections: Float32, geometry: ConeGeometry) -> Float32:
    """Put every sample back where `cone_forward` took it from: see `kernels.cone_adjoint`."""
    padded = np.zeros([side + 2 for side in geometry.shape])
    for view in range(geometry.n_views):
        for line, bins, place, weight in _corners(geometry, view):
            np.add.at(padded, place, weight * projections[view, line, bins])
    return padded[1:-1, 1:-1, 1:-1].astype(np.float32)


def cone_fdk(projections: Float32, geometry: ConeGeometry) -> Float32:
    """Filter by a sum over the bins, then interpolate at every voxel: see `kernels.cone_fdk`."""
    reach, distance = geometry.source_to_detector, geometry.source_distance
    weighted = projections * (reach / np.sqrt(reach**2 + geometry.bins**2 + geometry.lines[:, None] ** 2))
    redundancy = redundancy_weights(geometry.fan)
    if redundancy is not None:
        weighted = weighted * redundancy[:, None]
    apart = np.abs(np.subtract.outer(np.arange(geometry.n_bins), np.arange(geometry.n_bins)))
    ramp = np.where(apart == 0, 0.25, 0.0)
    ramp[apart % 2 == 1] = -1 / (np.pi * apart[apart % 2 == 1]) ** 2
    filtered = weighted @ ramp / (geometry.bin_spacing * distance / reach)

    sides = [np.arange(side) - (side - 1) / 2 for side in geometry.shape]
    z, rows, columns = np.meshgrid(*sides, indexing="ij")
    volume = np.zeros(geometry.shape)
    # Beyond the detector values fade to zero within one bin or line.
    ends = [np.arange(-1, n + 1) for n in (geometry.n_lines, geometry.n_bins)]
    for angle_rad, view in zip(geometry.angles_rad, filtered, strict=True):
        depth = distance + rows * np.cos(angle_rad) + columns * np.sin(angle_rad)
        u = (columns * np.cos(angle_rad) - rows * np.sin(angle_rad)) * reach / depth
        v = z * reach / depth
        line = (v - geometry.line_offset) / geometry.line_spacing + (geometry.n_lines - 1) / 2
        bins = (u - geometry.bin_offset) / geometry.bin_spacing + (geometry.n_bins - 1) / 2
        seen = interpn(ends, np.pad(view, 1), np.stack([line, bins], axis=-1), bounds_error=False, fill_value=0.0)
        volume += (distance / depth) ** 2 * seen
    return np.asarray(volume * np.pi / max(geometry.n_views, 1), dtype=np.float32)


def _corners(
    geometry: ConeGeometry, view: int
) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], tuple[npt.NDArray[np.intp], ...], Float64]]:
    """Line, bin, voxel in a volume with a border, and weight, of all voxels that a view's rays touch."""
    source, directions = geometry.rays_of(view)
    found = []
    for axis, other in ((1, 2), (2, 1)):
        runs_along = abs(directions[..., axis]) >= abs(directions[..., other]) * (1 if axis == 1 else 1 + 1e-15)
        line, bins = np.nonzero(runs_along)
        ray = directions[line, bins]
        for k in range(geometry.shape[axis]):
            t = (k - source[axis]) / ray[:, axis]
            point = source + t[:, None] * ray
            below = np.floor(point).astype(int)
            for up in (0, 1):
                for right in (0, 1):
                    z, across = below[:, 0] + up, below[:, other] + right
                    weight = (1 - abs(point[:, 0] - z)) * (1 - abs(point[:, other] - across)) / abs(ray[:, axis])
                    inside = (z >= 0) & (z < geometry.shape[0]) & (across >= 0) & (across < geometry.shape[other])
                    place = np.empty((3, int(inside.sum())), int)
                    place[0], place[axis], place[other] = z[inside] + 1, k + 1, across[inside] + 1
                    found.append((line[inside], bins[inside], tuple(place), weight[inside]))
    return found
