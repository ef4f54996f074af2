"""Projections by a cone beam as what a run starts from."""

from __future__ import annotations

import numpy as np

from engine.io.measurements.cone_scan import ConeScan
from engine.operators import ConeBeam, VolumeOperator, WeightedVolume
from engine.problems.acquisition import CONE_PLANES, Acquisition, checked_white, white_of
from engine.problems.pose import pose
from engine.problems.tasks import cone_details
from engine.sampling.problem import InverseProblem
from engine.volume import Plane


def of_cone(scan: ConeScan, white: float | None = None) -> Acquisition:
    """Projections whose rays leave the slices.

    Parameters
    ----------
    scan : ConeScan
    white : float or None
        Intensity that becomes 1, in the units of the image. None: that of the reconstruction of Feldkamp, Davis and
        Kress.

    Raises
    ------
    InputError
        No positive intensity there, or a white that is none.
    """
    if white is None:
        scale = white_of(ConeBeam(scan.geometry).classical(scan.data.reshape(-1)), scan.source)
    else:
        scale = checked_white(white)
    y = (scan.data / np.float32(scale)).reshape(-1)
    roots = None if scan.weights is None else np.sqrt(scan.weights).reshape(-1)
    y = y if roots is None else y * roots
    details = {**cone_details(scan.geometry), **scan.details}

    def problem(plane: Plane) -> InverseProblem:
        operator: VolumeOperator = ConeBeam(scan.geometry, plane.axes_of(scan.plane))
        operator = operator if roots is None else WeightedVolume(operator, roots)
        return pose("svct", plane, operator, y, details)

    return Acquisition("svct", scan.volume_shape, scan.affine, problem, scan.source, scale, n_planes=CONE_PLANES)
