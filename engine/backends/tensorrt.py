"""Runs a bundle's graphs as TensorRT compiled them, by TensorRT itself or by TensorRT for RTX, on CuPy arrays."""

from __future__ import annotations

from typing import Any, NamedTuple, final

import numpy as np

from engine.backends.bundle import Bundle
from engine.backends.compiled import Compiled, build_command
from engine.backends.fused import dft_matrix
from engine.backends.gpu import GpuDenoiser, check_batch, filled
from engine.backends.tensorrt_graphs import (
    FULL,
    Network,
    OutOfMemoryError,
    Program,
    Workspace,
    first_of,
    library_for,
    made,
    messages_of,
)
from engine.device import Device
from engine.errors import InputError, Unavailable
from engine.operators import LinearOperator, MaskedFourier, ThickSlices
from engine.operators.data_fidelity import DataFidelity
from engine.sampling.denoiser import CotangentOf, Guided


@final
class TensorRTDenoiser(GpuDenoiser):
    """A bundle's compiled graphs on one GPU.

    Inputs and outputs stay in the same place from run to run, and the tape is written where the pullback reads it. So
    from the second run on a graph is one CUDA graph, launched at once.

    For a masked Fourier transform or thick slices a guided step is one graph, where it was compiled; for any other
    operator two, with the operator's own kernels in between.

    Parameters
    ----------
    bundle : Bundle
    compiled : Compiled
        Its graphs.
    device : Device
        The GPU.
    batch_size : int or None
        The most slices in one run of a graph; None takes the size that the graphs were optimised for.
    workspace : Workspace or None
        That of the other denoisers in the run.
    guided_by : LinearOperator or None
        The operator of the guided steps to come. What those, or else single denoising steps, need is loaded at once;
        the rest when first asked for.

    Raises
    ------
    Unavailable
        The library is missing, or of another version than the graphs were compiled by; they were compiled for another
        GPU; the library refuses them.
    InputError
        A graph's file is damaged; the batch is none that they were compiled for.
    """

    def __init__(
        self,
        bundle: Bundle,
        compiled: Compiled,
        device: Device,
        batch_size: int | None = None,
        workspace: Workspace | None = None,
        guided_by: LinearOperator | None = None,
    ):
        size = compiled.batch.opt if batch_size is None else batch_size
        check_batch(size, compiled.batch.min, compiled.batch.max, f"'{compiled.folder}'")
        super().__init__(device, size, compiled.batch.min)
        self.bundle, self.compiled, self.sigma_range = bundle, compiled, bundle.sigma_range
        self._library = library_for(bundle, compiled, device)
        self._workspace = workspace or Workspace(device)
        compiled.check_files()
        self._messages = messages_of(self._library)
        with device.working():
            self._runtime = made(lambda: self._library.Runtime(self._messages))
            if self._runtime is None:
                raise self._refused(compiled.library)
            self._networks: dict[str, Network] = {}
            for graph in self._needed(guided_by):
                self._network(graph)
        self._programs: dict[tuple[str, int, int, int], Program] = {}
        self._fused: tuple[DataFidelity, _Fused | None] | None = None

    def _needed(self, operator: LinearOperator | None) -> tuple[str, ...]:
        if operator is None:
            return ("denoise",)
        fused = graph_of(operator)
        return (fused,) if fused in self.compiled.graphs else ("linearize", "pullback")

    def check_slice(self, shape: tuple[int, int]) -> None:
        """Refuse slices of a size that the graphs were not compiled for.

        Raises
        ------
        InputError
        """
        if shape[0] not in self.compiled.height or shape[1] not in self.compiled.width:
            raise InputError(
                "volume",
                (
                    f"slices of {self.compiled.height} × {self.compiled.width}, which '{self.compiled.folder}' "
                    "was compiled for"
                ),
                f"{shape[0]}×{shape[1]}",
                (
                    "compile it for this size with "
                    f"{build_command(self.bundle, self.compiled.precision, f' --height {shape[0]} --width {shape[1]}')}"
                ),
            )

    def _denoise(self, x: Any, sigma: float) -> Any:
        self.check_slice(x.shape[1:])
        x0 = self.device.library.empty_like(x)

        def work(part: slice, size: int) -> None:
            program = self._program("denoise", (size, *x.shape[1:]))
            program.take(x[part], sigma)
            x0[part] = program.run()["x0"][: len(x0[part]), 0]

        self._by_batches(x, work)
        return x0

    def _vjp(self, x: Any, sigma: float, cotangent: CotangentOf) -> tuple[Any, Any]:
        self.check_slice(x.shape[1:])
        library = self.device.library
        x0, pulled = library.empty_like(x), library.empty_like(x)

        def work(part: slice, size: int) -> None:
            forward = self._program("linearize", (size, *x.shape[1:]))
            forward.take(x[part], sigma)
            n = len(x0[part])
            x0[part] = forward.run()["x0"][:n, 0]
            tape = {name: buffer for name, buffer in forward.buffers.items() if name not in ("x", "sigma", "x0")}
            backward = self._program("pullback", (size, *x.shape[1:]), tape)
            filled(backward.buffers["cotangent"], cotangent(x0[part], part)[:, None])
            pulled[part] = backward.run()["pullback"][:n, 0]

        self._by_batches(x, work)
        return x0, pulled

    def _guided(self, x: Any, sigma: float, fidelity: DataFidelity, noise: Any) -> Guided | None:
        fused = self._fused_for(fidelity, noise, len(x))
        if fused is None:
            return None
        self.check_slice(x.shape[1:])
        fidelity.operator.check_image("x", x)
        library = self.device.library
        x0, pulled = library.empty_like(x), library.empty_like(x)
        squared, plain = library.empty(len(x), np.float64), library.empty(len(x), np.float64)

        def work(part: slice, size: int) -> None:
            program = self._program(fused.graph, (size, *x.shape[1:]), fused.constants, fused.measurement.shape[1:])
            program.take(x[part], sigma)
            filled(program.buffers["measurement"], fused.measurement[part])
            if noise is not None:
                filled(program.buffers["noise"], noise[part][:, None])
            elif "noise" in program.buffers:
                program.buffers["noise"].fill(0)
            n, out = len(x0[part]), program.run()
            x0[part], pulled[part] = out["x0"][:n, 0], out["pullback"][:n, 0]
            squared[part], plain[part] = out["squared"][:n], out["plain"][:n]

        self._by_batches(x, work)
        return x0, pulled, squared, plain

    def _fused_for(self, fidelity: DataFidelity, noise: Any, n: int) -> _Fused | None:
        """The graph that holds this data fidelity's operator, with what it takes; None where there is none."""
        if self._fused is None or self._fused[0] is not fidelity:
            self._fused = fidelity, _fused_of(fidelity, self.device)
            for key in [key for key in self._programs if key[0].startswith("guided")]:
                del self._programs[key]
        fused = self._fused[1]
        if fused is None or fused.graph not in self.compiled.graphs or fidelity.n_slices != n:
            return None
        if noise is not None:
            if isinstance(fidelity.operator, MaskedFourier):
                # Published guidance re-noises thick slices alone.
                return None
            fidelity.operator.check_data("noise", noise)
        # The numbers of thick slices that the graph was compiled for are not in the record.
        takes = self._network(fused.graph).takes
        return fused if all(takes(name, array.shape) for name, array in fused.constants.items()) else None

    def _network(self, graph: str) -> Network:
        if graph not in self._networks:
            content = self.compiled.read(graph)
            self._messages.errors.clear()
            engine = self._runtime.deserialize_cuda_engine(content)
            if engine is None:
                raise self._refused(str(self.compiled.file_of(graph)))
            self._networks[graph] = Network(self._library, engine, self._messages)
        return self._networks[graph]

    def _refused(self, what: str) -> Unavailable:
        said = first_of(self._messages)
        remedy = "update the NVIDIA driver" if "insufficient" in said else "compile it again on this machine, with "
        if "insufficient" not in said:
            remedy += build_command(self.bundle, self.compiled.precision)
        if any(word in said.lower() for word in FULL):
            remedy = "end other programs that use the GPU"
        return Unavailable("backend", f"{self.compiled.library} to load '{what}'", f"its refusal ({said})", remedy)

    def _program(
        self,
        graph: str,
        stack: tuple[int, int, int],
        given: dict[str, Any] | None = None,
        data_shape: tuple[int, ...] = (),
    ) -> Program:
        key = (graph, *stack)
        if key not in self._programs:
            n, h, w = stack
            image, data = (n, 1, h, w), (n, *data_shape)
            shapes = {"x": image, "sigma": (n,), "cotangent": image, "measurement": data, "noise": data}
            self._programs[key] = Program(self._network(graph), shapes, given or {}, self.device, self._workspace)
        return self._programs[key]

    def _is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, OutOfMemoryError) or super()._is_out_of_memory(error)

    def _let_go(self) -> None:
        self._programs.clear()
        self._workspace.let_go()


class _Fused(NamedTuple):
    """A graph that holds the operator, what it takes of it, and the measurement as it takes that."""

    graph: str
    constants: dict[str, Any]
    measurement: Any


def graph_of(operator: LinearOperator) -> str:
    """Name of the graph that holds an operator; empty where there can be none."""
    if isinstance(operator, ThickSlices):
        return "guided_thick_rows" if operator.axis == 1 else "guided_thick_columns"
    is_real = isinstance(operator, MaskedFourier) and operator.image_dtype == np.float32
    return "guided_fourier" if is_real else ""


def _fused_of(fidelity: DataFidelity, device: Device) -> _Fused | None:
    operator, library = fidelity.operator, device.library
    graph, scale = graph_of(operator), library.full(1, fidelity.scale, np.float32)
    if isinstance(operator, MaskedFourier) and graph:
        rows, columns = (library.asarray(dft_matrix(n)) for n in operator.slice_shape)
        measured = library.stack([fidelity.measurement.real, fidelity.measurement.imag], axis=1)
        constants = {"mask": operator.mask, "scale": scale, "dft_rows": rows, "dft_columns": columns}
        return _Fused(graph, constants, measured)
    if isinstance(operator, ThickSlices):
        constants = {"scale": scale, "mean": library.asarray(operator.matrix)}
        return _Fused(graph, constants, library.ascontiguousarray(fidelity.measurement[:, None]))
    return None
