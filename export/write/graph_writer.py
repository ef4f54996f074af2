"""Writes nodes of a traced graph as ONNX: their values, the sizes that depend on the inputs', constants and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import sympy
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx
from torch.utils._sympy.functions import FloorDiv

from export.write.weights import WeightStore

#: Constants up to this many numbers are computed at export; larger ones stay operators on the shared weights, which the
#: runtime folds when it loads the graph, so that a weight and its flipped twin need space once.
_FOLD_UP_TO = 4096
#: (writer, node, the node's arguments) to the name of the value that was written.
Translation = Callable[..., str]


class GraphWriter:
    """Translates one set of nodes; `names` maps fx nodes to ONNX value names."""

    def __init__(self, module: fx.GraphModule, weights: WeightStore, translations: Mapping[Any, Translation]):
        self.module, self.weights, self.translations = module, weights, translations
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
            # Sizes that depend on the inputs' are no constants.
            and all(n in self.constants for n in node.all_input_nodes)
            and sum(self.constants[t].numel() for t in tensors) <= _FOLD_UP_TO
        ):
            args = fx.map_arg(node.args, lambda a: self.constants[a])
            self.constants[node] = node.target(*args, **node.kwargs)  # type: ignore[operator]
            return
        if not node.all_input_nodes:
            self.constants[node] = node.target(*node.args, **node.kwargs)  # type: ignore[operator]
            return
        translate = self.translations.get(node.target)  # type: ignore[arg-type]
        if translate is None:
            raise NotImplementedError(f"no ONNX translation of {node.target}, needed by {node.format_node()}")
        self.names[node] = translate(self, node, *node.args, **node.kwargs)
