"""Slow readable twins of the cone-beam projections: in double precision, one plane of crossings after the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kernels.cone_geometry import ConeGeometry

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
