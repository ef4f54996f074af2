"""Priors for the Python API: bundles opened on CPU cores."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.backends.borders import cut_faces, padded
from engine.backends.bundle import Bundle
from engine.backends.native import NativeDenoiser
from engine.backends.onnx import OnnxDenoiser
from engine.backends.padding import PaddedDenoiser
from engine.errors import InputError
from engine.sampling.posterior_mean import Prior
from engine.volume import Plane


def load_priors(
    *folders: str | Path, planes: tuple[Plane | None, ...] = (), image: np.ndarray | None = None
) -> tuple[Prior, ...]:
    """Open the priors of engine bundles, for slices whose sides need not be multiples of anything, on CPU cores.

    Each is a context manager's worth of threads: `prior.denoiser.close()` ends them. For GPUs see
    `engine.backends.select`.

    Parameters
    ----------
    folders : path
        Of the bundles, the primary prior's first.
    planes : tuple of Plane or None
        The planes of bundles that do not know their own.
    image : float32 (d0, d1, d2), optional
        A crude image of the volume that is to be reconstructed, white being 1, such as `problem.classical()`. Where its
        tissue reaches the border, networks that know black borders alone are shown its mirror image beyond it.

    Raises
    ------
    InputError
        A bundle that is missing, damaged, or without a plane.
    """
    stated = (*planes, *[None] * (len(folders) - len(planes)))
    return tuple(_prior(Bundle.open(Path(folder)), plane, image) for folder, plane in zip(folders, stated, strict=True))


def _prior(bundle: Bundle, plane: Plane | None, image: np.ndarray | None) -> Prior:
    plane = plane or bundle.plane
    if plane is None:
        raise InputError("planes", f"the plane of '{bundle.folder}', which does not know its own", "none", "state it")
    runner = OnnxDenoiser if NativeDenoiser.reason_against(bundle) else NativeDenoiser
    if image is None:
        return Prior(PaddedDenoiser(runner(bundle), bundle.divisor), plane)
    return Prior(padded(runner(bundle), bundle, plane, cut_faces(image), plane.shape_of(image.shape)[1:]), plane)
