"""Writes a traced graph of core ATen operators as ONNX, dynamic in batch, height and width.

The graphs hold only what `export.trace.lowering` leaves, some thirty operators, so that a direct translation is short.
It keeps one weights file for several graphs, and can cut one traced program into pieces.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import sympy
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx
from torch.utils._sympy.functions import FloorDiv

aten = torch.ops.aten

OPSET = 20
IR_VERSION = 10
#: Constants up to this many numbers are computed at export; larger ones stay operators on the shared weights, which the
#: runtime folds when it loads the graph, so that a weight and its flipped twin need space once.
_FOLD_UP_TO = 4096


class WeightStore:
    """The weights file that several graphs share: every distinct tensor once, larger ones aligned to pages."""

    def __init__(self, path: Path):
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        self._size = 0
        self._stream = path.open("wb")

    def add(self, array: np.ndarray) -> tuple[int, int]:
        """Return offset and length, in bytes, of the stored array."""
        data = np.ascontiguousarray(array).tobytes()
        key = hashlib.sha256(data).hexdigest()
        if key not in self._places:
            gap = -self._size % (4096 if len(data) >= 4096 else 64)
            self._stream.write(b"\0" * gap + data)
            self._places[key] = (self._size + gap, len(data))
            self._size += gap + len(data)
        return self._places[key]

    def close(self) -> None:
        self._stream.close()


class _Writer:
    """Translates one set of nodes; `names` maps fx nodes to ONNX value names."""

    def __init__(self, module: fx.GraphModule, weights: WeightStore):
        self.module, self.weights = module, weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.names: dict[fx.Node, str] = {}
        self.constants: dict[fx.Node, Tensor] = {}
        self.dims: dict[str, str] = {}
        self.symbols: dict[sympy.Symbol, tuple[str, int]] = {}
        self.output_names: set[str] = set()

    # --- values

    def emit(self, op_type: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(
            helper.make_node(op_type, list(inputs), [name], name=f"{op_type}_{len(self.nodes)}", **attributes)
        )
        return name

    def name_output(self, value: str, name: str) -> None:
        """Make a computed value an output; an Identity, which copies, only where the value cannot take the name."""
        producer = next((n for n in self.nodes if value in n.output), None)
        if producer is None or value in self.output_names:
            self.emit("Identity", [value], name)
            self.output_names.add(name)
            return
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, other in enumerate(names):
                    if other == value:
                        names[i] = name
        self.names.update({node: name for node, other in self.names.items() if other == value})
        self.output_names.add(name)

    def constant(self, array: np.ndarray, name: str | None = None) -> str:
        """Name of an initializer with these values; small ones are stored once, in the graph, the others in the
        weights."""
        array = np.asarray(array)
        name = (
            name
            or f"const_{hashlib.sha256(array.tobytes() + str((array.dtype, array.shape)).encode()).hexdigest()[:12]}"
        )
        if name in self.initializers:
            return name
        if array.size <= 64:
            self.initializers[name] = numpy_helper.from_array(array, name)
            return name
        offset, length = self.weights.add(array)
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.weights.path.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers[name] = tensor
        return name

    def ints(self, values: Iterable[int]) -> str:
        return self.constant(np.array(list(values), dtype=np.int64))

    def dim(self, size: Any) -> str:
        """Name of an int64 vector of length one that holds a size, which may depend on the inputs' shapes."""
        expression = sympy.sympify(size.node.expr if isinstance(size, torch.SymInt) else size)
        if expression.is_Integer:
            return self.ints([int(expression)])
        key = str(expression)
        if key not in self.dims:
            self.dims[key] = self._emit_dim(expression)
        return self.dims[key]

    def _emit_dim(self, e: Any) -> str:
        name = f"dim_{len(self.dims)}"
        if e.is_Symbol:
            source, axis = self.symbols[e]
            return self.emit("Shape", [source], name, start=axis, end=axis + 1)
        binary = {sympy.Add: "Add", sympy.Mul: "Mul", FloorDiv: "Div"}
        op_type = next((v for k, v in binary.items() if isinstance(e, k)), None)
        if op_type is None:
            raise NotImplementedError(f"size expression {e} of type {type(e).__name__}")
        total = self.dim(e.args[0])
        for part in e.args[1:]:
            total = self.emit(op_type, [total, self.dim(part)], f"{name}_{len(self.nodes)}")
        return total

    def shape(self, sizes: Sequence[Any]) -> str:
        """Name of an int64 vector with these sizes."""
        if all(isinstance(s, int) for s in sizes):
            return self.ints(sizes)
        parts = [self.dim(s) for s in sizes]
        key = f"shape({','.join(parts)})"
        if key not in self.dims:
            self.dims[key] = self.emit("Concat", parts, f"shape_{len(self.dims)}", axis=0)
        return self.dims[key]

    def value(self, argument: Any) -> str:
        """Name of an operand: another node's value, or a number."""
        if not isinstance(argument, fx.Node):
            return self.constant(np.array(argument, dtype=np.float32))
        if argument in self.names:
            return self.names[argument]
        if argument in self.constants:
            tensor = self.constants[argument]
            stored = argument.op == "get_attr"
            self.names[argument] = self.constant(tensor.numpy(), f"w_{argument.target}" if stored else None)
            return self.names[argument]
        raise KeyError(f"{argument} is neither an input nor computed")

    # --- nodes

    def run(self, node: fx.Node) -> None:
        """Translate one node, unless it is a size or a constant."""
        is_constant = node.op == "get_attr"
        if node in self.names or not (is_constant or isinstance(node.meta.get("val"), Tensor)):
            return
        if is_constant:
            attribute = self.module
            for part in str(node.target).split("."):
                attribute = getattr(attribute, part)
            self.constants[node] = attribute.detach()  # type: ignore[assignment, operator]
            return
        tensors = [a for a in node.all_input_nodes if isinstance(a.meta.get("val"), Tensor) or a.op == "get_attr"]
        if (
            tensors
            and all(t in self.constants for t in tensors)
            and sum(self.constants[t].numel() for t in tensors) <= _FOLD_UP_TO
        ):
            args = fx.map_arg(node.args, lambda a: self.constants[a])
            self.constants[node] = node.target(*args, **node.kwargs)  # type: ignore[operator]
            return
        translate = _TRANSLATIONS.get(node.target)  # type: ignore[arg-type]
        if translate is None:
            raise NotImplementedError(f"no ONNX translation of {node.target}, needed by {node.format_node()}")
        self.names[node] = translate(self, node, *node.args, **node.kwargs)


Translation = Callable[..., str]
_TRANSLATIONS: dict[Any, Translation] = {}


def _translates(*targets: Any) -> Callable[[Translation], Translation]:
    def register(function: Translation) -> Translation:
        _TRANSLATIONS.update(dict.fromkeys(targets, function))
        return function

    return register


for _target, _op_type in {
    aten.mul.Tensor: "Mul", aten.add.Tensor: "Add", aten.sub.Tensor: "Sub", aten.div.Tensor: "Div", aten.bmm.default:
    "MatMul", aten.sigmoid.default: "Sigmoid", aten.log.default: "Log", aten.sin.default: "Sin", aten.cos.default:
    "Cos", aten.neg.default: "Neg", aten.mm.default: "MatMul",
}.items():  # fmt: skip
    _TRANSLATIONS[_target] = lambda w, node, *args, _op_type=_op_type: w.emit(
        _op_type, [w.value(a) for a in args], node.name
    )


@_translates(aten.clone.default, aten.alias.default, aten.detach.default)
def _same(w: _Writer, node: fx.Node, x: fx.Node, **_: Any) -> str:
    return w.value(x)


@_translates(aten.rsub.Scalar)
def _rsub(w: _Writer, node: fx.Node, x: fx.Node, other: float) -> str:
    return w.emit("Sub", [w.value(other), w.value(x)], node.name)


@_translates(aten.rsqrt.default)
def _rsqrt(w: _Writer, node: fx.Node, x: fx.Node) -> str:
    return w.emit("Reciprocal", [w.emit("Sqrt", [w.value(x)], f"{node.name}_root")], node.name)


@_translates(
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.unsqueeze.default, aten.squeeze.dims
)
def _reshape(w: _Writer, node: fx.Node, x: fx.Node, *_: Any) -> str:
    old, new = list(x.meta["val"].shape), list(node.meta["val"].shape)
    if len(old) == len(new) and all(str(a) == str(b) for a, b in zip(old, new, strict=True)):
        return w.value(x)
    # 0 keeps a size and one -1 is implied: most shapes need no arithmetic at run time.
    sizes = [0 if i < len(old) and str(s) == str(old[i]) and not isinstance(s, int) else s for i, s in enumerate(new)]
    unknown = [i for i, s in enumerate(sizes) if not isinstance(s, int)]
    if len(unknown) == 1:
        sizes[unknown[0]] = -1
    shape = w.shape(sizes if len(unknown) <= 1 else new)
    return w.emit("Reshape", [w.value(x), shape], node.name)


@_translates(aten.expand.default)
def _expand(w: _Writer, node: fx.Node, x: fx.Node, *_: Any) -> str:
    old, new = x.meta["val"].shape if "val" in x.meta else w.constants[x].shape, node.meta["val"].shape
    if len(old) == len(new) and all(str(a) == str(b) for a, b in zip(old, new, strict=True)):
        return w.value(x)
    return w.emit("Expand", [w.value(x), w.shape(list(new))], node.name)


@_translates(aten.permute.default)
def _permute(w: _Writer, node: fx.Node, x: fx.Node, axes: list[int]) -> str:
    return w.emit("Transpose", [w.value(x)], node.name, perm=[a % len(axes) for a in axes])


@_translates(aten.flip.default)
def _flip(w: _Writer, node: fx.Node, x: fx.Node, axes: list[int]) -> str:
    n = len(axes)
    bounds = [w.ints([-1] * n), w.ints([-(2**31)] * n), w.ints(axes), w.ints([-1] * n)]
    return w.emit("Slice", [w.value(x), *bounds], node.name)


@_translates(aten.slice.Tensor)
def _slice(
    w: _Writer, node: fx.Node, x: fx.Node, axis: int = 0, start: Any = 0, end: Any = 2**63 - 1, step: int = 1
) -> str:
    bounds = [w.ints([start or 0]), w.ints([2**63 - 1 if end is None else end]), w.ints([axis]), w.ints([step])]
    return w.emit("Slice", [w.value(x), *bounds], node.name)


@_translates(aten.cat.default)
def _cat(w: _Writer, node: fx.Node, parts: list[fx.Node], axis: int = 0) -> str:
    return w.emit("Concat", [w.value(p) for p in parts], node.name, axis=axis)


@_translates(aten.mean.dim, aten.sum.dim_IntList)
def _reduce(w: _Writer, node: fx.Node, x: fx.Node, axes: list[int], keepdim: bool = False, **_: Any) -> str:
    op_type = "ReduceMean" if node.target == aten.mean.dim else "ReduceSum"
    return w.emit(op_type, [w.value(x), w.ints(axes)], node.name, keepdims=int(keepdim))


@_translates(aten._softmax.default)
def _softmax(w: _Writer, node: fx.Node, x: fx.Node, axis: int, _half: bool) -> str:
    return w.emit("Softmax", [w.value(x)], node.name, axis=axis)


@_translates(aten.addmm.default)
def _addmm(w: _Writer, node: fx.Node, bias: fx.Node, x: fx.Node, weight: fx.Node) -> str:
    return w.emit("Gemm", [w.value(x), w.value(weight), w.value(bias)], node.name)


@_translates(torch.ops.tpdm.double_pixels.default)
def _double_pixels(w: _Writer, node: fx.Node, x: fx.Node) -> str:
    scales = w.constant(np.array([1, 1, 2, 2], dtype=np.float32))
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return w.emit("Resize", [w.value(x), "", scales], node.name, **attributes)


@_translates(aten.convolution.default)
def _convolution(
    w: _Writer, node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, output_padding: list[Any], groups: int,
) -> str:  # fmt: skip
    inputs = [w.value(x), w.value(weight)] + ([w.value(bias)] if bias is not None else [])
    attributes: dict[str, Any] = {
        "strides": stride,
        "pads": [*padding, *padding],
        "dilations": dilation,
        "group": groups,
    }
    attributes["kernel_shape"] = [int(s) for s in weight.meta["val"].shape[2:]]
    if transposed:
        attributes["output_padding"] = [_hint(p) for p in output_padding]
    return w.emit("ConvTranspose" if transposed else "Conv", inputs, node.name, **attributes)


def _hint(size: Any) -> int:
    """The value of a size that is the same for every image the divisor admits, such as the rest that a stride
    leaves."""
    value = size.meta["val"] if isinstance(size, fx.Node) else size
    return int(value.node.hint) if isinstance(value, torch.SymInt) else int(value)


def write_onnx(
    module: fx.GraphModule,
    path: Path,
    weights: WeightStore,
    inputs: dict[str, fx.Node],
    outputs: dict[str, fx.Node],
) -> onnx.ModelProto:
    """Write the part of a traced graph that computes `outputs` from `inputs`.

    Parameters
    ----------
    module : GraphModule
        Traced with symbolic shapes; weights are attributes.
    path : path
        The ``.onnx`` file; weights go beside it into ``weights.path``.
    weights : WeightStore
    inputs, outputs : dict of str to node
        ONNX names and the nodes they stand for. A cut inside the graph gives both an inner node.

    Returns
    -------
    ModelProto
        As written, without the weights.
    """
    writer = _Writer(module, weights)
    for name, node in inputs.items():
        writer.names[node] = name
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                writer.symbols.setdefault(size.node.expr, (name, axis))
    needed = ancestors(outputs.values(), set(inputs.values()))
    for node in module.graph.nodes:
        if node in needed and node.op in ("call_function", "get_attr") and node.target is not operator.getitem:
            writer.run(node)
    for name, node in outputs.items():
        writer.name_output(writer.value(node), name)

    def info(name: str, node: fx.Node) -> onnx.ValueInfoProto:
        sizes = [s if isinstance(s, int) else str(s.node.expr) for s in node.meta["val"].shape]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)

    graph = helper.make_graph(
        writer.nodes, path.stem, [info(k, v) for k, v in inputs.items()], [info(k, v) for k, v in outputs.items()],
        list(writer.initializers.values()),
    )  # fmt: skip
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="tpdm"
    )
    path.write_bytes(model.SerializeToString())
    return model


def ancestors(nodes: Iterable[fx.Node], stop: set[fx.Node]) -> set[fx.Node]:
    """Every tensor that `nodes` depend on, themselves included, not going beyond `stop`.

    Sizes are left out: they are computed from the inputs' shapes, wherever the traced program took them from.
    """
    seen: set[fx.Node] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            if node not in stop:
                todo.extend(
                    n for n in node.all_input_nodes if n.op == "get_attr" or isinstance(n.meta.get("val"), Tensor)
                )
    return seen
