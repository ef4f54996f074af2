"""Where stacks of one person lie to each other: what a patient moved between them, found from the stacks alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from engine.errors import InputError
from engine.operators.proximal import JointConjugateGradients
from engine.operators.stacks import Stacks
from engine.operators.thick_stack import Shape, StackGeometry, ThickStack

log = logging.getLogger("engine")

#: Voxels on which stacks are first laid upon each other, in mm: motion is found to a part of that.
_COARSE_MM = 2.0
#: Rounds of refinement, each of all stacks but the first.
_ROUNDS = 2
#: Rotation and translation by which derivatives are taken, in degrees and voxels.
_STEP_DEG, _STEP_VOXELS = 0.2, 0.2
#: Below this correlation of a stack with what the others foretell of it, it shows something else.
_LEAST_CORRELATION = 0.8
#: From which intensity on a sample is tissue, white being 1.
_TISSUE = 0.05
#: Samples to compare at least, and the part of a sample's weights that has to lie where the others show something.
_FEWEST, _COVERED = 100, 0.95
#: Weight of staying at cubic splines in the volume that the other stacks make: it has to be smooth, not sharp.
_RHO = 0.02


@dataclass(frozen=True)
class StackData:
    """One stack of thick slices.

    Parameters
    ----------
    data : float32 (d0, d1, d2)
        White is 1.
    geometry : StackGeometry
        Where its samples lie in the volume.
    source : str
    """

    data: np.ndarray
    geometry: StackGeometry
    source: str


@dataclass(frozen=True)
class Placed:
    """A stack, where it was found to lie.

    Parameters
    ----------
    stack : StackData
        With its intensities as bright as the first one's.
    motion : float64 (4, 4)
        Of voxel indices, from where its header says.
    gain : float
        Its own brightness over the first one's.
    correlation : float
        Of its samples with what the other stacks foretell of them.
    """

    stack: StackData
    motion: np.ndarray = field(default_factory=lambda: np.eye(4))
    gain: float = 1.0
    correlation: float = 1.0

    @property
    def shift(self) -> float:
        """By which the middle of its slices was moved, in voxels."""
        middle = np.linalg.solve(self.motion, self.stack.geometry.middle)
        return float(np.linalg.norm(self.stack.geometry.middle - middle))

    @property
    def turn_deg(self) -> float:
        """By which it was turned, in degrees."""
        return float(np.degrees(Rotation.from_matrix(self.motion[:3, :3]).magnitude()))

    def moved(self, motion: np.ndarray) -> Placed:
        """The same, moved further."""
        geometry = replace(self.stack.geometry, to_grid=motion @ self.stack.geometry.to_grid)
        return replace(self, stack=replace(self.stack, geometry=geometry), motion=motion @ self.motion)


def placed(grid_shape: Shape, stacks: Sequence[StackData], voxel_mm: float, *, moves: bool = True) -> list[Placed]:
    """Lay all stacks upon the first one, and make them as bright.

    A rigid motion is found by mutual information (SimpleITK), then refined against the measurement itself: the volume
    that all other stacks make, seen by the stack's own slices, is brought to its samples by Gauss and Newton's steps.

    Parameters
    ----------
    grid_shape : (int, int, int)
        Of the volume.
    stacks : sequence of StackData
        Two at least.
    voxel_mm : float
    moves : bool
        False: stacks lie where their headers say.

    Returns
    -------
    list of Placed

    Raises
    ------
    InputError
        A stack that shows something else than the others; SimpleITK is missing.
    """
    found = [Placed(one) for one in stacks]
    if moves:
        for i in range(1, len(found)):
            moved = found[i].moved(_registered(grid_shape, stacks[0], stacks[i], voxel_mm))
            if _operator_of(moved.stack, grid_shape) is not None:
                found[i] = moved
    for _ in range(_ROUNDS if moves else 1):
        for i in range(1, len(found)):
            found[i] = _refined(grid_shape, found, i, moves=moves)
    for i, end in enumerate(found[1:], start=1):
        if end.correlation < _LEAST_CORRELATION:
            raise InputError(
                "thick",
                "stacks of one person and contrast",
                f"'{end.stack.source}', stack {i + 1}, whose samples correlate by {end.correlation:.2f} with what the "
                "others foretell",
                "leave it out, or give what belongs together",
            )
    return found


def _rigid(parameters: np.ndarray, grid_shape: Shape) -> np.ndarray:
    """Degrees about the three axes, and voxels along them, as a motion about the volume's middle."""
    middle, motion = (np.asarray(grid_shape) - 1) / 2, np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec(np.radians(parameters[:3])).as_matrix()
    motion[:3, 3] = middle - motion[:3, :3] @ middle + parameters[3:]
    return motion


def _registered(grid_shape: Shape, first: StackData, other: StackData, voxel_mm: float) -> np.ndarray:
    """The motion that brings a stack onto the first one, by mutual information of their splines on coarse voxels."""
    if find_spec("SimpleITK") is None:
        raise InputError(
            "align",
            "SimpleITK, which finds what the patient moved",
            "none that can be imported",
            "pip install 'tpdm-engine[itk]', or trust the headers with --align header",
        )
    import SimpleITK as sitk

    factor = max(1, round(_COARSE_MM / voxel_mm))

    def image_of(one: StackData) -> Any:
        operator = Stacks(grid_shape, [one.geometry])
        volume = operator.classical(operator.joined([one.data]))
        volume = ndimage.gaussian_filter(volume, factor / 2)[::factor, ::factor, ::factor]
        image = sitk.GetImageFromArray(np.ascontiguousarray(volume.transpose(2, 1, 0)))
        image.SetSpacing([float(factor)] * 3)
        return image

    fixed, moving = image_of(first), image_of(other)
    middle = [(n - 1) / 2 for n in grid_shape]
    transform = sitk.Euler3DTransform()
    transform.SetCenter(middle)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 0.01, 100)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetInitialTransform(transform, inPlace=True)
    # One thread: sums in another order would end elsewhere.
    method.SetNumberOfThreads(1)
    try:
        method.Execute(fixed, moving)
    except RuntimeError as error:
        # Nothing of one in the other, most often.
        log.debug("registration of '%s' failed: %s", other.source, error)
        return np.eye(4)
    # From a point of the first stack to that of the other one which shows the same: a stack is moved the other way.
    motion = np.eye(4)
    motion[:3, :3] = np.asarray(transform.GetMatrix()).reshape(3, 3)
    motion[:3, 3] = np.asarray(transform.TransformPoint((0.0, 0.0, 0.0)))
    return np.linalg.inv(motion)


def _refined(grid_shape: Shape, found: Sequence[Placed], i: int, *, moves: bool) -> Placed:
    """A stack after a step of Gauss and Newton to what the others foretell of it, if it leads nearer, and its gain."""
    others = [one.stack for k, one in enumerate(found) if k != i]
    joint = Stacks(grid_shape, [one.geometry for one in others])
    y = joint.joined([one.data for one in others])
    volume, _ = JointConjugateGradients(joint, y, 3)(joint.classical(y), _RHO)
    one, covered = found[i], joint.is_covered.astype(np.float32)
    before = _Comparison.of(one.stack, grid_shape, volume, covered)
    if before is None:
        return replace(one, correlation=0.0)
    if moves:
        steps = np.diag([_STEP_DEG] * 3 + [_STEP_VOXELS] * 3)
        nearby = [one.moved(_rigid(step, grid_shape)).stack for step in steps]
        seen = [ThickStack(grid_shape, stack.geometry).apply(volume) for stack in nearby]
        slopes = [(one_seen - before.seen)[before.inside] for one_seen in seen]
        residual = (one.stack.data / before.gain - before.seen)[before.inside]
        parts = np.linalg.lstsq(np.stack(slopes, axis=1).astype(np.float64), residual.astype(np.float64), rcond=None)[0]
        nearer = one.moved(_rigid(parts @ steps, grid_shape))
        after = _Comparison.of(nearer.stack, grid_shape, volume, covered)
        if after is not None and after.correlation > before.correlation:
            one, before = nearer, after
    stack = replace(one.stack, data=one.stack.data / np.float32(before.gain))
    return replace(one, stack=stack, gain=one.gain * before.gain, correlation=before.correlation)


def _operator_of(stack: StackData, grid_shape: Shape) -> ThickStack | None:
    """What a stack measures; None where it sees nothing of the volume."""
    try:
        return ThickStack(grid_shape, stack.geometry)
    except ValueError:
        return None


@dataclass(frozen=True)
class _Comparison:
    """What a stack sees of a volume, beside its samples.

    Parameters
    ----------
    seen : float32, shape of the stack
    inside : bool, shape of the stack
        Where either shows tissue, and the volume is known.
    gain : float
        Of the samples over `seen`.
    correlation : float
    """

    seen: np.ndarray
    inside: np.ndarray
    gain: float
    correlation: float

    @classmethod
    def of(cls, stack: StackData, grid_shape: Shape, volume: np.ndarray, covered: np.ndarray) -> _Comparison | None:
        """None where they have too little in common, or what they have is all alike."""
        operator = _operator_of(stack, grid_shape)
        if operator is None:
            return None
        seen = operator.apply(volume)
        known = operator.apply(covered) > _COVERED
        inside = known & (np.maximum(seen, stack.data) > _TISSUE)
        a, b = seen[inside].astype(np.float64), stack.data[inside].astype(np.float64)
        if inside.sum() < _FEWEST or not (a.std() > 0 and b.std() > 0):
            return None
        # Of sums, which blurring leaves alone; by least squares what is blurred would seem too dark.
        gain = float(stack.data[known].sum(dtype=np.float64) / seen[known].sum(dtype=np.float64))
        return cls(seen, inside, gain if gain > 0 else 1.0, float(np.corrcoef(a, b)[0, 1]))
