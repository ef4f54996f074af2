"""The NCSN++ score network for a VE SDE."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.architecture import Architecture
from networks.denoiser import DenoisingNetwork
from networks.layers import (
    Attention,
    Combine,
    Downsample,
    FourierFeatures,
    GroupNormSilu,
    PositionalFeatures,
    ResBlock,
    Upsample,
    conv,
    dense,
    resampler,
    residual_sum,
)


def noise_levels(a: Architecture) -> Tensor:
    """The buffer that score_sde stores with the weights: σ from largest to smallest, float64 (n_scales,)."""
    levels = torch.linspace(0, 1, a.n_scales, dtype=torch.float64, device="cpu")
    return a.sigma_max * (a.sigma_min / a.sigma_max) ** levels


class NCSNpp(DenoisingNetwork):
    """Score of the noisy image: ``net(x, sigma) ≈ ∇ₓ log p_σ(x)``.

    The flat list `all_modules` has the order, and so the tensors the names, of score_sde's checkpoints; `forward` walks
    it once, in that order. Any image side that is a multiple of ``architecture.divisor`` works: attention is placed by
    level, not by resolution.

    Source: Song et al., Score-based generative modeling through stochastic differential equations, ICLR 2021.
    """

    sigmas: Tensor

    def __init__(self, architecture: Architecture):
        super().__init__()
        a = self.architecture = architecture
        self.register_buffer("sigmas", noise_levels(a))
        n_embedding = 4 * a.nf

        def block(n_in: int, n_out: int, direction: str | None = None) -> ResBlock:
            return ResBlock(n_in, n_out, n_embedding, a.resblock, a.skip_rescale, direction, a.fir)

        # Sines and cosines have no tensor to store, and no place among score_sde's modules.
        self.positional = None
        modules: list[nn.Module] = []
        add = modules.append
        if a.embedding == "positional":
            self.positional = PositionalFeatures(a.nf, a.sigma_min, a.sigma_max, a.n_scales)
            add(dense(a.nf, n_embedding))
        else:
            add(FourierFeatures(a.nf))
            add(dense(2 * a.nf, n_embedding))
        add(dense(n_embedding, n_embedding))
        add(conv(1, a.nf))
        n = n_pyramid = a.nf
        if a.progressive_input != "none":
            n_pyramid = 1
        skips = [n]
        for level, mult in enumerate(a.ch_mult):
            for _ in range(a.n_res_blocks):
                add(block(n, a.nf * mult))
                n = a.nf * mult
                if level in a.attention_levels:
                    add(Attention(n, a.skip_rescale))
                skips.append(n)
            if level == a.n_levels - 1:
                break
            add(block(n, n, "down") if a.resblock == "biggan" else Downsample(n, None, a.resample_with_conv, a.fir))
            if a.progressive_input == "input_skip":
                add(Combine(n_pyramid, n, a.progressive_combine))
                n *= 2 if a.progressive_combine == "cat" else 1
            elif a.progressive_input == "residual":
                add(Downsample(n_pyramid, n, with_conv=True, fir=a.fir))
                n_pyramid = n
            skips.append(n)

        add(block(n, n))
        add(Attention(n, a.skip_rescale))
        add(block(n, n))

        for level in reversed(range(a.n_levels)):
            for _ in range(a.n_res_blocks + 1):
                add(block(n + skips.pop(), a.nf * a.ch_mult[level]))
                n = a.nf * a.ch_mult[level]
            if level in a.attention_levels:
                add(Attention(n, a.skip_rescale))
            coarsest = level == a.n_levels - 1
            if a.progressive == "output_skip":
                add(GroupNormSilu(n))
                add(conv(n, 1, scale=0.0))
            elif a.progressive == "residual":
                if coarsest:
                    add(GroupNormSilu(n))
                    add(conv(n, n))
                else:
                    add(Upsample(n_pyramid, n, with_conv=True, fir=a.fir))
                n_pyramid = n
            if level > 0:
                add(block(n, n, "up") if a.resblock == "biggan" else Upsample(n, None, a.resample_with_conv, a.fir))

        if a.progressive != "output_skip":
            add(GroupNormSilu(n))
            add(conv(n, 1, scale=0.0))
        self.all_modules = nn.ModuleList(modules)
        # Without parameters, and one for all levels: score_sde does not count them among its modules.
        self.pyramid_down = resampler("down", a.fir) if a.progressive_input == "input_skip" else None
        self.pyramid_up = resampler("up", a.fir) if a.progressive == "output_skip" else None

    @property
    def divisor(self) -> int:
        return self.architecture.divisor

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self.architecture.sigma_min, self.architecture.sigma_max

    @property
    def settings(self) -> dict[str, Any]:
        return self.architecture.to_dict()

    @classmethod
    def of_weights(cls, architecture: Architecture, weights: Mapping[str, Tensor]) -> NCSNpp:
        """Build the network around existing tensors: nothing is drawn at random, float32 tensors are not copied.

        Parameters
        ----------
        architecture : Architecture
        weights : dict of str to tensor
            Names and shapes of the network's `state_dict`; ``sigmas`` may be missing.
        """
        with torch.device("meta"):
            network = cls(architecture)
        tensors = {k: v if k == "sigmas" else v.float() for k, v in weights.items()}
        tensors.setdefault("sigmas", noise_levels(architecture))
        network.load_state_dict(tensors, assign=True)
        return network

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the score.

        Parameters
        ----------
        x : float (n, 1, h, w)
            Noisy images; h and w multiples of ``architecture.divisor``.
        sigma : float (n,)
            Noise level of each image, within the trained range.

        Returns
        -------
        float (n, 1, h, w)
        """
        return self.forward_raw(x, sigma) / (sigma[:, None, None, None] if self.architecture.scale_by_sigma else 1)

    def forward_raw(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the output before any division by σ; arguments and shape as in `forward`."""
        a = self.architecture
        modules = cast("Iterator[Callable[..., Tensor]]", iter(self.all_modules))
        embed = next(modules) if self.positional is None else self.positional
        dense_0, dense_1 = next(modules), next(modules)
        embedding = dense_1(F.silu(dense_0(embed(torch.log(sigma)))))

        if not a.centered:
            x = 2 * x - 1
        pyramid: Any = x
        h = next(modules)(x)
        skips = [h]
        for level in range(a.n_levels):
            for _ in range(a.n_res_blocks):
                h = next(modules)(h, embedding)
                if level in a.attention_levels:
                    h = next(modules)(h)
                skips.append(h)
            if level == a.n_levels - 1:
                break
            h = next(modules)(h, embedding) if a.resblock == "biggan" else next(modules)(h)
            if self.pyramid_down is not None:
                pyramid = self.pyramid_down(pyramid)
                h = next(modules)(pyramid, h)
            elif a.progressive_input == "residual":
                h = pyramid = residual_sum(next(modules)(pyramid), h, a.skip_rescale)
            skips.append(h)

        h = next(modules)(h, embedding)
        h = next(modules)(h)
        h = next(modules)(h, embedding)

        pyramid = None
        for level in reversed(range(a.n_levels)):
            for _ in range(a.n_res_blocks + 1):
                h = next(modules)(torch.cat([h, skips.pop()], dim=1), embedding)
            if level in a.attention_levels:
                h = next(modules)(h)
            if self.pyramid_up is not None:
                norm, project = next(modules), next(modules)
                finer = project(norm(h))
                pyramid = finer if pyramid is None else self.pyramid_up(pyramid) + finer
            elif a.progressive == "residual":
                if pyramid is None:
                    norm, project = next(modules), next(modules)
                    pyramid = project(norm(h))
                else:
                    h = pyramid = residual_sum(next(modules)(pyramid), h, a.skip_rescale)
            if level > 0:
                h = next(modules)(h, embedding) if a.resblock == "biggan" else next(modules)(h)

        if a.progressive == "output_skip":
            return cast(Tensor, pyramid)
        norm, project = next(modules), next(modules)
        return project(norm(h))

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return x̂₀ = x + σ²·score, the mean of the clean image given the noisy one (Tweedie).

        With `scale_by_sigma` this is x + σ·raw: σ² reaches 1.4e5 and never has to be formed.
        """
        s = sigma[:, None, None, None]
        return x + (s if self.architecture.scale_by_sigma else s * s) * self.forward_raw(x, sigma)
