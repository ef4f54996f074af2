"""The baseline: eager PyTorch, gradients by autograd through the network, as the reference implementation does it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.lib.rows import Unavailable
from benchmarks.lib.workload import AUXILIARY, DENOISE, GUIDED, PRIMARY, SNR, WEIGHT, Workload, batches_of
from networks import NCSNpp, load_checkpoint

#: (x (n, 1, h, w), sigma (n,)) to x̂₀.
X0Of = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Eager:
    """The reference's arithmetic on tensors that stay on one device.

    Parameters
    ----------
    x0_of : function
        A network's `denoise`.
    batches : list of list of slice
        Groups of slices, over which norms are taken, by the pass that holds them.
    mask : float (h, w)
    measurement : complex (n, 1, h, w)
        Centred k-space.
    """

    x0_of: X0Of
    batches: Sequence[Sequence[slice]]
    mask: Tensor
    measurement: Tensor

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x̂₀ without a graph for autograd; x (n, 1, h, w), sigma (n,)."""
        with torch.no_grad():
            return torch.cat([self.x0_of(x[part], sigma[part]) for part in map(_whole, self.batches)])

    def guided_step(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """x̂₀ and ∇ₓ‖mask · F x̂₀ − y‖₂, the norm over groups of slices; both (n, 1, h, w)."""
        found = [self._guided(x, sigma, groups) for groups in self.batches]
        return torch.cat([x0 for x0, _ in found]), torch.cat([gradient for _, gradient in found])

    def _guided(self, x: Tensor, sigma: Tensor, groups: Sequence[slice]) -> tuple[Tensor, Tensor]:
        part = _whole(groups)
        image = x[part].detach().requires_grad_()
        x0 = self.x0_of(image, sigma[part])
        kspace = torch.fft.fftshift(torch.fft.fft2(x0), dim=(-2, -1))
        residual = kspace * self.mask - self.measurement[part]
        # Groups do not depend on each other, so that one backward pass serves the sum of their norms.
        norms = [torch.linalg.vector_norm(r) for r in torch.split(residual, [g.stop - g.start for g in groups])]
        (gradient,) = torch.autograd.grad(torch.stack(norms).sum(), image)
        return x0.detach(), gradient

    def turn(self, x: Tensor, sigma: float, drop: float, weight: float | None) -> Tensor:
        """One corrector and one predictor step; weight is λ, None for an auxiliary turn, which measures nothing."""
        level = torch.full((len(x),), sigma, device=x.device)

        def estimate(x: Tensor) -> tuple[Tensor, Tensor | float]:
            if weight is None:
                return (self.denoise(x, level) - x) / sigma**2, 0.0
            x0, gradient = self.guided_step(x, level)
            return (x0 - x) / sigma**2, weight * gradient

        score, descent = estimate(x)
        noise = torch.randn_like(x)
        epsilon = torch.empty_like(x[:, :1, :1, :1])
        for group in (g for groups in self.batches for g in groups):
            lengths = [t[group].flatten(1).norm(dim=1).mean() for t in (noise, score)]
            epsilon[group] = 2 * (SNR * lengths[0] / lengths[1]) ** 2
        x = x + epsilon * score + torch.sqrt(2 * epsilon) * noise - descent
        score, descent = estimate(x)
        return x + drop * score - descent

    def calls(self, x: Tensor, workload: Workload) -> dict[str, Callable[[], Any]]:
        """What is timed, as `benchmarks.lib.workload.engine_calls`."""
        sigma = torch.full((len(x),), workload.sigma, device=x.device)
        sigmas, drops = workload.schedule.sigmas, workload.schedule.variance_drops
        i = workload.step
        # The volume that both planes cut; taking its slices re-orders it, as it does for ours.
        volume = x[:, 0].permute(1, 2, 0).contiguous()

        def turn(i: int, axes: tuple[int, int, int], weight: float | None) -> Tensor:
            slices = volume.permute(axes).contiguous()[:, None]
            after = self.turn(slices, float(sigmas[i]), float(drops[i]), weight)[:, 0]
            back = [axes.index(axis) for axis in range(3)]
            return after.permute(back).contiguous()

        return {
            DENOISE: lambda: self.denoise(x, sigma)[:, 0],
            GUIDED: lambda: tuple(t[:, 0] for t in self.guided_step(x, sigma)),
            PRIMARY: lambda: turn(i, (2, 0, 1), WEIGHT),
            AUXILIARY: lambda: turn(i + 1, (2, 1, 0), None),
        }


def _whole(groups: Sequence[slice]) -> slice:
    return slice(groups[0].start, groups[-1].stop)


def prepare(
    variant: str, ckpt: Path, workload: Workload, batch_size: int
) -> tuple[dict[str, Callable[[], Any]], float]:
    """What is timed of a variant of the baseline, and the seconds that went into compiling it.

    Parameters
    ----------
    variant : str
        Parts joined by ", ": float32, bfloat16 or float16 (both as autocast), channels-last, compile.
    ckpt : Path
    workload : Workload
    batch_size : int
        As many whole groups as fit go through the network at once.

    Raises
    ------
    Unavailable
        PyTorch cannot do it here.
    """
    if workload.device == "cuda" and not torch.cuda.is_available():
        raise Unavailable(f"PyTorch {torch.__version__} finds no CUDA device; install a build for CUDA")
    torch.set_num_threads(workload.threads)
    # Sizes stay the same from call to call: let cuDNN choose the fastest convolutions by trial.
    torch.backends.cudnn.benchmark = True
    parts = variant.split(", ")
    network = load_checkpoint(ckpt)[0].to(workload.device)
    x = torch.from_numpy(workload.x)[:, None].to(workload.device)
    if "channels-last" in parts:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    halves = [part for part in parts if part in ("bfloat16", "float16")]
    x0_of = _autocast(network, getattr(torch, halves[0]), workload.device) if halves else network.denoise
    measurement = torch.from_numpy(workload.measurement)[:, None].to(workload.device)
    mask = torch.from_numpy(workload.mask).to(workload.device)
    batches = batches_of(workload.groups, batch_size)
    if "compile" not in parts:
        return Eager(x0_of, batches, mask, measurement).calls(x, workload), 0.0
    # For the sizes at hand: code for any size is slower.
    calls = Eager(torch.compile(x0_of, dynamic=False), batches, mask, measurement).calls(x, workload)
    started = time.perf_counter()
    try:
        calls[DENOISE]()
        calls[GUIDED]()
    except torch._dynamo.exc.TorchDynamoException as error:
        raise Unavailable(f"torch.compile: {error}") from error
    return calls, time.perf_counter() - started


def settings() -> dict[str, Any]:
    """What PyTorch's float32 means on a GPU: its defaults, which the reference implementation does not touch."""
    return {
        "convolutions_in_tf32": torch.backends.cudnn.allow_tf32,
        "matrix_products_in_tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def _autocast(network: NCSNpp, dtype: torch.dtype, device: str) -> X0Of:
    def x0_of(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.autocast(device, dtype):
            return network.denoise(x, sigma)

    return x0_of


def exact(ckpt: Path, workload: Workload, n: int) -> tuple[Tensor, Tensor]:
    """x̂₀ and the gradient of the first n slices, float64 (n, h, w).

    Slice by slice, so that it fits where float32 does: a slice's gradient is that of its own ‖r‖²/2 over the norm of
    its group.
    """
    device = workload.device if torch.cuda.is_available() else "cpu"
    network = load_checkpoint(ckpt)[0].double().to(device)
    mask = torch.from_numpy(workload.mask).double().to(device)
    sigma = torch.full((1,), workload.sigma, dtype=torch.float64, device=device)
    squared = torch.zeros(workload.groups[0].stop, dtype=torch.float64)
    found = []
    for i in range(len(squared)):
        x = torch.from_numpy(workload.x[i])[None, None].double().to(device).requires_grad_(i < n)
        x0 = network.denoise(x, sigma)
        target = torch.from_numpy(workload.measurement[i]).to(device, torch.complex128)
        residual = torch.fft.fftshift(torch.fft.fft2(x0), dim=(-2, -1)) * mask - target
        half = torch.linalg.vector_norm(residual) ** 2 / 2
        squared[i] = 2 * half.detach()
        if i < n:
            (gradient,) = torch.autograd.grad(half, x)
            found.append((x0.detach()[0, 0], gradient[0, 0]))
    norm = squared.sum().sqrt()
    return torch.stack([x0 for x0, _ in found]), torch.stack([gradient / norm for _, gradient in found])
