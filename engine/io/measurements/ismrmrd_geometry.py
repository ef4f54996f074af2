"""Where the slices of an ISMRMRD scan lie in the patient."""

from __future__ import annotations

import numpy as np

from engine.io.source import Source

#: ISMRMRD's axes are DICOM's (left, posterior, superior).
_TO_RAS = np.diag([-1.0, -1.0, 1.0])
#: Of a direction's length, and of a step between slices: positions are float32.
_TOLERANCE = 0.01


def slice_order_and_affine(
    firsts: np.ndarray,
    heads: np.ndarray,
    shape: tuple[int, int],
    spacing_mm: tuple[float, float, float],
    n_partitions: int,
    source: Source,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Sort slices by their position, and place (slice, row, column).

    The position of an acquisition is that of the middle of its slice or slab, index n//2 of each axis that is
    transformed; rows run along `read_dir`, columns along `phase_dir`.

    Parameters
    ----------
    firsts : ISMRMRD headers (n_slices,)
        One of each slice.
    heads : ISMRMRD headers (n,)
        All.
    shape : (int, int)
        Rows and columns, as encoded.
    spacing_mm : (float, float, float)
        Of slices, rows, columns; between slices that have different positions these count.
    n_partitions : int
        1 for slices, else those of the slab.
    source : Source

    Returns
    -------
    order : int (n_slices,)
        From the first slice along `slice_dir` to the last.
    affine : float64 (4, 4)
        Indices to mm (right, anterior, superior); None instead of both where directions are not set.

    Raises
    ------
    InputError
        Directions that are not perpendicular or differ, or slices at unequal distances.
    """
    directions = np.stack([firsts[name] for name in ("slice_dir", "read_dir", "phase_dir")], axis=1).astype(np.float64)
    if not directions.any():
        return None
    axes = directions[0].T
    if not np.isfinite(directions).all() or abs(axes.T @ axes - np.eye(3)).max() > _TOLERANCE:
        expected = "perpendicular unit vectors as read_dir, phase_dir and slice_dir"
        got = f"{np.round(directions[0], 3).tolist()}"
        raise source.refusal(expected, got, "mend them, or state the orientation with --orientation")
    everywhere = np.stack([heads[name] for name in ("slice_dir", "read_dir", "phase_dir")], axis=1)
    # Written so that NaN fails too.
    if not bool((abs(everywhere - directions[0]) <= _TOLERANCE).all()):
        raise source.refusal("parallel slices", "several directions", "write each stack to its own file")
    positions = firsts["position"].astype(np.float64)
    if not np.isfinite(positions).all() or abs(positions).max() > 1e5:
        raise source.refusal("finite positions in mm", "others", "mend them, or state the orientation")
    order, step = np.arange(len(firsts)), axes[:, 0] * spacing_mm[0]
    if n_partitions == 1 and len(firsts) > 1 and np.ptp(positions, axis=0).max() > 0:
        order = np.argsort(positions @ axes[:, 0], kind="stable")
        positions = positions[order]
        steps = np.diff(positions, axis=0)
        step = steps.mean(axis=0)
        length = float(step @ axes[:, 0])
        if not length > 0 or abs(steps - step).max() > _TOLERANCE * length:
            distances = np.round(steps @ axes[:, 0], 3)
            expected = "slices at equal distances"
            raise source.refusal(expected, f"{distances.min()} to {distances.max()} mm", "leave out those apart")
    (n_rows, n_columns), middle_slice = shape, n_partitions // 2 if n_partitions > 1 else 0
    affine = np.eye(4)
    affine[:3, :3] = _TO_RAS @ np.stack([step, axes[:, 1] * spacing_mm[1], axes[:, 2] * spacing_mm[2]], axis=1)
    affine[:3, 3] = _TO_RAS @ positions[0] - affine[:3, :3] @ [middle_slice, n_rows // 2, n_columns // 2]
    return order, affine
