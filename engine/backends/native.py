"""Runs an engine bundle with the project's own kernels on CPU cores."""

from __future__ import annotations

import threading
from typing import final

import numpy as np

import kernels
from engine.backends.workers import SliceWorkers
from engine.bundle import PROGRAM, WEIGHTS, Bundle
from engine.denoiser import CotangentOf, Denoiser
from kernels.network import Network, Workspace


@final
class NativeDenoiser(Denoiser):
    """A bundle's network as native layers, forward and backward: the fastest runner on a CPU.

    Parameters
    ----------
    bundle : Bundle
        One with a program: see `reason_against`.
    batch_size : int
        Slices that a worker takes at a time. Results do not depend on it.
    n_threads : int or None
        Worker threads; None takes all cores.
    """

    def __init__(self, bundle: Bundle, batch_size: int = 2, n_threads: int | None = None):
        self.bundle = bundle
        self.network = Network(bundle.folder / PROGRAM, bundle.folder / WEIGHTS)
        self._workers = SliceWorkers(batch_size, n_threads)
        self._own = threading.local()

    @staticmethod
    def reason_against(bundle: Bundle) -> str | None:
        """Why this runner cannot take a bundle; None where it can."""
        if PROGRAM not in bundle.manifest["files"]:
            return f"no {PROGRAM}, which earlier exporters did not write"
        return None

    @property
    def batch_size(self) -> int:
        """Slices that a worker takes at a time, at most."""
        return self._workers.batch_size

    @property
    def n_threads(self) -> int:
        """Worker threads."""
        return self._workers.n_threads

    def _workspace(self, part: np.ndarray, with_pullback: bool) -> Workspace:
        """This thread's memory for slices like these: that of its last call, where they fit.

        Memory of guided steps also serves to denoise; the other way round it would be made anew in every turn.
        """
        last: Workspace | None = getattr(self._own, "workspace", None)
        if last is not None and last.fits(part.shape, with_pullback):
            return last
        # Let go of the old one first: two would not fit where one only just does.
        self._own.workspace = last = None
        n, height, width = part.shape
        self._own.workspace = made = self.network.workspace(n, height, width, with_pullback)
        return made

    def _denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        x0 = np.empty_like(x)

        def work(part: slice) -> None:
            self._workspace(x[part], False).denoise(x[part], sigma, x0[part])

        self._workers.for_each_batch(len(x), work)
        return x0

    def _vjp(self, x: np.ndarray, sigma: float, cotangent: CotangentOf) -> tuple[np.ndarray, np.ndarray]:
        x0, pulled = np.empty_like(x), np.empty_like(x)

        def work(part: slice) -> None:
            workspace = self._workspace(x[part], True)
            workspace.denoise(x[part], sigma, x0[part])
            with kernels.threads_here(1):
                towards = np.ascontiguousarray(cotangent(x0[part], part))
            workspace.pullback(towards, pulled[part])

        self._workers.for_each_batch(len(x), work)
        return x0, pulled
