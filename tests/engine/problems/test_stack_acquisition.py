"""Stacks of one person: the volume that holds them, the motion between them, and what is no stack of that person."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from engine import demo
from engine.errors import InputError
from engine.io.volumes import Volume
from engine.io.volumes.reading import Thickness
from engine.operators.proximal import JointConjugateGradients
from engine.problems.noise_level import estimated
from engine.problems.stack_acquisition import of_stacks
from engine.volume import NAMED_PLANES, Plane

FACTOR = 4
HEAD = demo.volume()


def thick(data: np.ndarray, axis: int, name: str = "") -> Volume:
    """Block means of a volume on the demonstration's grid."""
    shape = [*data.shape]
    shape[axis : axis + 1] = [data.shape[axis] // FACTOR, FACTOR]
    coarser = np.eye(4)
    coarser[axis, axis], coarser[axis, 3] = FACTOR, (FACTOR - 1) / 2
    mean = np.ascontiguousarray(data.reshape(shape).mean(axis + 1), np.float32)
    return Volume(mean, HEAD.affine @ coarser, 1.0, name or f"axis {axis}")


def moved(data: np.ndarray, degrees: tuple[float, ...], shift: tuple[float, ...]) -> np.ndarray:
    """The head where it lay while another stack was made, by splines."""
    matrix = Rotation.from_rotvec(np.radians(degrees)).as_matrix()
    middle = (np.array(data.shape) - 1) / 2
    return ndimage.affine_transform(data, matrix, middle - matrix @ middle + shift, order=5)


def errors(volume: np.ndarray) -> float:
    return float(np.sqrt(np.mean((volume - HEAD.data) ** 2)))


@pytest.mark.parametrize("name", NAMED_PLANES)
def test_where_headers_are_right_every_plane_explains_the_same_volume(name):
    plane = Plane.parse(name)
    scan = of_stacks([thick(HEAD.data, axis) for axis in (2, 0, 1)], align="header")
    assert scan.shape == HEAD.data.shape
    np.testing.assert_allclose(scan.affine, HEAD.affine, atol=1e-9)
    problem = scan.problem(plane)
    assert problem.shape == scan.shape and not problem.is_of_slices
    seen = problem.operator.apply(plane.slices_of(HEAD.data))
    # Up to the gain that was found.
    np.testing.assert_allclose(seen, problem.measurement, atol=0.02)
    classical = plane.slices_of(problem.classical())
    best, _ = JointConjugateGradients(problem.operator, problem.measurement)(classical, 0.0)
    assert errors(plane.volume_of(best)) < 0.7 * errors(problem.classical())


def test_two_stacks_tell_more_than_one():
    def error(*axes: int) -> float:
        problem = of_stacks([thick(HEAD.data, axis) for axis in axes], align="header").problem(Plane.parse("axial"))
        start = problem.plane.slices_of(problem.classical())
        best, _ = JointConjugateGradients(problem.operator, problem.measurement)(start, 0.0)
        return errors(problem.plane.volume_of(best))

    # One alone needs cubic voxels that its own spacing does not give.
    one = of_stacks([thick(HEAD.data, 2)], voxel_mm=demo.VOXEL_MM).problem(Plane.parse("axial"))
    assert error(2, 0, 1) < error(2, 0) < errors(one.classical())


def test_what_moved_between_stacks_is_found():
    degrees, shift = (2.0, -1.5, 2.5), (0.8, -1.0, 0.6)
    stacks = [thick(HEAD.data, 2), thick(moved(HEAD.data, degrees, shift), 0)]
    stacks[1] = replace(stacks[1], data=stacks[1].data * np.float32(1.3))
    found = of_stacks(stacks).problem(Plane((0, 1, 2)))
    unmoved = of_stacks(stacks, align="header").problem(Plane((0, 1, 2)))

    def off(problem) -> float:
        residual = problem.operator.apply(HEAD.data) - problem.measurement
        return float(np.sqrt(np.mean(residual**2)))

    assert off(found) < 0.35 * off(unmoved)
    words = found.details["stack 2"].split()
    assert float(words[1]) == pytest.approx(np.linalg.norm(shift) * demo.VOXEL_MM, abs=0.8)
    assert float(words[4].rstrip("°,")) == pytest.approx(np.linalg.norm(degrees), abs=0.6)
    assert float(words[6].rstrip(",")) == pytest.approx(1.3, rel=0.03)


def test_the_volume_holds_what_only_another_stack_shows():
    whole, part = thick(HEAD.data, 0), thick(HEAD.data[:, :, 16:48], 2)
    part = replace(part, affine=part.affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1.0]]))
    scan = of_stacks([part, whole], align="header")
    tissue = np.argwhere(HEAD.data > 0.2) @ HEAD.affine[:3, :3].T + HEAD.affine[:3, 3]
    places = tissue @ np.linalg.inv(scan.affine)[:3, :3].T + np.linalg.inv(scan.affine)[:3, 3]
    assert (places > -1).all() and (places < np.array(scan.shape)).all()
    # The first stack's voxels stay where they are.
    offset = np.linalg.inv(HEAD.affine) @ scan.affine[:, 3]
    np.testing.assert_allclose(offset, np.rint(offset), atol=1e-6)


def test_thickness_is_what_the_file_says():
    one = replace(thick(HEAD.data, 2), thickness=Thickness(6.0, "DICOM", 2))
    operator = of_stacks([one, thick(HEAD.data, 0)], align="header").problem(Plane.parse("axial")).operator
    assert operator.stacks[0].geometry.thickness == pytest.approx(2.0)
    assert operator.stacks[1].geometry.thickness == pytest.approx(4.0)


def test_a_factor_that_is_no_whole_number():
    scan = of_stacks([thick(HEAD.data, 2)], voxel_mm=3.6)
    # 64 voxels of 3 mm are 53 and a third of 3.6 mm.
    assert scan.shape == (54, 54, 54)
    np.testing.assert_allclose(scan.voxel_mm, 3.6)
    corner = scan.affine[:3, 3] - scan.affine[:3, :3] @ np.full(3, 0.5)
    np.testing.assert_allclose(corner, HEAD.affine[:3, 3] - HEAD.affine[:3, :3] @ np.full(3, 0.5), atol=1e-9)
    assert np.isfinite(scan.problem(Plane.parse("coronal")).classical()).all()


def test_noise_is_that_of_the_stacks():
    rng = np.random.default_rng(0)
    stacks = [thick(HEAD.data + 0.1, axis) for axis in (2, 0)]
    noisy = [replace(one, data=one.data + 0.05 * rng.standard_normal(one.data.shape, np.float32)) for one in stacks]
    problem = of_stacks(noisy, align="header").problem(Plane.parse("axial"))
    assert estimated(problem.operator, problem.measurement) == pytest.approx(0.05, rel=0.2)


FAR = np.diag([12.0, 3, 3, 1])
FAR[:3, 3] = 1000
OTHER = np.roll(HEAD.data[::-1, :, ::-1], 7, axis=1).copy()


@pytest.mark.parametrize(
    ("stacks", "options", "message"),
    [
        ([thick(HEAD.data, 2), thick(OTHER, 0, "other")], {"align": "header"}, r"'other', stack 2, whose samples corr"),
        (
            [thick(HEAD.data, 2), thick(1 - HEAD.data, 0, "T2")],
            {"align": "header"},
            "stacks of one person and contrast",
        ),
        (
            [thick(HEAD.data, 2), replace(thick(HEAD.data, 0, "far"), affine=FAR)],
            {},
            "stacks that overlap with 'axis 2', got 'far', whose tissue lies beside it",
        ),
        ([thick(HEAD.data, 2), HEAD], {}, "one axis of the largest spacing"),
        ([thick(HEAD.data[:, :, 28:32], 2, "thin"), thick(HEAD.data, 0)], {}, "one slice in 'thin'"),
        ([thick(HEAD.data, 2)], {"voxel_mm": 0.05}, "voxel-mm: expected at most"),
    ],
    ids=["person", "contrast", "far", "cubic", "one slice", "too fine"],
)
def test_what_does_not_belong_together_is_refused(stacks, options, message):
    with pytest.raises(InputError, match=message):
        of_stacks(stacks, **options)
