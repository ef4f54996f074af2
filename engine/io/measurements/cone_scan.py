"""Projections of a volume by a cone beam, from NumPy, HDF5 and TIFF files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import kernels
from engine.io.measurements.cone_geometry import ConeScanGeometry, cone_of
from engine.io.measurements.line_integrals import LineIntegrals, check_voxels, line_integrals, scale_into
from engine.io.measurements.projections import read_projections
from engine.io.measurements.sinogram_checks import Lines, warn_of_doubts
from engine.io.measurements.sinogram_options import Reading
from engine.io.source import Source
from engine.volume import Plane


@dataclass(frozen=True, eq=False)
class ConeScan:
    """Line integrals through a volume along the rays of a cone beam.

    `kernels.cone_forward(slices, geometry)` of the slices that `plane` cuts from the volume is what it measures.

    Parameters
    ----------
    data : float32 (n_views, n_lines, n_bins), C-contiguous
        In image units times voxels.
    geometry : kernels.ConeGeometry
        In voxels.
    plane : Plane
        How slices are cut from the volume.
    affine : float64 (4, 4)
        Voxel indices of the volume to mm (right, anterior, superior).
    source : str
        Where it came from, for the run's record.
    weights : float32 (n_views, n_lines, n_bins) or None
        Inverse variances of the samples' noise, but for a factor; their mean is 1. None: all are alike.
    details : dict
        What was found out about it, for the plan and the record.
    """

    data: np.ndarray
    geometry: kernels.ConeGeometry
    plane: Plane
    affine: np.ndarray
    source: str
    weights: np.ndarray | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """Shape of the volume (x, y, z)."""
        return self.plane.volume_shape(self.geometry.shape)


def load_cone_scan(
    path: str | Path, fields: Mapping[str, Any], *, argument: str = "sinogram", how: Reading | None = None
) -> ConeScan:
    """Read the projections of a cone beam, and bring them to a canonical volume's voxels.

    What is likely to be wrong with them is warned of: rays at the source's height are those of a fan.

    Parameters
    ----------
    path : path
        Files and values as for `engine.io.measurements.sinogram.load_sinogram`; axes are views, lines, bins.
    fields : mapping
        Of the geometry, see `engine.io.measurements.cone_geometry.cone_of`.
    argument : str
        First word of messages.
    how : Reading, optional

    Raises
    ------
    InputError
        As `load_sinogram`; also anything wrong with the geometry.
    """
    source, how = Source(Path(path), argument), how or Reading()
    read = line_integrals(read_projections(source, how.dataset), source, dict(fields), how)
    # All views: what is wrong shows best where there are many.
    _warn(read, source)
    read = read.thinned(how.view_step)
    return _placed(read, _geometry_of(read.fields, read), source)


def _geometry_of(fields: Mapping[str, Any], read: LineIntegrals) -> ConeScanGeometry:
    n_lines, n_views, n_bins = read.values.shape
    return cone_of(fields, n_views, n_lines, n_bins)


def _warn(read: LineIntegrals, source: Source) -> None:
    """Warn of what is likely to be wrong with the line at the source's height, if there is one."""
    # In the order of the file, whatever the image's orientation.
    here = {key: value for key, value in read.fields.items() if key not in ("affine", "orientation", "origin_mm")}
    geometry = _geometry_of(here, read).geometry
    nearest = int(np.abs(geometry.lines).argmin())
    if abs(geometry.lines[nearest]) <= geometry.line_spacing:
        warn_of_doubts(Lines(read.values[nearest][None], geometry.fan), source, in_file=read.angles_in_file)


def _placed(read: LineIntegrals, scan: ConeScanGeometry, source: Source) -> ConeScan:
    """Line integrals in mm as those of canonical slices in voxels."""
    geometry, place = scan.geometry, scan.place
    check_voxels(geometry.shape, source)
    data = np.empty(geometry.data_shape, np.float32)
    order = np.s_[:, :: -1 if place.slices_reversed else 1, :: -1 if place.bins_reversed else 1]
    scale_into(data[order], read.values.swapaxes(0, 1), place.pixel_mm, source)
    weights = None if read.weights is None else np.ascontiguousarray(read.weights.swapaxes(0, 1)[order])
    affine = place.affine_of(geometry.shape[0])
    return ConeScan(data, geometry, place.plane, affine, str(source.path), weights, read.details)
