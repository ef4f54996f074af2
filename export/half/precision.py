"""Rewrites a bundle's float32 graphs to half precision, the precision of every operator written into the graph.

Convolutions, matrix products and element-wise operators on whole feature maps become fp16 or bf16. These stay float32:
single-channel images, whose range is that of σ, with x̂₀ = x + σ·raw and the convolutions that read or write them; all
that has no image axes (the embedding of σ, statistics and factors of normalisation); sums and means; softmax. Inputs
and outputs are float32, except the tape.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
#: Element types of the precisions that need another graph.
HALF_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
#: Largest finite numbers of these types.
LARGEST = {"fp16": 65504.0, "bf16": 3.3895e38}

#: Operators whose result has the type of their data, by how many inputs are data.
MOVING = {
    "Reshape": 1, "Transpose": 1, "Slice": 1, "Resize": 1, "Expand": 1, "Gather": 1, "Identity": 1, "Squeeze": 1,
    "Unsqueeze": 1, "Concat": None,
}  # fmt: skip
#: Sums over many terms, and what multiplies errors: float32 inside and out.
_SUMMING = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceSumSquare", "GlobalAveragePool", "Softmax", "Sqrt",
    "InstanceNormalization", "GroupNormalization", "LayerNormalization", "Reciprocal", "Log", "Exp", "Pow", "Sin",
    "Cos",
)  # fmt: skip


@dataclass(frozen=True)
class Values:
    """What a run of a float32 graph showed of its values, by name; whole numbers and weights are not among them.

    Parameters
    ----------
    image_sized : set of str
        Values whose shape depends on the sides of the image, single-channel images excepted.
    largest : dict of str to float
        Largest magnitude, weights included.
    """

    image_sized: frozenset[str]
    largest: Mapping[str, float]


def load(path: Path) -> ModelProto:
    """Read a graph with its weights, which are then part of the model.

    A protobuf message holds 2 GB: networks up to 500 million parameters.
    """
    import onnx

    return onnx.load(path)


def convert(
    model: ModelProto,
    precision: str,
    values: Values,
    float32_layers: Collection[str] = (),
    input_types: Mapping[str, int] | None = None,
) -> ModelProto:
    """Return the graph with the operators that the module's rule names in half precision.

    Parameters
    ----------
    model : ModelProto
        float32, with its weights.
    precision : "fp16" or "bf16"
    values : Values
        Of this graph.
    float32_layers : collection of str
        Nodes, by the name of their first output, that stay float32 beyond the rule.
    input_types : dict of str to int, optional
        ONNX element types of inputs that are not float32: the tape's, as `output_types` of the graph that makes it.

    Returns
    -------
    ModelProto
        Every operator has inputs and outputs of one type, with a Cast wherever it changes; a weight is stored in the
        types in which it is used. Names of values are kept.
    """
    writer = _Converter(model.graph, HALF_TYPES[precision], values, frozenset(float32_layers), dict(input_types or {}))
    graph = writer.convert()
    # Convolutions in bf16 are part of ONNX since its operator set 22, whose other operators ours do not see change.
    opset = max(model.opset_import[0].version, 22 if precision == "bf16" else 0)
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=model.ir_version,
        producer_name=model.producer_name,
    )


def output_types(model: ModelProto) -> dict[str, int]:
    """ONNX element types of a graph's outputs."""
    return {o.name: o.type.tensor_type.elem_type for o in model.graph.output}


class _Converter:
    """Rewrites one graph, node by node; a value exists in its own type and, where asked for, in the other."""

    def __init__(
        self, graph: GraphProto, half: int, values: Values, float32_layers: frozenset[str], input_types: dict[str, int]
    ):
        self.graph, self.half, self.values, self.float32_layers = graph, half, values, float32_layers
        self.suffix = "_fp16" if half == TensorProto.FLOAT16 else "_bf16"
        self.weights = {t.name: t for t in graph.initializer}
        self.types = {i.name: input_types.get(i.name, FLOAT) for i in graph.input}
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.available: dict[tuple[str, int], str] = {}
        #: Operators that only move weights: written in the type in which their result is used, once that is known.
        self.moved_weights: dict[str, NodeProto] = {}
        summed = {v for n in graph.node if n.op_type in _SUMMING for v in n.input}
        sums = {v for n in graph.node if n.op_type in _SUMMING for v in n.output}
        self.statistics = {
            n.output[0]
            for n in graph.node
            # What is summed next, and what a mean is subtracted from: squares and cancellations.
            if n.op_type not in MOVING and (summed & set(n.output) or (n.op_type == "Sub" and sums & set(n.input)))
        }

    def convert(self) -> GraphProto:
        for node in self.graph.node:
            self._node(node)
        inputs = [self._info(i, self.types[i.name]) for i in self.graph.input]
        outputs = [self._output(o) for o in self.graph.output]
        graph: GraphProto = helper.make_graph(
            self.nodes, self.graph.name, inputs, outputs, list(self.initializers.values())
        )
        return graph

    def _info(self, old: ValueInfoProto, element_type: int) -> ValueInfoProto:
        info = ValueInfoProto()
        info.CopyFrom(old)
        info.type.tensor_type.elem_type = element_type
        return info

    def _output(self, old: ValueInfoProto) -> ValueInfoProto:
        """Images leave in float32; feature maps, which are the tape, in half, unless a fall-back kept them."""
        name = old.name
        kept = name in self.float32_layers or name not in self.values.image_sized
        wanted = FLOAT if kept else self.half
        if self.types[name] != wanted:
            inner = f"{name}_inner"
            for node in self.nodes:
                node.input[:] = [inner if v == name else v for v in node.input]
                node.output[:] = [inner if v == name else v for v in node.output]
            self.nodes.append(helper.make_node("Cast", [inner], [name], name=f"{name}_Cast", to=wanted))
        return self._info(old, wanted)

    def _node(self, node: NodeProto) -> None:
        name = node.output[0]
        data = [v for v in node.input if v and self._is_float(v)]
        if node.op_type not in MOVING:
            if name not in self.values.largest:
                # Whole numbers: shapes and arithmetic on them.
                self._emit(node, [self._native(v) for v in node.input], None)
                return
            wanted = self._type_of(node)
            self._emit(node, [self._as(v, wanted) if v in data else self._native(v) for v in node.input], wanted)
            return
        n_data = MOVING[node.op_type]
        moved = list(node.input[:n_data])
        if not all(self._is_float(v) for v in moved):
            self._emit(node, [self._native(v) for v in node.input], None)
        elif all(self._is_weight(v) for v in moved):
            self.moved_weights[name] = node
        else:
            types = [self.types[v] for v in moved if not self._is_weight(v)]
            wanted = self.half if self.half in types and name not in self.float32_layers else FLOAT
            self._emit(node, [self._as(v, wanted) if v in moved else self._native(v) for v in node.input], wanted)

    def _type_of(self, node: NodeProto) -> int:
        name = node.output[0]
        if name in self.float32_layers or node.op_type in _SUMMING or name in self.statistics:
            return FLOAT
        if name not in self.values.image_sized:
            return FLOAT
        if node.op_type == "ConvTranspose" and self.half == TensorProto.BFLOAT16:
            # TensorRT for RTX 1.7 has none in bf16.
            return FLOAT
        if node.op_type in ("Conv", "ConvTranspose"):
            # A convolution that reads a single-channel image.
            image = node.input[0]
            return self.half if image in self.values.image_sized else FLOAT
        return self.half

    def _is_weight(self, value: str) -> bool:
        return value in self.weights or value in self.moved_weights

    def _is_float(self, value: str) -> bool:
        if value in self.weights:
            return bool(self.weights[value].data_type == FLOAT)
        return value in self.moved_weights or value in self.types

    def _native(self, value: str) -> str:
        """Name of a value in its own type; weights are float32 by birth."""
        return self._as(value, FLOAT) if self._is_weight(value) and self._is_float(value) else self._kept(value)

    def _kept(self, value: str) -> str:
        if value in self.weights:
            self.initializers[value] = self.weights[value]
        return value

    def _as(self, value: str, wanted: int) -> str:
        """Name of a value in a type, converted where it does not exist yet."""
        if not self._is_weight(value) and self.types[value] == wanted:
            return value
        key = (value, wanted)
        if key not in self.available:
            self.available[key] = self._in_type(value, wanted)
        return self.available[key]

    def _in_type(self, value: str, wanted: int) -> str:
        name = value if wanted == FLOAT else value + self.suffix
        if value in self.weights:
            tensor = self.weights[value]
            if wanted != FLOAT:
                array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(wanted))
                tensor = numpy_helper.from_array(array, name)
            self.initializers[name] = tensor
            return name
        if value in self.moved_weights:
            node = self.moved_weights[value]
            inputs = [self._as(v, wanted) if (self._is_float(v) and i == 0) or node.op_type == "Concat"
                      else self._kept(v) for i, v in enumerate(node.input)]  # fmt: skip
            self._append(node, inputs, name)
            return name
        name = value + ("_fp32" if wanted == FLOAT else self.suffix)
        self.nodes.append(helper.make_node("Cast", [value], [name], name=f"{name}_Cast", to=wanted))
        return name

    def _emit(self, node: NodeProto, inputs: list[str], element_type: int | None) -> None:
        self._append(node, [v if v else "" for v in inputs], node.output[0])
        if element_type is not None:
            self.types[node.output[0]] = element_type

    def _append(self, node: NodeProto, inputs: list[str], output: str) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:], copy.output[:] = inputs, [output]
        if output != node.output[0]:
            copy.name = f"{node.name}{self.suffix}"
        self.nodes.append(copy)
