"""Planes: cutting a volume is undone by assembling it, and only sensible planes parse."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from engine.errors import InputError
from engine.volume import NAMED_PLANES, Plane

PERMUTATIONS = list(permutations((0, 1, 2)))
SHAPE = (3, 4, 5)


def numbered_volume():
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


@pytest.mark.parametrize("axes", PERMUTATIONS)
def test_volume_of_undoes_slices_of(axes):
    volume, plane = numbered_volume(), Plane(axes)
    slices = plane.slices_of(volume)
    assert slices.shape == plane.shape_of(SHAPE)
    assert slices.flags.c_contiguous
    back = plane.volume_of(slices)
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, volume)


@pytest.mark.parametrize("axes", PERMUTATIONS)
def test_slice_row_and_column_run_along_their_axes(axes):
    volume, plane = numbered_volume(), Plane(axes)
    slices = plane.slices_of(volume)
    for number, row, column in np.ndindex(*slices.shape):
        index = [0, 0, 0]
        for axis, i in zip(axes, (number, row, column), strict=True):
            index[axis] = i
        assert slices[number, row, column] == volume[tuple(index)]
    assert plane.slice_axis == axes[0]


@pytest.mark.parametrize(("name", "cut_axis"), [("axial", 2), ("coronal", 1), ("sagittal", 0)])
def test_named_planes_cut_the_axis_they_are_named_for(name, cut_axis):
    plane = Plane.parse(name)
    assert plane.slice_axis == cut_axis
    assert str(plane) == name


@pytest.mark.parametrize("axes", PERMUTATIONS)
def test_text_of_a_plane_parses_to_it(axes):
    assert Plane.parse(str(Plane(axes))) == Plane(axes)
    assert Plane.parse(",".join(map(str, axes))) == Plane(axes)


@pytest.mark.parametrize(
    "text", ["", "Axial", "frontal", "0,1", "0,1,2,0", "0;1;2", "0,0,1", "1,2,3", "-1,0,1", "a,b,c"]
)
def test_what_is_no_plane_is_refused_by_name(text):
    with pytest.raises(InputError, match=r"^plane: expected .*, got .*; .*$"):
        Plane.parse(text)


def test_names_are_distinct_planes():
    assert len(set(NAMED_PLANES.values())) == len(NAMED_PLANES) == 3


@pytest.mark.parametrize("axes", PERMUTATIONS)
def test_axes_of_brings_one_planes_stack_to_anothers(axes):
    volume, plane, other = numbered_volume(), Plane(axes), Plane((2, 0, 1))
    moved = plane.slices_of(volume).transpose(plane.axes_of(other))
    np.testing.assert_array_equal(moved, other.slices_of(volume))
