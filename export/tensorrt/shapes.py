"""A graph as it is compiled: the shapes that its inputs take, and what never changes as a number in it."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping

from onnx import ModelProto, TensorProto

from engine.errors import InputError
from export.half.reduced import Reduced
from export.tensorrt.guided import INPUTS, compose
from export.tensorrt.settings import Settings


def graph_of(name: str, reduced: Reduced, settings: Settings) -> tuple[ModelProto, dict[str, list[tuple[int, ...]]]]:
    """A graph to compile, and the smallest, fastest and largest shape of each of its inputs.

    Sizes that never change are numbers in it.
    """
    model = ModelProto()
    if name in INPUTS:
        # Products of the measurement operator are float32 whatever the precision; tf32 would change them too.
        exact = settings.precision == "tf32"
        model = compose(name, reduced.models["linearize"], reduced.models["pullback"], split_products=exact)
    else:
        model.CopyFrom(reduced.models[name])
    sizes = [_known_sizes(name, model, reduced, settings, i) for i in range(3)]
    shapes = {}
    for info in model.graph.input:
        dims = info.type.tensor_type.shape.dim
        shapes[info.name] = [
            tuple(_evaluated(d.dim_param, known) if d.dim_param else d.dim_value for d in dims) for known in sizes
        ]
        for dim, low, _, high in zip(dims, *shapes[info.name], strict=True):
            if low == high:
                dim.Clear()
                dim.dim_value = low
    if settings.refit:
        _name_by_position(model)
    return model, shapes


def _known_sizes(name: str, model: ModelProto, reduced: Reduced, settings: Settings, which: int) -> dict[str, int]:
    """What the symbols of a graph's sizes stand for; those of the tape are expressions of the image's."""
    image = {"batch": settings.batch[which], "height": settings.height[which], "width": settings.width[which]}
    known = dict(image)
    side = image["height" if name == "guided_thick_rows" else "width"]
    # From one thick slice, or from none in four thin ones as usual, to no thick slices at all.
    known["blocks"] = (1, max(1, side // 4), side)[which]
    for graph, value in ((model, "x"), (model, "cotangent"), (reduced.models["linearize"], "x")):
        for info in graph.graph.input:
            if info.name == value:
                n, _, h, w = (d.dim_param for d in info.type.tensor_type.shape.dim)
                known |= {n: image["batch"], h: image["height"], w: image["width"]}
    return known


_ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}


def _evaluated(expression: str, known: Mapping[str, int]) -> int:
    """A size that the exporter wrote as integer arithmetic on symbols."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name) and node.id in known:
            return known[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return int(_ARITHMETIC[type(node.op)](value(node.left), value(node.right)))
        raise InputError(
            "bundle", "sizes that follow from those of the image", f"'{expression}'", "build the bundle again"
        )

    return value(ast.parse(expression, mode="eval").body)


def _name_by_position(model: ModelProto) -> None:
    """Name weights by their place in the graph, as they are called alike in every network of this architecture."""
    names: dict[str, str] = {}
    weights = {t.name: t for t in model.graph.initializer if t.data_type != TensorProto.INT64}
    for node in model.graph.node:
        for i, value in enumerate(node.input):
            if value in weights:
                names.setdefault(value, f"weight_{len(names)}")
                node.input[i] = names[value]
    for name, tensor in weights.items():
        tensor.name = names.get(name, name)
