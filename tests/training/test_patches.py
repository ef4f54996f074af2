"""Training patches: pieces of the volumes' slices where nothing is changed, repeatable and bounded where it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.errors import InputError
from engine.volume import Plane
from tests.training.conftest import ellipsoids, volume_of
from training import patches as module
from training.augment import augment
from training.patches import PatchSampler, black_block, load_folder


@pytest.fixture
def plain(monkeypatch):
    """Patches as they are cut."""
    monkeypatch.setattr(module, "augment", lambda patch, rng, contrast, **options: patch)


def noisy_head(shape=(40, 44, 36)):
    """A head in noisy air with scattered zeros."""
    air = np.maximum(0, np.random.default_rng(1).normal(0.02, 0.02, shape))
    return (ellipsoids(shape) + air).astype(np.float32)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "2,1,0"])
def test_patch_is_a_piece_of_a_slice(plain, plane):
    # Every voxel has its own value, the same in half precision, so that the place of a patch can be told.
    data = (1 + np.arange(18 * 17 * 16).reshape(18, 17, 16) % 1021) / 1024
    plane = Plane.parse(plane)
    patches = PatchSampler([volume_of(data)], plane, 16, (1.0, 1.0), 0.0).draw(4, (0,))
    assert patches.shape == (4, 1, 16, 16) and patches.dtype == torch.float32
    stack = plane.slices_of(data)
    windows = np.lib.stride_tricks.sliding_window_view(stack, (16, 16), axis=(1, 2))
    for patch in patches[:, 0].numpy():
        assert (windows == patch).all(axis=(-2, -1)).any()


def test_all_planes_are_drawn(plain):
    # Values depend on z alone: axial patches are flat, the others are not.
    data = np.broadcast_to(np.linspace(0.2, 1.0, 16), (16, 16, 16))
    patches = PatchSampler([volume_of(data)], None, 16, (1.0, 1.0), 0.0).draw(30, (0,))
    flat = (patches.amax((1, 2, 3)) == patches.amin((1, 2, 3))).sum()
    assert 3 < flat < 17


def test_resampled_patch_has_the_stated_pixels(plain, monkeypatch):
    monkeypatch.setattr(module, "_KEPT_AS_IS", 0.0)
    # A ramp of 0.01 a mm along x, 0.5 mm voxels in x and 1 mm in y: pixels of 1.5 mm differ by 0.015.
    ramp = np.broadcast_to(0.2 + 0.005 * np.arange(120)[:, None, None], (120, 60, 4))
    volume = volume_of(ramp, (0.5, 1.0, 1.0))
    rise = PatchSampler([volume], Plane.parse("axial"), 16, (1.5, 1.5), 0.0).draw(1, (0,))[0, 0].double()
    # Inside: the border repeats. Half precision rounds values below 1 by 2.5e-4, the filter averages that.
    assert (rise.diff(dim=0)[3:-3] - 0.015).abs().max() < 5e-4
    assert rise.diff(dim=1).abs().max() < 1e-6


def test_same_seed_same_patches_whatever_was_drawn_before(sampler):
    first = sampler.draw(3, (1, 2))
    assert not torch.equal(first, sampler.draw(3, (1, 3)))
    before = torch.random.get_rng_state()
    assert torch.equal(first, sampler.draw(3, (1, 2)))
    assert torch.equal(before, torch.random.get_rng_state())


def test_volumes_are_drawn_by_their_tissue():
    large, small = ellipsoids((40, 40, 40)), ellipsoids((20, 20, 20))
    weights = PatchSampler([volume_of(large), volume_of(small)], None, 16, (1.0, 1.0), 0.0).weights
    # Eight times the volume; the border of 20 voxels is rough.
    assert weights[0] / weights[1] == pytest.approx(8, rel=0.1)


def test_volumes_are_drawn_as_stated(plain):
    dark, bright = (np.full((16, 16, 16), value, np.float32) for value in (0.25, 0.75))
    sampler = PatchSampler([volume_of(dark), volume_of(bright)], None, 16, (1.0, 1.0), 0.0, shares=[3, 1])
    n_bright = (sampler.draw(80, (0,)).amax((1, 2, 3)) > 0.5).sum()
    assert 10 < n_bright < 30


def test_most_patches_have_tissue():
    data = np.zeros((64, 64, 64), np.float32)
    data[:20, :20, :20] = 1
    patches = PatchSampler([volume_of(data)], None, 16, (1.0, 1.0), 0.0).draw(100, (0,))
    # Of all patches, about one in twenty; one in ten of the others is kept.
    assert 0.2 < (patches > 0.1).float().mean((1, 2, 3)).ge(0.1).float().mean() < 0.6


def test_black_block_is_where_defacing_left_it():
    data = noisy_head()
    assert not black_block(data).any()
    data[10:30, 30:, 2:18] = 0
    expected = np.zeros(data.shape, bool)
    expected[10:30, 30:, 2:18] = True
    found = black_block(data)
    assert found[expected].all()
    # A few zeros of the noise that touch it may count as well.
    assert found.sum() < 1.02 * expected.sum()
    # Air that is black everywhere is no block.
    assert not black_block(ellipsoids()).any()


def test_patches_touch_no_black_block(plain, monkeypatch):
    data = noisy_head()
    data[10:30, 30:, 2:18] = 0
    volume = volume_of(data)
    patches = PatchSampler([volume], None, 16, (0.8, 1.3), 0.0).draw(60, (0,))
    assert float((patches == 0).float().mean((1, 2, 3)).max()) < 0.4
    monkeypatch.setattr(module, "black_block", lambda data: np.ones(data.shape, bool))
    with pytest.raises(InputError, match="volumes: expected patches outside of black blocks"):
        PatchSampler([volume], None, 16, (1.0, 1.0), 0.0).draw(1, (0,))


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (volume_of(ellipsoids((12, 40, 12))), "slices that hold a patch of 16 × 16 pixels, got 12 × 40 × 12 voxels"),
        (volume_of(ellipsoids(), (0.001, 0.001, 0.001)), "voxels of 0.1 to 10 mm, got 0.001 × 0.001 × 0.001 mm"),
        (volume_of(0.05 * ellipsoids()), "tissue brighter than 0.1 of white, got none"),
    ],
)
def test_unusable_volumes_are_refused(volume, message):
    with pytest.raises(InputError, match=f"volumes: expected {message}"):
        PatchSampler([volume_of(ellipsoids()), volume], None, 16, (1.0, 1.0), 0.0)


def test_plane_too_narrow_is_left_out():
    PatchSampler([volume_of(ellipsoids((40, 40, 8)))], None, 16, (1.0, 1.0), 0.0).draw(8, (0,))
    with pytest.raises(InputError, match="slices that hold a patch"):
        PatchSampler([volume_of(ellipsoids((40, 40, 8)))], Plane.parse("coronal"), 16, (1.0, 1.0), 0.0)


def test_folders_stand_for_the_nifti_files_in_them(folder):
    names = [volume.source.split("/")[-1] for volume in load_folder([folder, folder / "one.nii.gz"])]
    assert names == ["two.nii", "one.nii.gz", "one.nii.gz"]


def changed(patch, seed, contrast=0.0, mirrored=(), turned=False):
    return augment(patch, np.random.default_rng(seed), contrast, mirrored=mirrored, turned=turned)


def test_orientation_changes_only_as_asked():
    patch = torch.arange(16.0).reshape(4, 4)

    def seen(**options):
        shapes = {tuple((p / p.max()).mul(15).round().int().flatten().tolist()) for p in
                  (changed(patch, seed, **options) for seed in range(60))}  # fmt: skip
        return len(shapes)

    assert seen() == 1
    assert seen(mirrored=(0,)) == 2
    assert seen(mirrored=(0, 1)) == 4
    assert seen(mirrored=(0, 1), turned=True) == 8


def test_contrast_keeps_air_dark_and_the_rest_bounded():
    ramp = torch.linspace(0, 1.5, 151)[None].repeat(151, 1)
    kinds = set()
    for seed in range(40):
        curve = changed(ramp, seed, contrast=1.0)[0]
        assert curve[:5].max() < 0.2 and 0 <= curve.min() and curve.max() < 2.2
        # Grey and white matter, of 0.55 and 0.85 in T1.
        kinds.add(bool(curve[55] < curve[85]))
    assert kinds == {True, False}
    assert all((changed(ramp, seed)[0].diff() > 0).all() for seed in range(10))
