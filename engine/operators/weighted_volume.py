"""Samples of a volume that are not all worth the same: an operator whose noise is."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from engine.device import Device
from engine.operators.volume_operator import VolumeOperator
from kernels.arrays import library_of


@final
class WeightedVolume(VolumeOperator):
    """W^½ A: every sample of another operator times the root of its weight, see `engine.operators.Weighted`.

    Parameters
    ----------
    inner : VolumeOperator
        A.
    roots : float32 (inner.n_samples,), NumPy or CuPy
        Roots of the weights, above 0.

    Raises
    ------
    ValueError
        Another shape, or roots that are not positive and finite.
    """

    def __init__(self, inner: VolumeOperator, roots: Any):
        library_of(roots=roots)
        if roots.dtype != np.float32 or roots.shape != (inner.n_samples,):
            raise ValueError(
                f"roots: expected float32 ({inner.n_samples},), got {roots.dtype} {roots.shape}; give one for every "
                "sample"
            )
        if len(roots) and not (0 < float(roots.min()) and np.isfinite(float(roots.max()))):
            raise ValueError("roots: expected positive, finite numbers, got others; leave out samples without weight")
        super().__init__(inner.shape, inner.n_samples)
        self.inner, self.roots, self.n_iterations = inner, roots, inner.n_iterations

    def on(self, device: Device) -> WeightedVolume:
        return WeightedVolume(self.inner.on(device), device.put(self.roots))

    def _apply(self, x: Any) -> Any:
        return self.inner.apply(x) * self.roots

    def _adjoint(self, y: Any) -> Any:
        return self.inner.adjoint(y * self.roots)

    def _classical(self, y: Any) -> Any:
        """That of the samples as they were before they were weighed."""
        return self.inner.classical(y / self.roots)
