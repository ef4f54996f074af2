"""A stand-in for TensorRT: "compiled" graphs name the ONNX files that they came from, and run on the host.

It takes addresses, shapes and memory as TensorRT does, and complains where TensorRT's results would be undefined. A
graph that is being captured records what it was told, and a replay does that, whatever has been said since.
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import json
import types
from pathlib import Path

import numpy as np
import onnxruntime as ort

from engine.backends.bundle import Bundle
from engine.backends.compiled import FOLDER, RECORD, identity_of
from tests.devices import EmulatedStream

VERSION = "11.0.0"
PROFILE = {"batch": [1, 4, 8], "height": [4, 16, 64], "width": [4, 16, 64]}
FUSED = ("guided_fourier", "guided_thick_rows", "guided_thick_columns")
_IMAGE = ("x", "x0", "pullback", "cotangent")


def compile_as_fake(bundle: Bundle, /, library="tensorrt", precision="fp32", platform="sm90", fused=FUSED, **changes):
    """Write a folder of "compiled" graphs below a bundle, with changes to its record; return it."""
    folder = bundle.folder / FOLDER / f"{library}-{precision}-{platform}"
    folder.mkdir(parents=True)
    graphs = {}
    for graph in ("denoise", "linearize", "pullback", *fused):
        content = json.dumps({"graph": graph, "bundle": str(bundle.folder)}).encode()
        (folder / f"{graph}.engine").write_bytes(content)
        graphs[graph] = {"file": f"{graph}.engine", "sha256": hashlib.sha256(content).hexdigest()}
    record = {
        "format": 1,
        "library": library,
        "library_version": VERSION,
        "precision": precision,
        "platform": platform,
        "bundle": identity_of(bundle),
        "profile": PROFILE,
        "graphs": graphs,
    }
    (folder / RECORD).write_text(json.dumps(record | changes))
    return folder


class _Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class _Type(enum.Enum):
    FLOAT, HALF, BF16 = range(3)


class _Mode(enum.Enum):
    INPUT, OUTPUT = range(2)


class FakeTensorRT(types.ModuleType):
    """The module. `runs` counts executions of each graph and `replays` those out of a CUDA graph; `largest` is the
    largest side of matrices in a profile; `room` the size
    of the largest batch that its own allocations find memory for."""

    def __init__(self, name="tensorrt"):
        super().__init__(name)
        self.__version__ = VERSION
        self.runs, self.replays, self.room, self.capturable = {}, {}, None, True
        self.largest = 64
        self.refusal = None
        self.TensorIOMode, self.DataType = _Mode, _Type
        self.ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="user")

        class ILogger:
            Severity = _Severity

        self.ILogger = ILogger
        self.Runtime = lambda logger: _Runtime(self, logger)


class _Runtime:
    def __init__(self, module, logger):
        self.module, self.logger = module, logger

    def deserialize_cuda_engine(self, content):
        if self.module.refusal:
            self.logger.log(_Severity.ERROR, self.module.refusal)
            return None
        return _Engine(self.module, self.logger, **json.loads(content))


class _Engine:
    def __init__(self, module, logger, graph, bundle):
        self.module, self.logger, self.graph = module, logger, graph

        def session(name):
            return ort.InferenceSession(str(Path(bundle) / f"{name}.onnx"), providers=["CPUExecutionProvider"])

        if graph in FUSED:
            self.forward, self.backward = session("linearize"), session("pullback")
            self.inputs = ["x", "sigma", "measurement", "scale"]
            self.inputs += ["mask", "dft_rows", "dft_columns"] if graph == "guided_fourier" else ["noise", "mean"]
            self.outputs = ["x0", "pullback", "squared", "plain"]
        else:
            self.forward, self.backward = session(graph), None
            self.inputs = [i.name for i in self.forward.get_inputs()]
            self.outputs = [o.name for o in self.forward.get_outputs()]
        self.names = self.inputs + self.outputs
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, i):
        return self.names[i]

    def get_tensor_mode(self, name):
        return _Mode.INPUT if name in self.inputs else _Mode.OUTPUT

    def get_tensor_dtype(self, name):
        return _Type.FLOAT

    def get_tensor_shape(self, name):
        return {"mask": (-1, -1), "mean": (-1, -1), "scale": (1,)}.get(name, (2, -1, -1))

    def get_tensor_profile_shape(self, name, profile):
        known = self.get_tensor_shape(name)
        # TensorRT does not say what it returns for sizes that are fixed.
        assert -1 in known
        return tuple(tuple(size if n == -1 else n for n in known) for size in (1, 2, self.module.largest))

    def create_execution_context(self, strategy):
        assert strategy == "user"
        return _Context(self)

    def compute(self, values):
        """Outputs by name."""
        if self.backward is None:
            return dict(zip(self.outputs, self.forward.run(self.outputs, values), strict=True))
        names = [o.name for o in self.forward.get_outputs()]
        taped = dict(zip(names, self.forward.run(names, {k: values[k] for k in ("x", "sigma")}), strict=True))
        x0 = taped.pop("x0")
        cotangent, squared, plain = (_fourier if self.graph == "guided_fourier" else _thick)(x0, values, self.graph)
        (pullback,) = self.backward.run(["pullback"], taped | {"cotangent": cotangent.astype(np.float32)})
        return {"x0": x0, "pullback": pullback, "squared": squared, "plain": plain}


def _fourier(x0, values, _):
    rows, columns = (values[k][0] + 1j * values[k][1] for k in ("dft_rows", "dft_columns"))
    y = values["measurement"][:, 0] + 1j * values["measurement"][:, 1]
    fidelity = values["mask"] * (rows @ x0[:, 0] @ columns.T) - y
    residual = values["scale"] * fidelity
    back = rows.conj().T @ (values["scale"] * values["mask"] * residual) @ columns.conj()
    return back.real[:, None], *((abs(r) ** 2).sum(axis=(1, 2)) for r in (residual, fidelity))


def _thick(x0, values, graph):
    mean, rows = values["mean"], graph == "guided_thick_rows"
    fidelity = (mean @ x0 if rows else x0 @ mean.T) - values["measurement"]
    residual = values["scale"] * fidelity - values["noise"]
    back = values["scale"] * (mean.T @ residual if rows else residual @ mean)
    return back, *((r**2).sum(axis=(1, 2, 3)) for r in (residual, fidelity))


class _Context:
    def __init__(self, engine):
        self.engine, self.shapes, self.addresses, self.memory = engine, {}, {}, None

    def set_input_shape(self, name, shape):
        low, _, high = zip(*(PROFILE[k] for k in ("batch", "height", "width")), strict=True)
        if name == "x" and not all(a <= s <= b for a, s, b in zip(low, (shape[0], *shape[2:]), high, strict=True)):
            self._say(f"shape {shape} outside the profile")
            return False
        self.shapes[name] = shape
        return True

    def infer_shapes(self):
        return [name for name in self.engine.inputs if name not in self.shapes]

    def get_tensor_shape(self, name):
        return self._outputs()[name].shape

    def _outputs(self):
        return self.engine.compute({name: np.ones(shape, np.float32) for name, shape in self.shapes.items()})

    def set_tensor_address(self, name, address):
        assert name in self.engine.names
        self.addresses[name] = address
        return True

    def update_device_memory_size_for_shapes(self):
        # Others for every graph, so that one workspace has to serve them all.
        return 100 * len(self.engine.graph) * next(iter(self.shapes.values()))[0]

    def set_device_memory(self, address, size):
        assert size >= self.update_device_memory_size_for_shapes()
        self.memory = address, size

    def is_stream_capturable(self, stream):
        return self.engine.module.capturable

    def execute_async_v3(self, stream):
        module, graph = self.engine.module, self.engine.graph
        n = next(iter(self.shapes.values()))[0]
        if module.room is not None and n > module.room:
            self._say("Error Code 1: Cuda Runtime (out of memory)")
            return False
        told = dict(self.addresses), dict(self.shapes), self.memory
        capturing = [s for s in EmulatedStream.opened if s.ptr == stream and s.captured is not None]
        if not capturing:
            module.runs[graph] = module.runs.get(graph, 0) + 1
            self._run(*told)
            return True

        def replay():
            module.replays[graph] = module.replays.get(graph, 0) + 1
            # Undefined in CUDA: the graph has the addresses of when it was captured.
            assert told == (self.addresses, self.shapes, self.memory), "a stale CUDA graph"
            self._run(*told)

        capturing[0].captured.append(replay)
        return True

    def _run(self, addresses, shapes, memory):
        assert set(addresses) == set(self.engine.names)
        address, size = memory
        ctypes.memset(address, 0xFF, size)
        values = {name: _at(addresses[name], shape).copy() for name, shape in shapes.items()}
        for name, value in self.engine.compute(values).items():
            _at(addresses[name], value.shape)[...] = value

    def _say(self, text):
        self.engine.logger.log(_Severity.ERROR, text)


def _at(address, shape):
    """The float32 array at an address."""
    n = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * n).from_address(address)).reshape(shape)
