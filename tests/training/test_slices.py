"""Training slices: planes of the volume where nothing is augmented, repeatable and bounded where it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from engine.io.volumes import Volume, resample
from engine.io.volumes.resampling import antialiased, tissue_centre
from engine.volume import Plane
from training.slices import Augmentation, SliceSampler, log_uniform_sigma

PLAIN = Augmentation(0, 0, 0, 0, 0, 0, 0, 0)
CPU = torch.device("cpu")


def phantom(shape=(30, 34, 26), voxel_mm=(1.0, 1.0, 1.0)):
    """Smooth off-centre ellipsoids, different along every axis, with black borders."""
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"), axis=-1)

    def ellipsoid(centre, radii):
        return 1 / (1 + np.exp(12 * (np.linalg.norm((place - centre) / radii, axis=-1) - 1)))

    data = 0.7 * ellipsoid((0.0, 0.0, 0.0), (0.6, 0.65, 0.7)) + 0.3 * ellipsoid((0.2, -0.25, 0.1), (0.25, 0.3, 0.2))
    data[data < 0.01] = 0
    return Volume(data.astype(np.float32), np.diag([*voxel_mm, 1.0]), 1.0, "phantom")


def drawn_places(sampler, n, seed):
    """Distances of the drawn slices from the centre, in mm: the second draw of the generator, after the volume's."""
    generator = torch.Generator().manual_seed(seed)
    torch.randint(len(sampler.heads), (1,), generator=generator)
    return (torch.rand(n, generator=generator) * 2 - 1).numpy() * sampler.reach


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "2,1,0"])
@pytest.mark.parametrize(
    ("voxel_mm", "target_mm"), [((1.0, 1.0, 1.0), 2.0), ((1.0, 1.5, 2.0), 1.5), ((3.0, 2.0, 2.5), 2.0)]
)
def test_unaugmented_slice_is_a_plane_of_the_volume(plane, voxel_mm, target_mm):
    volume, plane, size = phantom(voxel_mm=voxel_mm), Plane.parse(plane), 24
    sampler = SliceSampler([volume], plane, size, target_mm, PLAIN, CPU)
    slices = sampler.draw(4, torch.Generator().manual_seed(5)).numpy()
    assert slices.shape == (4, 1, size, size)
    line = (np.arange(size) - (size - 1) / 2) * target_mm
    for got, place in zip(slices[:, 0], drawn_places(sampler, 4, 5), strict=True):
        mm = np.zeros((3, size, size))
        mm[plane.axes[0]], mm[plane.axes[1]], mm[plane.axes[2]] = place, line[:, None], line[None, :]
        index = mm / volume.voxel_mm[:, None, None] + tissue_centre(volume)[:, None, None]
        expected = ndimage.map_coordinates(antialiased(volume, target_mm), index, order=1, mode="grid-constant")
        # float32 coordinates of up to 40 voxels err by 4e-6 voxels; the phantom's steepest slope is about 0.3 a voxel.
        np.testing.assert_allclose(got, expected, atol=1e-5)
        assert got.max() > 0


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "2,1,0"])
def test_unaugmented_slice_lies_in_the_resampled_volume(plane):
    """At the volume's own voxel size, a slice is linear between two planes of what the engine reconstructs."""
    volume, plane, size = phantom(), Plane.parse(plane), 32
    sampler = SliceSampler([volume], plane, size, 1.0, PLAIN, CPU)
    slices = sampler.draw(4, torch.Generator().manual_seed(5)).numpy()[:, 0]
    stack = plane.slices_of(resample(volume, size, 1.0).data)
    for got, place in zip(slices, drawn_places(sampler, 4, 5), strict=True):
        position = place + (size - 1) / 2
        below = int(np.floor(position))
        expected = stack[below] + (position - below) * (stack[below + 1] - stack[below])
        np.testing.assert_allclose(got, expected, atol=1e-5)  # rounding of coordinates, as above


def test_same_generator_same_slices():
    volumes = [phantom(), phantom((26, 30, 34))]
    sampler = SliceSampler(volumes, Plane.parse("coronal"), 16, 2.0, Augmentation(), CPU)
    first, second, other = (sampler.draw(3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_global_generator_is_left_alone():
    sampler = SliceSampler([phantom()], Plane.parse("axial"), 16, 2.0, Augmentation(), CPU)
    before = torch.random.get_rng_state()
    sampler.draw(2, torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "setting", ["rotation_rad", "scale", "shift_mm", "elastic_mm", "gamma", "gain", "bias_field", "flip"]
)
def test_each_augmentation_changes_the_slice(setting):
    size = {"flip": 1.0, "shift_mm": 4.0, "elastic_mm": 2.0}.get(setting, 0.2)
    augmented = Augmentation(**{**dict.fromkeys(vars(PLAIN), 0.0), setting: size})
    plain, changed = (
        SliceSampler([phantom()], Plane.parse("axial"), 16, 2.0, a, CPU).draw(8, torch.Generator().manual_seed(3))
        for a in (PLAIN, augmented)
    )
    assert changed.isfinite().all()
    assert (changed - plain).abs().max() > 1e-3


def test_flip_mirrors_left_and_right():
    flipped = Augmentation(**{**dict.fromkeys(vars(PLAIN), 0.0), "flip": 1.0})
    plain, mirrored = (
        SliceSampler([phantom()], Plane.parse("axial"), 16, 2.0, a, CPU).draw(4, torch.Generator().manual_seed(3))
        for a in (PLAIN, flipped)
    )
    # Axial rows run from left to right, about the tissue's centre: mirroring reverses them, up to rounded coordinates.
    torch.testing.assert_close(mirrored, plain.flip(2), rtol=0, atol=1e-5)


def test_noise_levels_are_stratified():
    sigma = log_uniform_sigma(16, 0.01, 50.0, torch.Generator().manual_seed(0)).double()
    t = torch.log(sigma / 0.01) / np.log(50.0 / 0.01)
    # One level in each sixteenth of the logarithmic range; 1e-6: float32 rounding at the borders.
    assert (t >= torch.arange(16) / 16 - 1e-6).all()
    assert (t <= torch.arange(1, 17) / 16 + 1e-6).all()
