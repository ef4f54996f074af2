"""Parallel-beam projection as PyTorch users write it: rotate with `affine_grid` and `grid_sample`, sum the rows."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import kernels
from benchmarks.lib.rows import Call, Setting, fastest, same

#: Views that a trial of the possible layouts projects.
_TRIAL_VIEWS = 4


class RotateAndSum:
    """The discretisation of `kernels.radon_forward`, differentiable.

    Slices are spread over `n_batches` batches of channels. Positions and weights are computed once a batch, and
    PyTorch's threads share out batches: the best number lies between 1 and one a slice.

    Parameters
    ----------
    torch : module
    geometry : kernels.ParallelGeometry
    device : str
    n_batches : int
        A divisor of the number of slices.
    is_channels_last : bool
        Memory layout of the padded slices.
    """

    def __init__(
        self,
        torch: Any,
        geometry: kernels.ParallelGeometry,
        device: str,
        n_batches: int = 1,
        is_channels_last: bool = True,
    ):
        self.torch, self.geometry = torch, geometry
        self.n_batches, self.is_channels_last = n_batches, is_channels_last
        cosine, sine = np.asarray(geometry.cos_sin).T
        zero = np.zeros_like(cosine)
        matrices = np.stack([np.stack([cosine, sine, zero], 1), np.stack([-sine, cosine, zero], 1)], 1)
        m = geometry.n_bins
        # The same for all calls: made once, in double precision.
        size = (geometry.n_views, 1, m, m)
        grids = torch.nn.functional.affine_grid(torch.from_numpy(matrices), size, align_corners=True)
        self.grids = grids.float().to(device)

    def __call__(self, images: Any) -> Any:
        """Project a stack: float32 (n_slices, n, n) to (n_slices, n_views, n_bins)."""
        torch, m = self.torch, self.geometry.n_bins
        before = self.geometry.pad_before
        after = m - self.geometry.n - before
        padded = torch.nn.functional.pad(images, (before, after, before, after)).reshape(self.n_batches, -1, m, m)
        if self.is_channels_last:
            padded = padded.contiguous(memory_format=torch.channels_last)
        lines = []
        for view in range(self.geometry.n_views):
            grid = self.grids[view].expand(self.n_batches, -1, -1, -1)
            rotated = torch.nn.functional.grid_sample(
                padded, grid, mode="bilinear", padding_mode="zeros", align_corners=True
            )
            lines.append(rotated.sum(dim=2).reshape(-1, m))
        return torch.stack(lines, dim=1)


def forward(setting: Setting, geometry: kernels.ParallelGeometry) -> Call:
    """Prepare the projection of the setting's images."""
    images = setting.tensor(setting.images)
    project, note = _fastest_projector(setting, geometry, needs_gradient=False)
    return Call(lambda: project(images), same, note=note)


def backward(setting: Setting, geometry: kernels.ParallelGeometry, sinogram: np.ndarray) -> Call:
    """Prepare the backward pass alone: the graph of one projection is kept."""
    project, note = _fastest_projector(setting, geometry, needs_gradient=True)
    return Call(_pullback(setting, project, sinogram), same, note=f"backward pass alone; {note}")


def _pullback(setting: Setting, project: RotateAndSum, sinogram: np.ndarray) -> Any:
    images = setting.tensor(setting.images).requires_grad_()
    cotangent = setting.tensor(sinogram)
    projected = project(images)
    return lambda: project.torch.autograd.grad(projected, images, cotangent, retain_graph=True)[0]


def _fastest_projector(
    setting: Setting, geometry: kernels.ParallelGeometry, needs_gradient: bool
) -> tuple[RotateAndSum, str]:
    torch = setting.torch()
    few = kernels.ParallelGeometry(geometry.n, geometry.angles_rad[:: -(-geometry.n_views // _TRIAL_VIEWS)])
    images = setting.tensor(setting.images)
    lines = np.ones((setting.n_slices, few.n_views, few.n_bins), np.float32)
    candidates, layouts = {}, {}
    for n_batches in _batch_counts(setting.n_slices, setting.threads):
        for is_channels_last in (False, True):
            order = "last" if is_channels_last else "first"
            name = f"{n_batches} x {setting.n_slices // n_batches} slices, channels {order}"
            layouts[name] = n_batches, is_channels_last
            project = RotateAndSum(torch, few, setting.device, n_batches, is_channels_last)
            if needs_gradient:
                candidates[name] = _pullback(setting, project, lines)
            else:
                candidates[name] = partial(project, images)
    name = fastest(setting, candidates)
    return RotateAndSum(torch, geometry, setting.device, *layouts[name]), name


def _batch_counts(n_slices: int, threads: int) -> list[int]:
    """One batch, one a thread or a few more, one a slice; divisors of the number of slices."""
    divisors = [d for d in range(1, n_slices + 1) if n_slices % d == 0]
    wanted = (1, threads, 4 * threads, n_slices)
    return sorted({min((d for d in divisors if d >= w), default=n_slices) for w in wanted})
