"""The settings that fix an NCSN++ network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Progressive = Literal["none", "output_skip", "residual"]
ProgressiveInput = Literal["none", "input_skip", "residual"]

#: Settings that leave no trace in the tensors' names and shapes.
TRACELESS = ("skip_rescale", "scale_by_sigma", "centered")


@dataclass(frozen=True)
class Architecture:
    """Everything that a score_sde NCSN++ network for a VE SDE needs beside its weights.

    The activation is SiLU, the FIR kernel (1, 3, 3, 1): all published VE configurations of score_sde share these.

    Parameters
    ----------
    nf : int
        Channels of the first convolution; the embedding has 4·nf.
    ch_mult : tuple of int
        Channels of each resolution level, finest first, in units of nf.
    n_res_blocks : int
        Residual blocks a level on the way down; one more on the way up.
    attention_levels : tuple of int
        Levels with self-attention after their residual blocks (0 is the finest). The bottleneck always has it.
        score_sde gives resolutions instead: for images of side s, level l is resolution s / 2^l.
    resblock : "biggan" or "ddpm"
        Residual block that resamples by itself, or plain block with separate resampling layers.
    progressive, progressive_input : str
        The output and input pyramids.
    progressive_combine : "sum" or "cat"
        How an "input_skip" pyramid joins the features.
    resample_with_conv : bool
        Whether the separate resampling layers of "ddpm" carry a convolution.
    fir : bool
        Resampling by the (1, 3, 3, 1) filter; else nearest neighbour and 2×2 mean.
    skip_rescale : bool
        Divide every residual sum by √2.
    scale_by_sigma : bool
        Divide the output by σ, so that the network returns a score.
    centered : bool
        True: the network takes its input as it is; False: it maps [0, 1] to [-1, 1] first.
    sigma_min, sigma_max : float
        Trained range of noise levels, in units of image intensity.
    n_scales : int
        Length of the stored ``sigmas`` buffer.
    embedding : "fourier" or "positional"
        Gaussian Fourier features of ln σ, or sines and cosines of the level's number among the ``n_scales`` of the
        training, from the largest down; between two of them the number is linear in ln σ.
    """

    nf: int
    ch_mult: tuple[int, ...]
    n_res_blocks: int
    attention_levels: tuple[int, ...] = ()
    resblock: Literal["biggan", "ddpm"] = "biggan"
    progressive: Progressive = "none"
    progressive_input: ProgressiveInput = "none"
    progressive_combine: Literal["sum", "cat"] = "sum"
    resample_with_conv: bool = True
    fir: bool = True
    skip_rescale: bool = True
    scale_by_sigma: bool = True
    centered: bool = False
    sigma_min: float = 0.01
    sigma_max: float = 378.0
    n_scales: int = 2000
    embedding: Literal["fourier", "positional"] = "fourier"

    @property
    def n_levels(self) -> int:
        return len(self.ch_mult)

    @property
    def divisor(self) -> int:
        """Image sides must be multiples of this."""
        return 2 ** (self.n_levels - 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, for JSON and for checkpoints."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**settings)


#: The network of the TPDM paper: 61.4 million parameters, trained on 256 × 256 slices.
PUBLISHED = Architecture(nf=128, ch_mult=(1, 2, 2, 2), n_res_blocks=4, progressive_input="residual")
