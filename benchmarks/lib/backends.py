"""The engine's backends: how each is opened, or why it cannot be here. Nothing else in the benchmark knows them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT
from benchmarks.lib.rows import Unavailable
from engine.backends.bundle import Bundle
from engine.backends.compiled import PRECISIONS, Compiled, folders_of
from engine.device import gpu
from engine.errors import InputError
from engine.operators import LinearOperator
from engine.sampling.denoiser import Denoiser

#: What the workload runs of a bundle: its guided steps are those of a masked Fourier transform.
_GRAPHS = "denoise,linearize,pullback,guided_fourier"
#: Batch that compiled graphs are optimised for; they take others too.
_USUAL_BATCH = 8


@dataclass(frozen=True)
class Problem:
    """What a denoiser is opened for.

    Parameters
    ----------
    bundle : Bundle
    slice_shape : (int, int)
    operator : LinearOperator
        Of the guided steps; its arrays live on the backend's device.
    batch_size, n_slices, n_threads : int
        Slices in one pass, and of the whole stack.
    """

    bundle: Bundle
    slice_shape: tuple[int, int]
    operator: LinearOperator
    batch_size: int
    n_slices: int
    n_threads: int


@dataclass(frozen=True)
class Opened:
    """A denoiser, and what was compiled for it beyond the bundle: seconds and bytes."""

    denoiser: Denoiser
    compile_seconds: float = 0.0
    compiled_bytes: int = 0


@dataclass(frozen=True)
class Backend:
    """One way to run a bundle.

    Parameters
    ----------
    name : str
    device : "cpu" or "cuda"
        Where arrays live that it takes and returns.
    _open : callable
        Raises InputError where it cannot.
    """

    name: str
    device: str
    _open: Callable[[Problem], Opened]

    def check(self, device: str) -> None:
        """Refuse a benchmark on another device.

        Raises
        ------
        Unavailable
        """
        if self.device == device:
            return
        try:
            if self.device == "cuda":
                gpu()
        except InputError as error:
            raise Unavailable(str(error)) from error
        raise Unavailable(f"runs on {self.device}: --device {self.device} times it")

    def open(self, problem: Problem) -> Opened:
        """Open it.

        Raises
        ------
        Unavailable
            It cannot run here, or not this bundle.
        """
        try:
            return self._open(problem)
        except InputError as error:
            raise Unavailable(str(error)) from error


def _selected(backend: str, device: str, precision: str | None = None) -> Callable[[Problem], Opened]:
    def opened(problem: Problem) -> Opened:
        # Imported late: it brings ONNX Runtime, which a process of the baseline's must not have.
        from engine.backends.select import Request, Role, select

        request = Request(backend, precision, device, problem.batch_size, problem.n_threads)
        role = Role(problem.bundle, problem.slice_shape, problem.operator)
        return Opened(select({"network": role}, request).denoisers["network"])

    return opened


def _tensorrt(precision: str) -> Callable[[Problem], Opened]:
    def opened(problem: Problem) -> Opened:
        gpu()
        folder = _compiled(problem.bundle, precision)
        if folder is None:
            height, width = (str(side) for side in problem.slice_shape)
            batch = f"1,{min(_USUAL_BATCH, problem.n_slices)},{problem.n_slices}"
            command = ["--bundle", str(problem.bundle.folder), "--backend", "tensorrt", "--precision", precision]
            command += ["--batch", batch, "--height", height, "--width", width, "--graphs", _GRAPHS]
            # In a process of its own: what a compiler holds is no memory of the row's.
            done = subprocess.run(
                [sys.executable, "-m", "export.build_engine", *command],
                cwd=ROOT, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                said = done.stderr.strip().splitlines()
                raise Unavailable(f"export.build_engine: {said[-1] if said else 'no message'}")
            folder = _compiled(problem.bundle, precision)
        found = _selected("tensorrt", "cuda", precision)(problem)
        assert folder is not None, "found, or else the line before has raised"
        record = Compiled.open(folder, problem.bundle).record
        return Opened(found.denoiser, record["build_seconds"], sum(f.stat().st_size for f in folder.iterdir()))

    return opened


def _compiled(bundle: Bundle, precision: str) -> Path | None:
    return next((folder for folder in folders_of(bundle) if f"-{precision}-" in folder.name), None)


def _onnx_tensorrt(problem: Problem) -> Opened:
    from engine.backends.onnx_gpu import OnnxGpuDenoiser

    provider = "TensorrtExecutionProvider"
    return Opened(OnnxGpuDenoiser(problem.bundle, gpu(), problem.batch_size, provider=provider))


BACKENDS = (
    Backend("onnx", "cpu", _selected("onnx", "cpu")),
    Backend("native", "cpu", _selected("native", "cpu")),
    Backend("onnx CUDA fp32", "cuda", _selected("onnx", "cuda", "fp32")),
    Backend("onnx CUDA tf32", "cuda", _selected("onnx", "cuda", "tf32")),
    Backend("onnx TensorRT fp32", "cuda", _onnx_tensorrt),
    *(Backend(f"tensorrt {precision}", "cuda", _tensorrt(precision)) for precision in PRECISIONS),
)
