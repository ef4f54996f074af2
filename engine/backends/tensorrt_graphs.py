"""Graphs that TensorRT compiled: loading one, and running it at one shape with its memory in fixed places."""

from __future__ import annotations

import importlib
import logging
from types import ModuleType
from typing import Any

import numpy as np

from engine.backends.bundle import Bundle
from engine.backends.compiled import ANY_PLATFORM, Compiled, build_command
from engine.backends.gpu import filled
from engine.device import Device, address_of
from engine.errors import Unavailable

log = logging.getLogger("engine")

_PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx-cu13"}
#: Types of inputs and outputs. Nothing reads the tape between two graphs: any type of its size will do.
_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "BF16": np.uint16, "INT32": np.int32, "INT64": np.int64}
#: How TensorRT's messages say that memory has run out.
FULL = ("out of memory", "outofmemory", "cudaerror 2:", "failed to allocate")
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


class OutOfMemoryError(RuntimeError):
    """TensorRT's own allocations found no memory."""


class Network:
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
        known = tuple(self.engine.get_tensor_shape(name))
        # Sizes that are fixed have no range, others are -1.
        low, high = known, known
        if -1 in known:
            low, _, high = (tuple(dims) for dims in self.engine.get_tensor_profile_shape(name, 0))
        return len(known) == len(shape) and all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))

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


class Program:
    """A graph at one shape, with its inputs and outputs where they stay.

    Parameters
    ----------
    network : Network
    shapes : dict of str to tuple
        Of inputs; may name others.
    given : dict of str to array
        Inputs that somebody else has: they are read where they are.
    device : Device
    workspace : Workspace
    """

    def __init__(
        self,
        network: Network,
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
        full = any(word in said.lower() for word in FULL)
        kind = OutOfMemoryError if full else RuntimeError
        raise kind(f"{self._network.library.__name__} could not {what}: {said}")


def library_for(bundle: Bundle, compiled: Compiled, device: Device) -> ModuleType:
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


def messages_of(library: Any) -> Any:
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


def first_of(messages: Any) -> str:
    """The first error that a logger of `messages_of` has kept, in one line."""
    return " ".join(messages.errors[0].split()) if messages.errors else "no reason given"


def made(make: Any) -> Any:
    """What a constructor of the library returns; None where it fails, as it may without a driver."""
    try:
        return make()
    except (TypeError, RuntimeError):
        return None
