"""Priors for the Python API: bundles opened on CPU cores."""

from __future__ import annotations

from pathlib import Path

from engine.backends.bundle import Bundle
from engine.backends.native import NativeDenoiser
from engine.backends.onnx import OnnxDenoiser
from engine.backends.padding import PaddedDenoiser
from engine.errors import InputError
from engine.sampling.posterior_mean import Prior
from engine.volume import Plane


def load_priors(*folders: str | Path, planes: tuple[Plane | None, ...] = ()) -> tuple[Prior, ...]:
    """Open the priors of engine bundles, for slices whose sides need not be multiples of anything, on CPU cores.

    Each is a context manager's worth of threads: `prior.denoiser.close()` ends them. For GPUs see
    `engine.backends.select`.

    Parameters
    ----------
    folders : path
        Of the bundles, the primary prior's first.
    planes : tuple of Plane or None
        The planes of bundles that do not know their own.

    Raises
    ------
    InputError
        A bundle that is missing, damaged, or without a plane.
    """
    stated = (*planes, *[None] * (len(folders) - len(planes)))
    return tuple(_prior(Bundle.open(Path(folder)), plane) for folder, plane in zip(folders, stated, strict=True))


def _prior(bundle: Bundle, plane: Plane | None) -> Prior:
    plane = plane or bundle.plane
    if plane is None:
        raise InputError("planes", f"the plane of '{bundle.folder}', which does not know its own", "none", "state it")
    runner = OnnxDenoiser if NativeDenoiser.reason_against(bundle) else NativeDenoiser
    return Prior(PaddedDenoiser(runner(bundle), bundle.divisor), plane)
