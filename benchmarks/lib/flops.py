"""Counts a network's arithmetic: convolutions and matrix products, two operations each multiplication."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from networks import Architecture, NCSNpp


def per_slice(architecture: Architecture, size: int) -> dict[str, int]:
    """Operations for one slice of size × size pixels, by what is computed.

    Nothing is computed: tensors have shapes and no memory.

    Parameters
    ----------
    architecture : Architecture
    size : int

    Returns
    -------
    dict
        ``forward``, x̂₀; ``backward``, its pullback, to the image alone.
    """
    with torch.device("meta"):
        network = NCSNpp(architecture).to("meta").requires_grad_(False)
        x, sigma = torch.empty(1, 1, size, size, requires_grad=True), torch.empty(1)
    with FlopCounterMode(display=False) as forward:
        x0 = network.denoise(x, sigma)
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(x0, x, torch.empty_like(x0))
    return {"forward": forward.get_total_flops(), "backward": backward.get_total_flops()}
