"""Runs graphs of any precision on a CPU: in float32, rounding every result as the precision would."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from export.half.precision import FLOAT, HALF_TYPES, MOVING, Values

#: Operators that NVIDIA's tensor cores compute, for float32 with the tf32 type where allowed.
PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")

Feeds = Mapping[str, np.ndarray]


def rounding(model: ModelProto) -> ModelProto:
    """Return a float32 graph that computes what a half-precision one does, each operator's result rounded once.

    As tensor cores do: products of half numbers are summed in float32. ONNX Runtime has no bf16 operators on CPUs, and
    leaves out roundings between fp16 ones.
    """
    halves = set(HALF_TYPES.values())
    result = ModelProto()
    result.CopyFrom(model)
    types: dict[str, int] = {t.name: t.data_type for t in result.graph.initializer}
    for info in (*result.graph.input, *result.graph.output):
        types[info.name] = info.type.tensor_type.elem_type
        if types[info.name] in halves:
            info.type.tensor_type.elem_type = FLOAT
    for tensor in result.graph.initializer:
        if tensor.data_type in halves:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes: list[NodeProto] = []
    for node in result.graph.node:
        output = node.output[0]
        if node.op_type == "Cast":
            (to,) = (a.i for a in node.attribute)
            types[output] = to
            if to in halves:
                nodes += _rounded(node.input[0], output, to)
            else:
                nodes.append(helper.make_node("Identity", list(node.input), [output]))
            continue
        # Types follow from the inputs: the graph is strongly typed.
        half = next((types[v] for v in node.input if types.get(v) in halves), None)
        if half is None or node.op_type == "Shape":
            nodes.append(node)
            continue
        types[output] = half
        if node.op_type in MOVING:
            nodes.append(node)
            continue
        node.output[0] = f"{output}_exact"
        nodes += [node, *_rounded(f"{output}_exact", output, half)]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def _rounded(source: str, target: str, half: int) -> list[NodeProto]:
    return [
        helper.make_node("Cast", [source], [f"{target}_half"], to=half),
        helper.make_node("Cast", [f"{target}_half"], [target], to=FLOAT),
    ]


def rounding_products(model: ModelProto) -> ModelProto:
    """Return a graph whose products see operands with 10 bits of the fraction, as tf32 has them."""
    result = ModelProto()
    result.CopyFrom(model)
    nodes: list[NodeProto] = []
    done: dict[str, str] = {}
    for node in result.graph.node:
        if node.op_type in PRODUCTS:
            for i, value in enumerate(node.input[:2]):
                if value not in done:
                    done[value] = f"{value}_tf32"
                    # Dekker's splitting: 13 bits of the 24 go.
                    nodes += [
                        helper.make_node("Mul", [value, "tf32_splitter"], [f"{value}_far"]),
                        helper.make_node("Sub", [f"{value}_far", value], [f"{value}_near"]),
                        helper.make_node("Sub", [f"{value}_far", f"{value}_near"], [done[value]]),
                    ]
                node.input[i] = done[value]
        nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.append(numpy_helper.from_array(np.array(8193, dtype=np.float32), "tf32_splitter"))
    return result


class Runner:
    """A float32 graph in ONNX Runtime, as written: no operator is fused, reordered or left out.

    Parameters
    ----------
    model : ModelProto
        With its weights.
    inner : collection of str
        Values to return beside the outputs.
    """

    def __init__(self, model: ModelProto, inner: Collection[str] = ()):
        outputs = [o.name for o in model.graph.output]
        self.outputs = [*outputs, *(v for v in inner if v not in outputs)]
        shown = ModelProto()
        shown.CopyFrom(model)
        shown.graph.output.extend(ValueInfoProto(name=v) for v in self.outputs[len(outputs) :])
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        self._session = ort.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._inputs = [i.name for i in self._session.get_inputs()]

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Return outputs and inner values by name; `feeds` may hold more than the graph takes."""
        results = self._session.run(self.outputs, {k: feeds[k] for k in self._inputs})
        return dict(zip(self.outputs, results, strict=True))


def observe(model: ModelProto, feeds: Iterable[Feeds]) -> Values:
    """Run a float32 graph and note what its values are like; images must not have the same size in all runs."""
    runner = Runner(model, [v for n in model.graph.node for v in n.output])
    inputs = [i.name for i in model.graph.input]
    shapes: dict[str, set[tuple[int, ...]]] = {}
    largest: dict[str, float] = {}
    for each in feeds:
        for name, array in ({k: each[k] for k in inputs} | runner(each)).items():
            if array.dtype == np.float32:
                # Without the batch, whose size is no property of the value.
                shapes.setdefault(name, set()).add(array.shape[1:])
                largest[name] = max(largest.get(name, 0.0), _peak(array))
    for tensor in model.graph.initializer:
        if tensor.data_type == FLOAT:
            largest[tensor.name] = _peak(numpy_helper.to_array(tensor))
    sized = {
        name for name, seen in shapes.items() if len(seen) > 1 and not all(len(s) == 3 and s[0] == 1 for s in seen)
    }
    return Values(frozenset(sized), largest)


def _peak(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0.0))
