"""The engine's backends: how each is opened, or why it cannot be here. Nothing else in the benchmark knows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.rows import Unavailable
from engine.bundle import Bundle
from engine.denoiser import Denoiser


@dataclass(frozen=True)
class Backend:
    """One way to run a bundle.

    Parameters
    ----------
    name : str
    device : "cpu" or "cuda"
        Where arrays live that it takes and returns.
    open : callable
        (bundle, batch size, threads) to a denoiser; `Unavailable` says why not.
    """

    name: str
    device: str
    open: Callable[[Bundle, int, int], Denoiser]


def _onnx(bundle: Bundle, batch_size: int, n_threads: int) -> Denoiser:
    from engine.backends.onnx import OnnxDenoiser

    return OnnxDenoiser(bundle, batch_size, n_threads)


def _native(bundle: Bundle, batch_size: int, n_threads: int) -> Denoiser:
    try:
        from engine.backends.native import NativeDenoiser
    except ImportError as error:
        raise Unavailable(str(error)) from error
    reason = NativeDenoiser.reason_against(bundle)
    if reason is not None:
        raise Unavailable(reason)
    return NativeDenoiser(bundle, batch_size, n_threads)


BACKENDS = (Backend("onnx", "cpu", _onnx), Backend("native", "cpu", _native))
