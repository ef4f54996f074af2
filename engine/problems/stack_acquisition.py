"""Several stacks of thick slices, of any direction and spacing, as what a run starts from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np

from engine.errors import InputError
from engine.io.checks import MAX_VOXELS
from engine.io.volumes.volume import Volume
from engine.operators.stacks import Stacks
from engine.operators.thick_stack import Shape, StackGeometry
from engine.problems.acquisition import Acquisition
from engine.problems.alignment import Placed, StackData, placed
from engine.problems.pose import Details, pose
from engine.sampling.problem import InverseProblem
from engine.volume import Plane

#: Where stacks lie: where a rigid motion of the patient, found from them, or their headers say.
ALIGNMENTS = ("rigid", "header")
#: Where slices of all directions were measured a third prior's turns cost nothing, and help.
_PLANES = 3
#: Part of a voxel by which a field of view may miss whole voxels: headers round.
_ROUNDING = 0.02
#: Part of a slice, row or column above which what is as bright as tissue is no noise.
_NOISE = 0.005
#: From which intensity on a sample is tissue, white being 1.
_TISSUE = 0.05


def of_stacks(
    stacks: Sequence[Volume], voxel_mm: float | None = None, slice_profile: str = "box", align: str = "rigid"
) -> Acquisition:
    """Stacks of thick slices of one person.

    The volume has cubic voxels along the axes of the first stack, all of whose field of view it holds, and the tissue
    that the others show beyond. Each stack's slices are as thick as its file says, else as far as they are apart.

    Parameters
    ----------
    stacks : sequence of Volume
        One voxel along the axis of the largest spacing a thick slice.
    voxel_mm : float or None
        Edge of a voxel. None: the first stack's pixels' own.
    slice_profile : str
        "box" or "gaussian".
    align : str
        "rigid": what the patient moved between stacks is found. "header": nothing is.

    Raises
    ------
    InputError
        Voxels that do not tell the axis of the slices, a stack of one slice, stacks that do not overlap or show
        something else, voxels that are too many.
    """
    axes = [_slice_axis(one) for one in stacks]
    first = stacks[0]
    if voxel_mm is None:
        voxel_mm = float(np.delete(first.voxel_mm, axes[0]).mean())
    shape, affine = _grid(stacks, voxel_mm)
    to_grid = np.linalg.inv(affine)
    data = []
    for one, axis in zip(stacks, axes, strict=True):
        thickness = float(one.voxel_mm[axis])
        if one.thickness is not None and one.thickness.axis in (None, axis):
            thickness = one.thickness.mm
        a, b, c = one.data.shape
        geometry = StackGeometry((a, b, c), to_grid @ one.affine, axis, thickness / voxel_mm, slice_profile)
        data.append(StackData(one.data, geometry, one.source))
    found = placed(shape, data, voxel_mm, moves=align == "rigid") if len(data) > 1 else [Placed(data[0])]
    details: Details = {
        "stacks": len(found),
        "factor": max(float(one.geometry.pitch[axis]) for one, axis in zip(data, axes, strict=True)),
    }
    for i, (other, volume) in enumerate(zip(found[1:], stacks[1:], strict=True), start=2):
        # Of the files' intensities: each was brought to a white of its own.
        gain = other.gain * volume.scale / first.scale
        details[f"stack {i}"] = (
            f"moved {other.shift * voxel_mm:.2g} mm and {other.turn_deg:.2g}°, gain {gain:.3g}, correlation "
            f"{other.correlation:.3f}"
        )

    def problem(plane: Plane) -> InverseProblem:
        # The same places, with the grid's axes in the order of the plane's stack.
        order = np.eye(4)[[*plane.axes, 3]]
        geometries = [
            StackGeometry(g.shape, order @ g.to_grid, g.slice_axis, g.thickness, g.profile)
            for g in (one.stack.geometry for one in found)
        ]
        operator = Stacks(plane.shape_of(shape), geometries)
        return pose("mrzsr", plane, operator, operator.joined([one.stack.data for one in found]), details)

    return Acquisition(
        *("mrzsr", shape, affine, problem, ", ".join(one.source for one in stacks)),
        *(first.scale, first.offset, first.orientation),
        n_planes=_PLANES if len(found) > 1 else 2,
    )


def _slice_axis(stack: Volume) -> int:
    spacing = stack.voxel_mm
    axis = int(spacing.argmax())
    if (spacing > 0.99 * spacing[axis]).sum() > 1:
        raise InputError(
            "thick",
            "stacks of thick slices, with one axis of the largest spacing",
            f"voxels of {' × '.join(f'{mm:.4g}' for mm in spacing)} mm in '{stack.source}'",
            "leave it out, or give it alone with --thick-axis",
        )
    if stack.data.shape[axis] < 2:
        raise InputError("thick", "stacks of at least two slices", f"one slice in '{stack.source}'", "leave it out")
    return axis


def _grid(stacks: Sequence[Volume], voxel_mm: float) -> tuple[Shape, np.ndarray]:
    """Shape and affine of cubic voxels along the first stack's axes."""
    if not (math.isfinite(voxel_mm) and voxel_mm > 0):
        raise InputError("voxel-mm", "a positive size", voxel_mm, "give the edge of a voxel in mm")
    first = stacks[0]
    along = first.affine[:3, :3] / first.voxel_mm
    # In mm along the axes, from the corner of the first stack's field of view.
    corner = first.affine[:3, 3] - along @ (first.voxel_mm / 2)
    low, high = np.zeros(3), first.voxel_mm * first.data.shape
    for other in stacks[1:]:
        corners = _tissue(other) @ other.affine.T
        mm = np.linalg.solve(along, (corners[:, :3] - corner).T).T
        if (mm.max(axis=0) < 0).any() or (mm.min(axis=0) > first.voxel_mm * first.data.shape).any():
            raise InputError(
                "thick",
                f"stacks that overlap with '{first.source}'",
                f"'{other.source}', whose tissue lies beside it",
                "check the positions in the headers, or leave one out",
            )
        low, high = np.minimum(low, mm.min(axis=0)), np.maximum(high, mm.max(axis=0))
    before = np.ceil(-low / voxel_mm - _ROUNDING).clip(0)
    a, b, c = (max(1, int(n)) for n in before + np.ceil(high / voxel_mm - _ROUNDING))
    if a * b * c > MAX_VOXELS:
        raise InputError(
            "voxel-mm", f"at most {MAX_VOXELS} voxels", f"{voxel_mm:g}, which makes {a} × {b} × {c}", "give larger ones"
        )
    affine = np.eye(4)
    affine[:3, :3] = along * voxel_mm
    affine[:3, 3] = corner + along @ ((0.5 - before) * voxel_mm)
    return (a, b, c), affine


def _tissue(stack: Volume) -> np.ndarray:
    """Indices of the eight corners of what holds a stack's tissue, float64 (8, 4), the last ones 1."""
    tissue, ends = stack.data > _TISSUE, []
    for axis in range(3):
        part = tissue.mean(axis=tuple({0, 1, 2} - {axis}))
        full = np.flatnonzero(part > _NOISE) if (part > _NOISE).any() else np.arange(len(part))
        ends.append((full[0] - 0.5, full[-1] + 0.5))
    return np.array([(*corner, 1.0) for corner in product(*ends)])
