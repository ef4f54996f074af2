"""Projections by a cone beam as what a run starts from."""

from __future__ import annotations

import numpy as np

from engine.io.measurements.cone_scan import ConeScan
from engine.operators import ConeBeam
from engine.problems.acquisition import Acquisition, checked_white, white_of
from engine.problems.pose import Details, pose
from engine.sampling.problem import InverseProblem
from engine.volume import Plane

#: The volume is measured as a whole: a third prior's turns cost nothing, and gain half a decibel.
_PLANES = 3


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
    views, lines, bins = scan.data.shape
    details: Details = {"beam": "cone", "views": views, "lines": lines, "bins": bins, **scan.details}

    def problem(plane: Plane) -> InverseProblem:
        i, j, k = (plane.axes.index(axis) for axis in scan.plane.axes)
        return pose("svct", plane, ConeBeam(scan.geometry, (i, j, k)), y, details)

    return Acquisition("svct", scan.volume_shape, scan.affine, problem, scan.source, scale, n_planes=_PLANES)
