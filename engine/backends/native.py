"""Runs an engine bundle with the project's own kernels on CPU cores."""

from __future__ import annotations

import threading
from typing import final

import numpy as np

import kernels
from engine.backends.bundle import PROGRAM, WEIGHTS, Bundle
from engine.backends.workers import SliceWorkers
from engine.errors import Unavailable
from engine.sampling.denoiser import CotangentOf, Denoiser
from kernels.network import Network, Workspace


@final
class NativeDenoiser(Denoiser):
    """A bundle's network as native layers, forward and backward: the fastest runner on a CPU.

    Parameters
    ----------
    bundle : Bundle
        One with a program: see `reason_against`.
    batch_size : int
        Slices that a worker takes at a time, and that a cotangent is asked for together. One is fastest for the
        network; some operators, projections first, want more. Results do not depend on it.
    n_threads : int or None
        Worker threads; None takes all cores.
    """

    def __init__(self, bundle: Bundle, batch_size: int = 1, n_threads: int | None = None):
        self.bundle, self.sigma_range = bundle, bundle.sigma_range
        try:
            self.network = Network(bundle.folder / PROGRAM, bundle.folder / WEIGHTS)
        except ValueError as error:
            raise Unavailable(
                "backend", f"a program for these kernels in '{bundle.folder}'", str(error), "choose --backend onnx"
            ) from error
        self._workers = SliceWorkers(batch_size, n_threads)
        # Images go through a small network one by one, because they then stay in a core's cache; through a large one
        # together, because its weights are then prepared once for all of them.
        self._at_once = 1 if self.network.keeps_transforms else batch_size
        self._own = threading.local()

    @staticmethod
    def reason_against(bundle: Bundle) -> str | None:
        """Why this runner cannot take a bundle; None where it can."""
        if PROGRAM not in bundle.manifest["files"]:
            family = bundle.manifest["architecture"].get("family")
            return f"no {PROGRAM}, " + (
                f"for the native kernels lack layers of {family}" if family else "which earlier exporters did not write"
            )
        return None

    def check_slice(self, shape: tuple[int, int]) -> None:
        """Refuse slices that the network cannot take.

        Raises
        ------
        Unavailable
        """
        try:
            self.network.workspace_bytes(1, *shape, True)
        except ValueError as error:
            raise Unavailable(
                "backend", f"slices that the native kernels take, of '{self.bundle.folder}'",
                f"{shape[0]}×{shape[1]}: {error}", "choose --backend onnx",
            ) from error  # fmt: skip

    def workspace_bytes(self, shape: tuple[int, int], *, with_pullback: bool) -> int:
        """Memory in which all workers' networks work, for slices of a size."""
        n = 1 if self._at_once > 1 or not with_pullback else self.batch_size
        return self.n_threads * n * self.network.workspace_bytes(self._at_once, *shape, with_pullback)

    def close(self) -> None:
        self._workers.close()

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        """Slices that a worker takes at a time, at most."""
        return self._workers.batch_size

    @property
    def n_threads(self) -> int:
        """Worker threads."""
        return self._workers.n_threads

    def _workspaces(self, n: int, shape: tuple[int, int], with_pullback: bool) -> list[Workspace]:
        """This thread's memory for n times as many slices as work at once: that of its last call, where it fits.

        Memory of guided steps also serves to denoise; the other way round it would be made anew in every turn.
        """
        last: list[Workspace] = getattr(self._own, "workspaces", [])
        wanted = (self._at_once, *shape)
        if any(not w.fits(wanted, with_pullback) for w in last):
            # Let go of the old ones first: both would not fit where one only just does.
            last.clear()
        while len(last) < n:
            last.append(self.network.workspace(self._at_once, *shape, with_pullback))
        self._own.workspaces = last
        return last[:n]

    def _cut(self, part: slice) -> list[slice]:
        """Slices that go through the network at once."""
        return [slice(i, min(i + self._at_once, part.stop)) for i in range(part.start, part.stop, self._at_once)]

    def _denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        x0 = np.empty_like(x)

        def work(part: slice) -> None:
            (workspace,) = self._workspaces(1, (x.shape[1], x.shape[2]), False)
            for few in self._cut(part):
                workspace.denoise(x[few], sigma, x0[few])

        self._workers.for_each_batch(len(x), work)
        return x0

    def _vjp(self, x: np.ndarray, sigma: float, cotangent: CotangentOf) -> tuple[np.ndarray, np.ndarray]:
        x0, pulled = np.empty_like(x), np.empty_like(x)

        def work(part: slice) -> None:
            cut = self._cut(part)
            workspaces = self._workspaces(len(cut), (x.shape[1], x.shape[2]), True)
            for few, workspace in zip(cut, workspaces, strict=True):
                workspace.denoise(x[few], sigma, x0[few])
            with kernels.threads_here(1):
                towards = np.ascontiguousarray(cotangent(x0[part], part))
            for few, workspace in zip(cut, workspaces, strict=True):
                workspace.pullback(towards[few.start - part.start : few.stop - part.start], pulled[few])

        self._workers.for_each_batch(len(x), work)
        return x0, pulled
