"""Resampling keeps places in the world, intensities of smooth volumes, and aliases nothing."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InputError
from engine.io.orientation import Orientation
from engine.io.volumes.resampling import resample, resample_isotropic, tissue_centre
from engine.io.volumes.volume import Volume

SHAPE = (40, 48, 36)


def oblique(voxel_mm):
    a = np.deg2rad(25)
    affine = np.eye(4)
    affine[:3, :3] = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    affine[:3, :3] *= voxel_mm
    affine[:3, 3] = [-20, 35, 4]
    return affine


def blob(voxel_mm, width_mm=6.0, centre=(17.3, 26.1, 15.8)):
    """A Gaussian, peak 1, off the middle of the volume."""
    squared = 0
    for i, c, e in zip(np.indices(SHAPE), centre, voxel_mm, strict=True):
        squared = squared + ((i - c) * e) ** 2
    data = np.exp(-squared / (2 * width_mm**2)).astype(np.float32)
    return Volume(data, oblique(voxel_mm), 123.0, "blob")


def centre_of_mass_mm(volume):
    weights = volume.data.astype(np.float64)
    index = [(i * weights).sum() / weights.sum() for i in np.indices(weights.shape)]
    return (volume.affine @ [*index, 1])[:3]


@pytest.mark.parametrize("voxel_mm", [(1, 1, 1), (1.0, 1.2, 1.6), (2, 2, 2)])
@pytest.mark.parametrize(("size", "target_mm"), [(64, 1.0), (63, 1.3), (40, 2.0), (33, 3.0)])
def test_centre_of_mass_stays_where_it_is_in_the_world(voxel_mm, size, target_mm):
    volume = blob(voxel_mm, width_mm=5.0)
    result = resample(volume, size, target_mm)
    # Tails beyond the cube and linear interpolation leave a hundredth of a voxel or so; half a voxel would be a bug.
    np.testing.assert_allclose(centre_of_mass_mm(result), centre_of_mass_mm(volume), atol=0.05)


@pytest.mark.parametrize(("size", "target_mm"), [(64, 1.0), (33, 2.5)])
def test_result_is_a_cube_of_isotropic_voxels_around_the_tissue(size, target_mm):
    volume = blob((1.0, 1.2, 1.6))
    result = resample(volume, size, target_mm)
    assert result.data.shape == (size, size, size)
    assert result.data.dtype == np.float32
    assert result.data.flags.c_contiguous
    np.testing.assert_allclose(result.voxel_mm, target_mm)
    middle = result.affine @ [*[(size - 1) / 2] * 3, 1]
    np.testing.assert_allclose(middle, volume.affine @ [*tissue_centre(volume), 1])
    assert (result.scale, result.source) == (volume.scale, volume.source)


def test_same_grid_changes_nothing():
    data = np.zeros((16, 16, 16), dtype=np.float32)
    data[1:15, 1:15, 1:15] = np.random.default_rng(0).random((14, 14, 14), dtype=np.float32) * 0.5 + 0.4
    volume = Volume(data, np.diag([2.0, 2.0, 2.0, 1.0]), 1.0, "noise")
    result = resample(volume, 16, 2.0)
    np.testing.assert_allclose(result.data, data, atol=1e-6)
    np.testing.assert_allclose(result.affine, volume.affine)


def test_mass_is_kept_when_voxels_grow():
    volume = blob((1, 1, 1), width_mm=5.0)
    result = resample(volume, 20, 3.0)
    before, after = (float(v.data.sum(dtype=np.float64)) * float(np.prod(v.voxel_mm)) for v in (volume, result))
    assert after == pytest.approx(before, rel=0.01)


def test_a_pattern_too_fine_for_the_target_becomes_its_mean():
    # Stripes of period 3 voxels, sampled at every 4th: without a filter they come back as stripes of period 12.
    data = np.zeros((66, 66, 66), dtype=np.float32)
    data[3:63, 3:63, 3:63] = (0.5 + 0.5 * np.cos(2 * np.pi * np.arange(60) / 3)).astype(np.float32)[:, None, None]
    result = resample(Volume(data, np.eye(4), 1.0, "stripes"), 14, 4.0).data[3:-3, 3:-3, 3:-3]
    unfiltered = data[3:63:4, 33, 33]
    assert np.ptp(unfiltered) > 0.7
    assert np.ptp(result) < 0.08
    assert result.mean() == pytest.approx(0.5, abs=0.02)


def test_only_axes_that_get_coarser_are_blurred():
    data = np.zeros((32, 32, 32), dtype=np.float32)
    data[10:22, 10:22, 10:22] = 1
    volume = Volume(data, np.diag([1.0, 4.0, 4.0, 1.0]), 1.0, "box")
    result = resample(volume, 40, 2.0).data
    # Along y and z the edge is interpolated over one source voxel; along x it is blurred over more than its own.
    middle = result[20, 20, 20]
    assert middle == pytest.approx(1, abs=1e-3)
    along_x, along_y = result[:, 20, 20], result[20, :, 20]
    assert ((along_x > 0.01) & (along_x < 0.99)).sum() >= 2
    assert np.ptp(along_y[(along_y > 0.01)]) < 0.8


def test_outside_the_field_of_view_is_zero():
    volume = Volume(np.ones((8, 8, 8), dtype=np.float32), np.eye(4), 1.0, "ones")
    result = resample(volume, 20, 1.0).data
    assert result[:5].max() == result[-5:].max() == result[:, :, :5].max() == 0
    assert result[9:11, 9:11, 9:11].min() == pytest.approx(1)


def test_tissue_centre_is_the_middle_of_its_box():
    data = np.zeros((20, 20, 20), dtype=np.float32)
    data[2:7, 10, 5:15] = 1
    data[15:, 15:, 15:] = 0.04  # air that is not quite zero
    np.testing.assert_array_equal(tissue_centre(Volume(data, np.eye(4), 1.0, "box")), [4, 10, 9.5])


def corners_mm(volume):
    """The field of view's first and last corner, in mm."""
    first, last = np.full(3, -0.5), np.array(volume.data.shape) - 0.5
    return (volume.affine @ [*first, 1])[:3], (volume.affine @ [*last, 1])[:3]


@pytest.mark.parametrize("target_mm", [0.8, 1.0, 1.7, 4.0])
def test_isotropic_keeps_the_field_of_view(target_mm):
    volume = blob((1.0, 1.2, 1.6))
    result = resample_isotropic(volume, target_mm)
    np.testing.assert_allclose(result.voxel_mm, target_mm)
    (first, last), (ours, end) = corners_mm(volume), corners_mm(result)
    np.testing.assert_allclose(ours, first, atol=1e-9)
    # Along each of the volume's axes the end is less than a voxel further out.
    beyond = np.linalg.solve(volume.affine[:3, :3] / volume.voxel_mm, end - last)
    assert (beyond >= -0.011 * target_mm).all()
    assert (beyond < target_mm).all()
    assert result.data.dtype == np.float32
    assert result.data.flags.c_contiguous
    np.testing.assert_allclose(centre_of_mass_mm(result), centre_of_mass_mm(volume), atol=0.08)
    assert (result.scale, result.source, result.offset) == (volume.scale, volume.source, volume.offset)


def test_isotropic_of_the_same_grid_changes_nothing():
    data = np.random.default_rng(0).random((9, 10, 11), dtype=np.float32)
    volume = Volume(data, np.diag([2.0, 2.0, 2.0, 1.0]), 1.0, "noise")
    result = resample_isotropic(volume, 2.0)
    np.testing.assert_array_equal(result.data, data)
    np.testing.assert_array_equal(result.affine, volume.affine)


@pytest.mark.parametrize("target_mm", [0.7, 1.5, 3.3])
def test_isotropic_leaves_a_constant_alone_up_to_its_borders(target_mm):
    volume = Volume(np.ones((14, 15, 16), dtype=np.float32), np.diag([1.0, 1.5, 2.0, 1.0]), 1.0, "ones")
    np.testing.assert_allclose(resample_isotropic(volume, target_mm).data, 1, atol=1e-6)


def test_isotropic_does_not_alias():
    data = np.zeros((60, 60, 60), dtype=np.float32)
    data[:] = (0.5 + 0.5 * np.cos(2 * np.pi * np.arange(60) / 3)).astype(np.float32)[:, None, None]
    result = resample_isotropic(Volume(data, np.eye(4), 1.0, "stripes"), 4.0).data[3:-3]
    assert np.ptp(data[3:60:4, 30, 30]) > 0.7
    assert np.ptp(result) < 0.08


def test_frame_and_offset_stay_with_both():
    orientation = Orientation.of((16, 15, 14), np.diag([-2.0, 1.0, 1.0, 1.0]))
    data = orientation.volume_of(np.random.default_rng(0).random((16, 15, 14), dtype=np.float32))
    volume = Volume(np.ascontiguousarray(data), orientation.volume_affine, 10.0, "noise", orientation, -5.0)
    for result in (resample_isotropic(volume, 1.5), resample(volume, 12, 1.5)):
        assert result.orientation is orientation
        assert result.offset == -5.0
        of_file, affine = result.orientation.file_of(result.data, result.affine)
        np.testing.assert_array_equal(of_file[::-1], result.data)
        assert affine[0, 0] == pytest.approx(-1.5)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, 1e-300, 1e-3, 0.02, 11.0, 1e12])
def test_isotropic_refuses_sizes_that_make_no_volume(bad):
    volume = Volume(np.ones((10, 40, 40), dtype=np.float32), np.eye(4), 1.0, "ones")
    with pytest.raises(InputError, match=r"^voxel_mm: expected [^\n]*; [^\n]*$"):
        resample_isotropic(volume, bad)
