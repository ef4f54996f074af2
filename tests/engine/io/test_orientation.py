"""Axes of files: 48 ways to lie, each brought to a volume's and back to the last bit."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from engine.io.orientation import Orientation

ALL = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]
SHAPE = (4, 5, 6)


def affine_of(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """A slightly oblique affine whose axis j runs along the world's axis order[j]."""
    turned = np.eye(3) + 0.05 * np.array([[0, 1, -2], [-1, 0, 1], [2, -1, 0]])
    affine = np.eye(4)
    for j, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        affine[:3, j] = turned[:, axis] * sign * (0.7 + j)
    affine[:3, 3] = -31.4, 15.9, 2.65
    return affine


def places(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Where the voxels lie, (3, *shape)."""
    return np.tensordot(affine[:3, :3], np.indices(shape), 1) + affine[:3, 3, None, None, None]


def values_by_place(affine: np.ndarray, data: np.ndarray) -> dict[tuple[float, ...], float]:
    found = places(affine, data.shape).reshape(3, -1).T.round(6)
    return dict(zip(map(tuple, found.tolist()), data.ravel().tolist(), strict=True))


@pytest.mark.parametrize(("order", "signs"), ALL)
def test_a_voxel_keeps_its_place_in_the_world(order, signs):
    affine, data = affine_of(order, signs), np.random.default_rng(0).random(SHAPE)
    orientation = Orientation.of(SHAPE, affine)
    volume = orientation.volume_of(data)
    assert volume.shape == orientation.volume_shape
    assert nib.aff2axcodes(orientation.volume_affine) == ("R", "A", "S")
    # Every voxel of the file is found at the same place in the volume.
    ours = values_by_place(orientation.volume_affine, volume)
    theirs = values_by_place(affine, data)
    assert ours == theirs
    back, its_affine = orientation.file_of(volume, orientation.volume_affine)
    np.testing.assert_array_equal(back, data)
    np.testing.assert_array_equal(its_affine, affine)


@pytest.mark.parametrize(("order", "signs"), ALL[::5])
def test_a_finer_grid_comes_back_with_the_file_s_axes(order, signs):
    orientation = Orientation.of(SHAPE, affine_of(order, signs))
    # Thin slices in place of thick ones along z.
    finer = orientation.volume_affine @ np.diag([1, 1, 1 / 3, 1])
    volume = np.random.default_rng(0).random((*orientation.volume_shape[:2], 3 * orientation.volume_shape[2]))
    data, affine = orientation.file_of(volume, finer)
    assert nib.aff2axcodes(affine) == nib.aff2axcodes(orientation.affine)
    again = Orientation.of(data.shape, affine)
    np.testing.assert_array_equal(again.volume_of(data), volume)
    np.testing.assert_allclose(again.volume_affine, finer, atol=1e-12)
