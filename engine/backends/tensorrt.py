"""Runs a bundle's graphs as TensorRT compiled them, by TensorRT itself or by TensorRT for RTX, on CuPy arrays."""

from __future__ import annotations

import importlib
import logging
from types import ModuleType
from typing import Any, NamedTuple, final

import numpy as np

from engine.backends.gpu import GpuDenoiser, check_batch, filled
from engine.bundle import Bundle
from engine.compiled import ANY_PLATFORM, Compiled, build_command
from engine.denoiser import CotangentOf, Guided
from engine.device import Device, address_of
from engine.errors import InputError, Unavailable
from engine.fused import dft_matrix
from engine.operators import LinearOperator, MaskedFourier, ThickSlices
from engine.operators.misfit import Misfit

log = logging.getLogger("engine")

_PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
#: Types of inputs and outputs. Nothing reads the tape between two graphs: any type of its size will do.
_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "BF16": np.uint16, "INT32": np.int32, "INT64": np.int64}
#: How TensorRT's messages say that memory has run out.
_FULL = ("out of memory", "outofmemory", "cudaerror 2:", "failed to allocate")
#: Streams that are none of one's own, on which nothing can be captured.
_DEFAULT_STREAMS = (0, 1, 2)


class Workspace:
    """Memory for activations, shared by all graphs of a run: they run one after the other, on one stream.

    Attributes
    ----------
    generation : int
        Counts the places where it has been: whoever holds an address from an earlier one must ask again.
    """

    def __init__(self, device: Device):
        self._device, self._memory = device, None
        self.generation = 0

    def reserve(self, n_bytes: int) -> None:
        """Make it at least so large."""
        if self.n_bytes >= n_bytes:
            return
        self.let_go()
        self._memory = self._device.library.empty(n_bytes, np.uint8)

    def let_go(self) -> None:
        """Free it."""
        self._memory = None
        self.generation += 1

    @property
    def n_bytes(self) -> int:
        return 0 if self._memory is None else self._memory.nbytes

    @property
    def address(self) -> int:
        return address_of(self._memory)


@final
class TensorRTDenoiser(GpuDenoiser):
    """A bundle's compiled graphs on one GPU.

    Inputs and outputs stay in the same place from run to run, and the tape is written where the pullback reads it. So
    from the third run on a graph is one CUDA graph, launched at once.

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
        self.bundle, self.compiled = bundle, compiled
        self._library = _library_for(bundle, compiled, device)
        self._workspace = workspace or Workspace(device)
        compiled.check_files()
        self._messages = _messages_of(self._library)
        with device.working():
            self._runtime = _made(lambda: self._library.Runtime(self._messages))
            if self._runtime is None:
                raise self._refused(compiled.library)
            self._networks: dict[str, _Network] = {}
            for graph in self._needed(guided_by):
                self._network(graph)
        self._programs: dict[tuple[str, int, int, int], _Program] = {}
        self._fused: tuple[Misfit, _Fused | None] | None = None

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
                f"volume: expected slices of {self.compiled.height} × {self.compiled.width}, which "
                f"'{self.compiled.folder}' was compiled for, got {shape[0]}×{shape[1]}; compile it for this size with "
                f"{build_command(self.bundle, self.compiled.precision)}"
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

    def _guided(self, x: Any, sigma: float, misfit: Misfit, noise: Any) -> Guided | None:
        fused = self._fused_for(misfit, noise, len(x))
        if fused is None:
            return None
        self.check_slice(x.shape[1:])
        misfit.operator.check_image("x", x)
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

    def _fused_for(self, misfit: Misfit, noise: Any, n: int) -> _Fused | None:
        """The graph that holds this misfit's operator, with what it takes; None where there is none."""
        if self._fused is None or self._fused[0] is not misfit:
            self._fused = misfit, _fused_of(misfit, self.device)
            for key in [key for key in self._programs if key[0].startswith("guided")]:
                del self._programs[key]
        found = self._fused[1]
        if found is None or found.graph not in self.compiled.graphs or misfit.n_slices != n:
            return None
        if noise is not None:
            if isinstance(misfit.operator, MaskedFourier):
                # Published guidance re-noises thick slices alone.
                return None
            misfit.operator.check_data("noise", noise)
        # The numbers of thick slices that the graph was compiled for are not in the record.
        takes = self._network(found.graph).takes
        return found if all(takes(name, array.shape) for name, array in found.constants.items()) else None

    def _network(self, graph: str) -> _Network:
        if graph not in self._networks:
            content = self.compiled.read(graph)
            self._messages.errors.clear()
            engine = self._runtime.deserialize_cuda_engine(content)
            if engine is None:
                raise self._refused(str(self.compiled.file_of(graph)))
            self._networks[graph] = _Network(self._library, engine, self._messages)
        return self._networks[graph]

    def _refused(self, what: str) -> Unavailable:
        said = self._messages.errors[0] if self._messages.errors else "no reason given"
        remedy = "update the NVIDIA driver" if "insufficient" in said else "compile it again on this machine, with "
        if "insufficient" not in said:
            remedy += build_command(self.bundle, self.compiled.precision)
        if any(word in said.lower() for word in _FULL):
            remedy = "end other programs that use the GPU"
        return Unavailable("backend", f"{self.compiled.library} to load '{what}'", f"its refusal ({said})", remedy)

    def _program(
        self,
        graph: str,
        stack: tuple[int, int, int],
        given: dict[str, Any] | None = None,
        data_shape: tuple[int, ...] = (),
    ) -> _Program:
        key = (graph, *stack)
        if key not in self._programs:
            n, h, w = stack
            image, data = (n, 1, h, w), (n, *data_shape)
            shapes = {"x": image, "sigma": (n,), "cotangent": image, "measurement": data, "noise": data}
            self._programs[key] = _Program(self._network(graph), shapes, given or {}, self.device, self._workspace)
        return self._programs[key]

    def _is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, _OutOfMemoryError) or super()._is_out_of_memory(error)

    def _let_go(self) -> None:
        self._programs.clear()
        self._workspace.let_go()


class _OutOfMemoryError(RuntimeError):
    """TensorRT's own allocations found no memory."""


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


def _fused_of(misfit: Misfit, device: Device) -> _Fused | None:
    operator, library = misfit.operator, device.library
    graph, scale = graph_of(operator), library.full(1, misfit.scale, np.float32)
    if isinstance(operator, MaskedFourier) and graph:
        rows, columns = (library.asarray(dft_matrix(n)) for n in operator.slice_shape)
        measured = library.stack([misfit.measurement.real, misfit.measurement.imag], axis=1)
        constants = {"mask": operator.mask, "scale": scale, "dft_rows": rows, "dft_columns": columns}
        return _Fused(graph, constants, measured)
    if isinstance(operator, ThickSlices):
        constants = {"scale": scale, "mean": library.asarray(operator.matrix)}
        return _Fused(graph, constants, library.ascontiguousarray(misfit.measurement[:, None]))
    return None


class _Network:
    """A graph as the library has loaded it."""

    def __init__(self, library: ModuleType, engine: Any, messages: Any):
        self.library, self.engine, self.messages = library, engine, messages
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        mode = library.TensorIOMode
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == mode.INPUT]
        self.outputs = [name for name in names if engine.get_tensor_mode(name) == mode.OUTPUT]
        self.types = {name: _TYPES[engine.get_tensor_dtype(name).name] for name in names}

    def takes(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether an input may have this shape."""
        low, _, high = self.engine.get_tensor_profile_shape(name, 0)
        sizes = zip(low, shape, high, strict=True)
        return len(tuple(low)) == len(shape) and all(a <= size <= b for a, size, b in sizes)

    def context(self) -> Any:
        """A place to run the graph, without memory for its activations."""
        strategy = self.library.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(self.library, "DynamicShapesKernelSpecializationStrategy"):
            return self.engine.create_execution_context(strategy)
        # TensorRT for RTX compiles kernels for a shape while others already run, unless told to wait: a captured CUDA
        # graph would hold the others for ever.
        config = self.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        eager = self.library.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
        return self.engine.create_execution_context(config)


class _Program:
    """A graph at one shape, with its inputs and outputs where they stay.

    Parameters
    ----------
    network : _Network
    shapes : dict of str to tuple
        Of inputs; may name others.
    given : dict of str to array
        Inputs that somebody else has: they are read where they are.
    device : Device
    workspace : Workspace
    """

    def __init__(
        self,
        network: _Network,
        shapes: dict[str, tuple[int, ...]],
        given: dict[str, Any],
        device: Device,
        workspace: Workspace,
    ):
        self._network, self._device, self._workspace = network, device, workspace
        self._context = self._done(network.context(), "create a context")
        self.buffers: dict[str, Any] = {}
        for name in network.inputs:
            # Zeros, so that a batch that is not full computes with numbers.
            buffer = given[name] if name in given else device.library.zeros(shapes[name], network.types[name])
            self.buffers[name] = buffer
            self._done(self._context.set_input_shape(name, tuple(buffer.shape)), f"take {name} of {buffer.shape}")
        unclear = self._context.infer_shapes()
        if unclear:
            raise RuntimeError(f"{network.library.__name__}: shapes of {', '.join(unclear)} are not known")
        for name in network.outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            self.buffers[name] = device.library.empty(shape, network.types[name])
        for name, buffer in self.buffers.items():
            self._done(self._context.set_tensor_address(name, address_of(buffer)), f"take the address of {name}")
        self._n_bytes = max(1, int(self._context.update_device_memory_size_for_shapes()))
        self._generation: int | None = None
        # CuPy's: launched in the place of the run, once captured.
        self._graph: Any = None
        self._runs = 0

    def take(self, x: Any, sigma: float) -> None:
        """Put slices (n, h, w) and their noise level in place."""
        filled(self.buffers["x"], x[:, None])
        self.buffers["sigma"].fill(sigma)

    def run(self) -> dict[str, Any]:
        """Run on the current stream; return the buffers, whose outputs the next run overwrites."""
        self._workspace.reserve(self._n_bytes)
        if self._generation != self._workspace.generation:
            self._context.set_device_memory(self._workspace.address, self._workspace.n_bytes)
            # A captured graph has the old address in it.
            self._generation, self._runs, self._graph = self._workspace.generation, 0, None
        stream = self._device.library.cuda.get_current_stream()
        # The first run after a change loads and allocates what may not be captured.
        if self._runs == 1:
            self._graph = self._captured(stream)
        self._runs += 1
        if self._graph is not None:
            self._graph.launch(stream)
        else:
            self._done(self._context.execute_async_v3(stream.ptr), "run")
        return self.buffers

    def _captured(self, stream: Any) -> Any:
        """The run as a CUDA graph; None where it cannot be one."""
        can = getattr(self._context, "is_stream_capturable", lambda _: True)
        if stream.ptr in _DEFAULT_STREAMS or not can(stream.ptr):
            return None
        stream.begin_capture()
        try:
            ran = self._context.execute_async_v3(stream.ptr)
        finally:
            try:
                graph = stream.end_capture()
            except self._device.library.cuda.runtime.CUDARuntimeError as error:
                ran, graph = False, None
                log.info("a graph of %s is launched kernel by kernel: %s", self._network.library.__name__, error)
        return graph if ran else None

    def _done(self, result: Any, what: str) -> Any:
        """Return what the library did; raise if it could not."""
        if result:
            return result
        errors = self._network.messages.errors
        said = errors[-1] if errors else "no reason given"
        errors.clear()
        full = any(word in said.lower() for word in _FULL)
        kind = _OutOfMemoryError if full else RuntimeError
        raise kind(f"{self._network.library.__name__} could not {what}: {said}")


def _library_for(bundle: Bundle, compiled: Compiled, device: Device) -> ModuleType:
    """Import the library that compiled these graphs, checked to be able to run them here."""
    package = _PACKAGES[compiled.library]
    try:
        library = importlib.import_module(compiled.library)
    except (ImportError, OSError) as error:
        raise Unavailable(
            "backend", f"the library {compiled.library}", "none that can be imported", f"`pip install {package}`"
        ) from error
    again = f"compile again with {build_command(bundle, compiled.precision)}"
    if library.__version__ != compiled.library_version:
        raise Unavailable(
            "backend",
            f"{compiled.library} {compiled.library_version}, which compiled '{compiled.folder}'",
            f"version {library.__version__}",
            f"`pip install {package}=={compiled.library_version}`, or {again}",
        )
    if compiled.platform not in (ANY_PLATFORM, device.platform):
        raise Unavailable(
            "backend",
            f"graphs for the GPU at hand ({device.platform})",
            f"those in '{compiled.folder}' for {compiled.platform}",
            again,
        )
    return library


def _messages_of(library: Any) -> Any:
    """A logger that keeps errors, for messages of our own, and passes the rest on."""
    severity = library.ILogger.Severity

    class Messages(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, level: Any, message: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                self.errors.append(message)
            log.debug("%s: %s", library.__name__, message)

    return Messages()


def _made(make: Any) -> Any:
    """What a constructor of the library returns; None where it fails, as it may without a driver."""
    try:
        return make()
    except (TypeError, RuntimeError):
        return None
