"""Writes a traced graph of core ATen operators, or a piece of one, as ONNX, dynamic in batch, height and width."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, fx

from export.write.graph_writer import GraphWriter
from export.write.translations import TRANSLATIONS
from export.write.weights import WeightStore

OPSET = 20
IR_VERSION = 10


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
    writer = GraphWriter(module, weights, TRANSLATIONS)
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
