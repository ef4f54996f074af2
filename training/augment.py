"""Random changes of a training patch: orientation, brightness and contrast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: Intensity curves (from, to) that turn the contrast of T1 into others. Air, below 0.05, stays dark.
_CURVES = {
    "inverted": ((0, 0.05, 0.15, 0.35, 0.65, 0.9, 1.3), (0, 0.03, 0.9, 0.75, 0.45, 0.2, 0.1)),
    "t2": ((0, 0.05, 0.2, 0.55, 0.85, 1.1, 1.5), (0, 0.03, 1.0, 0.5, 0.35, 0.5, 0.6)),
}
#: Largest relative changes of brightness and, as an exponent, of the intensity curve; spread of a curve's nodes.
_GAIN, _GAMMA, _NODES = 0.15, 0.25, 0.15


def augment(
    patch: Tensor, rng: np.random.Generator, contrast: float, *, mirrored: Sequence[int], turned: bool
) -> Tensor:
    """Change one patch at random.

    Parameters
    ----------
    patch : float32 (size, size)
        Not negative, white about 1.
    rng : Generator
    contrast : float
        Probability of another contrast: a power curve, T1 inverted, or one like T2, equally often.
    mirrored : sequence of int
        Axes of the patch along which half the patches are mirrored.
    turned : bool
        Exchange rows and columns of half the patches.

    Returns
    -------
    float32 (size, size)
    """
    patch = patch.flip([axis for axis in mirrored if rng.random() < 0.5])
    if turned and rng.random() < 0.5:
        patch = patch.T
    if rng.random() < contrast:
        kind = ("power", *_CURVES)[rng.integers(1 + len(_CURVES))]
        if kind == "power":
            patch = patch ** float(np.exp(rng.uniform(-_GAMMA, _GAMMA)))
        else:
            nodes, values = _CURVES[kind]
            curve = np.array(values) * np.exp(_NODES * rng.standard_normal(len(values)))
            patch = torch.from_numpy(np.interp(patch.numpy(), nodes, curve).astype(np.float32))
    return patch * float(rng.uniform(1 - _GAIN, 1 + _GAIN))
