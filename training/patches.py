"""Random training patches, cut from the slices of whole volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from engine.errors import InputError
from engine.io.volumes import Volume, load_volume
from engine.volume import NAMED_PLANES, Plane
from training.augment import augment

#: Voxels brighter than this part of white are tissue.
TISSUE = 0.1
#: A patch may be finer than its slice's coarser voxel by this factor: beyond it, interpolation teaches blur.
_FINEST = 0.8
#: Part of the patches that keep the voxels of the file, and of those without tissue that are kept.
_KEPT_AS_IS, _KEPT_DARK = 0.5, 0.1
#: Plausible edges of a voxel in mm: beyond them the header's unit is wrong.
_VOXEL_MM = (0.1, 10.0)
#: Black blocks are wider than this many voxels along every axis; noise leaves smaller holes.
_BLOCK = 5
_TRIES = 1000


def load_folder(paths: Sequence[str | Path], argument: str = "volumes") -> list[Volume]:
    """Load volumes; a folder stands for every NIfTI file in it, at any depth.

    Raises
    ------
    InputError
        No file, or as `load_volume`.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(f for f in path.rglob("*") if f.name.lower().endswith((".nii", ".nii.gz")))
        if path.is_dir() and not inside:
            raise InputError(argument, "NIfTI files", f"none in '{path}'", "check the path")
        files += inside or [path]
    return [load_volume(file, argument=argument) for file in files]


def black_block(data: np.ndarray) -> np.ndarray:
    """Voxels of blocks that defacing blacked out in a volume whose air is noise.

    Parameters
    ----------
    data : float (d0, d1, d2)

    Returns
    -------
    bool (d0, d1, d2)
        All false where most of the border is black: there black is the background, not a block.
    """
    black = data == 0
    border = np.concatenate([np.take(black, end, axis).ravel() for axis in range(3) for end in (0, -1)])
    if border.mean() > 0.5:
        return np.zeros_like(black)
    inner = ndimage.minimum_filter(black, _BLOCK, mode="nearest")
    return np.asarray(ndimage.maximum_filter(inner, _BLOCK, mode="nearest"))


class PatchSampler:
    """Draws patches at random places of random slices, resampled to random voxel sizes.

    Every voxel of tissue is about equally likely, whichever volume it is in, unless `shares` says otherwise. Patches
    that touch a black block are drawn again: no scan has such an edge.

    Parameters
    ----------
    volumes : sequence of Volume
    plane : Plane or None
        The plane of the slices; None: all three, mixed.
    size : int
        Side of a patch, in pixels.
    voxel_mm : tuple of 2 float
        Smallest and largest side of a pixel, in mm. Half the patches keep the voxels of their slice, at any size.
    contrast : float
        Probability of another contrast than the volume's.
    argument : str
        That stands for the volumes, for refusals.
    serves_all : bool
        Whether patches of one plane stand for those of all: mirrored and turned like these.
    shares : sequence of float or None
        Part of the patches from each volume, in any unit. None: as much as it has tissue.

    Raises
    ------
    InputError
        A volume without a slice that holds a patch, or with implausible voxels.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        plane: Plane | None,
        size: int,
        voxel_mm: tuple[float, float],
        contrast: float,
        argument: str = "volumes",
        *,
        serves_all: bool = False,
        shares: Sequence[float] | None = None,
    ):
        self._argument, self._stands_for_all = argument, serves_all
        self.plane, self.size, self.voxel_mm, self.contrast = plane, size, voxel_mm, contrast
        planes = [plane] if plane else [Plane(axes) for axes in NAMED_PLANES.values()]
        self.sources: list[tuple[np.ndarray, np.ndarray | None, np.ndarray, list[Plane]]] = []
        n_tissue = []
        for volume in volumes:
            if not (_VOXEL_MM[0] <= volume.voxel_mm.min() and volume.voxel_mm.max() <= _VOXEL_MM[1]):
                raise InputError(
                    argument,
                    f"voxels of {_VOXEL_MM[0]:g} to {_VOXEL_MM[1]:g} mm",
                    f"{' × '.join(f'{mm:g}' for mm in volume.voxel_mm)} mm in '{volume.source}'",
                    "correct the unit in its header",
                )
            wide = [p for p in planes if min(volume.data.shape[a] for a in p.axes[1:]) >= size]
            if not wide:
                raise InputError(
                    argument,
                    f"slices that hold a patch of {size} × {size} pixels",
                    f"{' × '.join(map(str, volume.data.shape))} voxels in '{volume.source}'",
                    "lower --size or leave the file out",
                )
            n_tissue.append(np.count_nonzero(volume.data > TISSUE))
            if not n_tissue[-1]:
                raise InputError(
                    argument,
                    f"tissue brighter than {TISSUE:g} of white",
                    f"none in '{volume.source}'",
                    "leave the file out",
                )
            block = black_block(volume.data)
            # Half the memory; its rounding, 0.05 % of white, is far below any noise level trained.
            data = volume.data.astype(np.float16)
            self.sources.append((data, block if block.any() else None, volume.voxel_mm, wide))
        weights = np.array(n_tissue if shares is None else shares, dtype=float)
        self.weights = weights / weights.sum()

    @property
    def serves_all(self) -> bool:
        """Whether a network that is trained on these patches serves all planes."""
        return self._stands_for_all or self.plane is None

    def draw(self, n: int, seed: tuple[int, ...]) -> Tensor:
        """Return n patches, float32 (n, 1, size, size), intensities about [0, 1]; the same seed, the same patches."""
        rng = np.random.default_rng(seed)
        return torch.stack([self._patch(rng) for _ in range(n)])[:, None]

    def _patch(self, rng: np.random.Generator) -> Tensor:
        for _ in range(_TRIES):
            data, block, edges, planes = self.sources[rng.choice(len(self.sources), p=self.weights)]
            plane = planes[rng.integers(len(planes))]
            sides = self._sides(rng, edges[list(plane.axes[1:])], [data.shape[a] for a in plane.axes[1:]])
            where: list[slice | int] = [0, 0, 0]
            where[plane.axes[0]] = int(rng.integers(data.shape[plane.axes[0]]))
            for axis, side in zip(plane.axes[1:], sides, strict=True):
                start = int(rng.integers(data.shape[axis] - side + 1))
                where[axis] = slice(start, start + side)
            cut = tuple(where)
            if block is not None and block[cut].any():
                continue
            pixels = data[cut] if plane.axes[1] < plane.axes[2] else data[cut].T
            if (pixels > TISSUE).mean() < TISSUE and rng.random() > _KEPT_DARK:
                continue
            patch = torch.from_numpy(pixels.astype(np.float32))
            if sides != (self.size, self.size):
                patch = F.interpolate(patch[None, None], (self.size, self.size), mode="bicubic", antialias=True)[0, 0]
            # Axes of mixed planes mean nothing; those of one plane do, and only left and right are alike.
            mirrored = [i for i in (0, 1) if self.serves_all or plane.axes[1 + i] == 0]
            return augment(patch.clamp_min(0), rng, self.contrast, mirrored=mirrored, turned=self.serves_all)
        raise InputError(self._argument, "patches outside of black blocks", f"none in {_TRIES} draws", "lower --size")

    def _sides(self, rng: np.random.Generator, edges: np.ndarray, shape: list[int]) -> tuple[int, int]:
        """Rows and columns of the slice that become a patch: its own voxels or a random voxel size."""
        low, high = self.voxel_mm
        low = max(low, _FINEST * edges.max())
        # What the slice holds bounds the pixel, too.
        high = min(high, *(n * edge / self.size for n, edge in zip(shape, edges, strict=True)))
        if rng.random() < _KEPT_AS_IS or low > high:
            return self.size, self.size
        pixel = low * math.exp(rng.random() * math.log(high / low))
        rows, columns = (min(n, round(self.size * pixel / edge)) for n, edge in zip(shape, edges, strict=True))
        return rows, columns
