"""One picture that shows how a run went."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from engine.errors import InputError
from engine.metrics import psnr

# Black, because air is black: the panels then have no edges.
_BACKGROUND, _TEXT, _MUTED = "#000000", "#f2f2f2", "#8c9199"
_GREY_MAP, _ERROR_MAP = "gray", "inferno"
_FONT = "DejaVu Sans"  # comes with Matplotlib, so pictures look alike everywhere
_DPI = 160
#: Inches. Panels are as wide as `_PANEL`, as high as their plane.
_PANEL, _GAP, _EDGE, _HEAD, _FOOT = 2.3, 0.08, 0.14, 0.52, 0.52
#: Share of white above which a voxel is tissue, and the share of the tissue's extent left free around it.
_TISSUE, _FREE = 0.05, 0.06


@dataclass(frozen=True)
class _View:
    """How a plane is shown: which axes run across and down, both from high to low index, and what lies where."""

    cut: int
    across: int
    down: int
    left: str
    top: str


# Radiological: the patient's right on the left of the picture, the front up or left, the top up. Volumes are (x, y, z),
# x to the right, y to the front, z to the top, so both axes of every view run from high to low index.
_VIEWS = (_View(2, 0, 1, "R", "A"), _View(1, 0, 2, "R", "S"), _View(0, 1, 2, "A", "S"))


def write_preview(
    path: str | Path,
    volumes: Mapping[str, np.ndarray],
    truth_key: str | None = None,
    result_key: str = "result",
    voxel_mm: float | Sequence[float] = 1.0,
) -> None:
    """Draw the middle slices of every volume as a PNG, atomically.

    Rows are axial, coronal and sagittal, cut through the middle of the tissue; columns are the volumes in their order. With
    a truth, titles carry the PSNR over the whole volume (peak: the truth's max − min) and a last column shows the absolute
    error of the result. All volumes share one grey scale, from 0 to the 99.5th percentile of the reference's positive
    voxels, "white"; the error is in per cent of white. The reference is the truth, or the result where there is none.

    Parameters
    ----------
    path : path
        Ends in ``.png``.
    volumes : mapping of str to float32 (d0, d1, d2)
        Title to volume; axes x to the right, y to the front, z to the top; equal shapes.
    truth_key : str, optional
        Which of the volumes is the truth.
    result_key : str
        Which of the volumes the error is of; without a truth the first volume stands in where it is missing.
    voxel_mm : float or 3 floats
        Edge lengths of a voxel, in mm, along the three axes.

    Raises
    ------
    InputError
        No volumes, different shapes, a rank other than 3, a key that is not among the volumes, a voxel size that is not
        positive, or a path of another kind.
    """
    path = Path(path)
    edges_mm = np.broadcast_to(np.asarray(voxel_mm, dtype=np.float64), 3)
    _check(path, volumes, truth_key, result_key, edges_mm)
    result = volumes[result_key] if result_key in volumes else next(iter(volumes.values()))
    truth = None if truth_key is None else volumes[truth_key]
    reference = result if truth is None else truth
    white = _white(reference)
    window = _Window.around(reference > _TISSUE * white, edges_mm)

    columns = [(name, _caption(volume, truth), volume / white, 1.0, _GREY_MAP) for name, volume in volumes.items()]
    if truth is not None:
        error = np.abs(result - truth) * (100 / white)
        columns.append(("error", f"|{result_key} − {truth_key}|", error, _error_scale(error, window), _ERROR_MAP))
    _save(_draw(columns, window), path)
