"""Runs an engine bundle in ONNX Runtime on CPU cores."""

from __future__ import annotations

import threading
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
import onnxruntime as ort

import kernels
from engine.backends.bundle import Bundle
from engine.backends.workers import SliceWorkers
from engine.sampling.denoiser import CotangentOf, Denoiser

#: ONNX Runtime's level for errors: its warnings are about our graphs' dynamic shapes and help no user.
_ERRORS_ONLY = 3


@final
class OnnxDenoiser(Denoiser):
    """A bundle's graphs on the CPU: each worker thread takes a few slices through a single-threaded session.

    Parameters
    ----------
    bundle : Bundle
    batch_size : int
        Slices that one run of a graph takes. The result does not depend on it beyond rounding.
    n_threads : int or None
        Worker threads; None takes all cores.
    """

    def __init__(self, bundle: Bundle, batch_size: int = 2, n_threads: int | None = None):
        self.bundle, self.sigma_range = bundle, bundle.sigma_range
        self._workers = SliceWorkers(batch_size, n_threads)
        self._own = threading.local()

    def close(self) -> None:
        self._workers.close()

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        """Slices in one run of a graph, at most."""
        return self._workers.batch_size

    @property
    def n_threads(self) -> int:
        """Worker threads."""
        return self._workers.n_threads

    def _session(self, graph: str) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        path: Path = self.bundle.folder / f"{graph}.onnx"
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    # Sessions hold a packed copy of the weights each: one that a run does not need is not opened.
    @cached_property
    def _denoise_session(self) -> ort.InferenceSession:
        return self._session("denoise")

    @cached_property
    def _linearize_session(self) -> ort.InferenceSession:
        return self._session("linearize")

    @cached_property
    def _pullback_session(self) -> ort.InferenceSession:
        return self._session("pullback")

    def _denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        session, x0 = self._denoise_session, np.empty_like(x)

        def work(part: slice) -> None:
            x0[part] = session.run(["x0"], _feeds(x[part], sigma))[0][:, 0]

        self._workers.for_each_batch(len(x), work)
        return x0

    def _vjp(self, x: np.ndarray, sigma: float, cotangent: CotangentOf) -> tuple[np.ndarray, np.ndarray]:
        forward, backward = self._linearize_session, self._pullback_session
        names = [o.name for o in forward.get_outputs()]
        x0, pulled = np.empty_like(x), np.empty_like(x)

        def work(part: slice) -> None:
            # A binding points into the arrays: they have names here so that they live until the graph has run.
            feeds = _feeds(x[part], sigma)
            outputs = self._record(forward, names, feeds)
            x0[part] = outputs[0].numpy()[:, 0]
            with kernels.threads_here(1):
                towards = np.ascontiguousarray(cotangent(x0[part], part)[:, None])
            binding = backward.io_binding()
            binding.bind_cpu_input("cotangent", towards)
            for name, value in zip(names[1:], outputs[1:], strict=True):
                binding.bind_ortvalue_input(name, value)
            binding.bind_output("pullback")
            backward.run_with_iobinding(binding)
            pulled[part] = binding.get_outputs()[0].numpy()[:, 0]

        self._workers.for_each_batch(len(x), work)
        return x0, pulled

    def _record(
        self, forward: ort.InferenceSession, names: list[str], feeds: dict[str, np.ndarray]
    ) -> list[ort.OrtValue]:
        """Run `linearize`; return x̂₀ and the tape, valid until this thread's next call.

        The tape is many megabytes: a worker writes it into the memory of its last one, if that has the same shape,
        instead of asking for new pages.
        """
        shape = feeds["x"].shape
        last_shape, last = getattr(self._own, "tape", (None, []))
        binding = forward.io_binding()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, value)
        if shape == last_shape:
            for name, value in zip(names, last, strict=True):
                binding.bind_ortvalue_output(name, value)
        else:
            # Let go of the old one first: two would not fit where one only just does.
            last = None
            self._own.tape = None, []
            for name in names:
                binding.bind_output(name)
        forward.run_with_iobinding(binding)
        self._own.tape = shape, binding.get_outputs() if last is None else last
        outputs: list[ort.OrtValue] = self._own.tape[1]
        return outputs


def _feeds(x: np.ndarray, sigma: float) -> dict[str, np.ndarray]:
    return {"x": x[:, None], "sigma": np.full(len(x), sigma, dtype=np.float32)}
