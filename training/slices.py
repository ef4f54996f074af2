"""Random training slices, cut from volumes that a random map bends first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.io.volumes import Volume
from engine.io.volumes.resampling import antialiased, tissue_centre
from engine.volume import Plane


@dataclass(frozen=True)
class Augmentation:
    """Sizes of the random changes; 0 switches one off.

    Parameters
    ----------
    rotation_rad : float
        Largest rotation about each axis.
    scale : float
        Largest relative change of length, along each axis by itself.
    shift_mm : float
        Largest displacement of the head.
    elastic_mm : float
        Standard deviation of the displacement of the nodes of a 6×6×6 grid.
    gamma, gain, bias_field : float
        Largest relative changes of the intensity curve, of the brightness, and of a smooth brightness field.
    flip : float
        Probability of mirroring left and right.
    """

    rotation_rad: float = 0.2
    scale: float = 0.15
    shift_mm: float = 8.0
    elastic_mm: float = 4.0
    gamma: float = 0.25
    gain: float = 0.15
    bias_field: float = 0.1
    flip: float = 0.5


class SliceSampler:
    """Draws slices of one plane from a few volumes, each from its own random deformation of the head.

    Only the pixels of the slice are interpolated, never a whole volume: an affine map and an elastic displacement are
    applied to their coordinates. So one head gives as many different slices as training asks for.

    Parameters
    ----------
    volumes : sequence of Volume
    plane : Plane
    size : int
        Side of the cube whose slices are drawn, in voxels.
    voxel_mm : float
        Side of its voxels, in mm.
    augmentation : Augmentation
    device : torch.device
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        plane: Plane,
        size: int,
        voxel_mm: float,
        augmentation: Augmentation,
        device: torch.device,
    ):
        self.plane, self.size, self.voxel_mm, self.augmentation, self.device = (
            plane,
            size,
            voxel_mm,
            augmentation,
            device,
        )
        self.heads = [torch.from_numpy(antialiased(v, voxel_mm)).to(device)[None, None] for v in volumes]
        self.mm_to_voxel = [torch.tensor(1 / v.voxel_mm, dtype=torch.float32, device=device) for v in volumes]
        self.centres = [torch.tensor(tissue_centre(v), dtype=torch.float32, device=device) for v in volumes]
        # Slices beyond the tissue are black and teach nothing: the slice index stays where the heads are.
        self.reach = min(float((v.data.shape[plane.slice_axis] * v.voxel_mm[plane.slice_axis]) / 2) for v in volumes)
        self.reach = min(self.reach, (size - 1) * voxel_mm / 2)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n slices, float32 (n, 1, size, size), intensities about [0, 1]."""
        which = int(torch.randint(len(self.heads), (1,), generator=generator))
        a, axes = self.augmentation, self.plane.axes

        def uniform(*shape: int, reach: float = 1.0) -> Tensor:
            return ((torch.rand(*shape, generator=generator) * 2 - 1) * reach).to(self.device)

        line = (torch.arange(self.size, dtype=torch.float32, device=self.device) - (self.size - 1) / 2) * self.voxel_mm
        place = torch.zeros(n, self.size, self.size, 3, device=self.device)
        place[..., axes[0]] = uniform(n, reach=self.reach)[:, None, None]
        place[..., axes[1]] = line[None, :, None]
        place[..., axes[2]] = line[None, None, :]

        linear = _rotations(uniform(n, 3, reach=a.rotation_rad)) * torch.exp(uniform(n, 1, 3, reach=a.scale))
        mirror = (torch.rand(n, generator=generator) < a.flip).to(self.device)
        linear[:, 0] *= torch.where(mirror, -1.0, 1.0)[:, None]
        place = torch.einsum("nij,nrcj->nrci", linear, place) + uniform(n, 1, 1, 3, reach=a.shift_mm)

        half_mm = self.size * self.voxel_mm / 2
        nodes = torch.randn(n, 3, 6, 6, 6, generator=generator).to(self.device) * a.elastic_mm
        # grid_sample wants its coordinates from last axis to first.
        bend = F.grid_sample(nodes, (place / half_mm).flip(-1)[:, None], padding_mode="border", align_corners=True)
        place = place + bend[:, :, 0].permute(0, 2, 3, 1)

        head = self.heads[which]
        last = torch.tensor(head.shape[2:], device=self.device) - 1
        index = place * self.mm_to_voxel[which] + self.centres[which]
        grid = (2 * index / last - 1).flip(-1)[:, None]
        pixels = F.grid_sample(head.expand(n, -1, -1, -1, -1), grid, padding_mode="zeros", align_corners=True)[:, :, 0]

        pixels = pixels.clamp_min(0) ** torch.exp(uniform(n, 1, 1, 1, reach=a.gamma))
        field = F.interpolate(
            uniform(n, 1, 3, 3, reach=a.bias_field), size=(self.size,) * 2, mode="bicubic", align_corners=True
        )
        return pixels * (1 + uniform(n, 1, 1, 1, reach=a.gain)) * (1 + field)


def _rotations(angles: Tensor) -> Tensor:
    """Rotation matrices (n, 3, 3) from three angles (n, 3) in radians, about x, then y, then z."""
    n = angles.shape[0]
    total = torch.eye(3, device=angles.device).repeat(n, 1, 1)
    for axis in range(3):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = torch.eye(3, device=angles.device).repeat(n, 1, 1)
        cos, sin = torch.cos(angles[:, axis]), torch.sin(angles[:, axis])
        turn[:, i, i], turn[:, j, j], turn[:, i, j], turn[:, j, i] = cos, cos, -sin, sin
        total = turn @ total
    return total


def log_uniform_sigma(n: int, sigma_min: float, sigma_max: float, generator: torch.Generator) -> Tensor:
    """Noise levels σ(t) = σ_min (σ_max/σ_min)^t for uniform t, stratified over the batch to steady the loss."""
    t = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    return sigma_min * torch.exp(t * math.log(sigma_max / sigma_min))
