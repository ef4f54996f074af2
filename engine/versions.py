"""Versions of what a result depends on, for the records of runs and builds."""

from __future__ import annotations

import platform
from importlib import metadata

#: Distributions; ONNX Runtime has another name where it is built for GPUs, CuPy and TensorRT one for each CUDA.
_RUNTIME = (
    *("tpdm-engine", "numpy", "scipy", "nibabel", "onnxruntime", "onnxruntime-gpu", "cupy-cuda12x", "cupy-cuda13x"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
)


def versions(*others: str) -> dict[str, str]:
    """Of Python, of the packages that a run may use, and of `others`, as far as they are installed."""
    installed = {"python": platform.python_version()}
    for package in (*_RUNTIME, *others):
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed
