"""Synthetic heads, and a network that trains in seconds."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from engine.io.volumes import Volume
from networks import Architecture, NCSNpp
from training.loop import Schedule, Training
from training.patches import PatchSampler

TINY = Architecture(nf=8, ch_mult=(1, 2), n_res_blocks=1, progressive_input="residual", sigma_min=0.005, sigma_max=1.0)


def ellipsoids(shape=(24, 28, 20), seed=0):
    """A bright head with a darker inside and fine noise, in black air."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    head = 1.0 * ((x / 0.7) ** 2 + (y / 0.85) ** 2 + (z / 0.75) ** 2 < 1)
    head[((x - 0.2) / 0.25) ** 2 + (y / 0.4) ** 2 + (z / 0.5) ** 2 < 1] = 0.4
    return (head * (1 + 0.02 * np.random.default_rng(seed).standard_normal(shape))).astype(np.float32)


def volume_of(data, voxel_mm=(1.0, 1.0, 1.0)):
    return Volume(np.asarray(data, np.float32), np.diag([*voxel_mm, 1.0]), 1.0, "synthetic")


def new_network(seed=0, architecture=TINY):
    torch.manual_seed(seed)
    return NCSNpp(architecture)


@pytest.fixture(scope="session")
def sampler():
    return PatchSampler([volume_of(ellipsoids())], None, 16, (0.9, 1.1), 0.2)


@pytest.fixture
def new_training(sampler, tmp_path):
    """``new_training(steps, …)`` is a Training of the tiny network, its checkpoint always at the same place."""

    def new(steps, *, network=None, patches=None, validation=None, seed=0, **schedule):
        settings = Schedule(**{"steps": steps, "batch_size": 4, "warmup": 5, **schedule})
        out = tmp_path / "prior.pt"
        return Training(network or new_network(), patches or sampler, out, settings, validation, seed)

    return new


@pytest.fixture
def folder(tmp_path):
    """A folder of two NIfTI heads, one of them in a folder of its own."""
    heads = tmp_path / "heads"
    (heads / "deeper").mkdir(parents=True)
    for seed, name in enumerate(("one.nii.gz", "deeper/two.nii")):
        nib.save(nib.Nifti1Image(ellipsoids(seed=seed), np.eye(4)), heads / name)
    return heads
