"""Keeps the backward pass within the range of half precision, whatever the size of the cotangent."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, helper, numpy_helper

#: Largest magnitude in a slice of what the backward pass starts from. From 16 to 256 errors are the smallest: from
#: there values have as far to grow as to shrink before fp16 ends.
_PEAK = 64.0


def with_bounded_cotangent(model: ModelProto) -> ModelProto:
    """Return an equal graph whose backward pass sees cotangents with the same largest magnitude in every slice.

    A pullback is linear: dividing the cotangent by a number and multiplying the result by it changes nothing but the
    range of the values in between. An unnormalised Fourier transform makes cotangents of 10⁵ and more, which half
    precision cannot hold. The number is taken where the cotangent has been multiplied by σ, which spans four decades.
    """
    result = ModelProto()
    result.CopyFrom(model)
    nodes = list(result.graph.node)
    for node in nodes:
        node.output[:] = ["bounded_pullback" if v == "pullback" else v for v in node.output]
        node.input[:] = ["bounded_pullback" if v == "pullback" else v for v in node.input]
    scaled = next((i for i, n in enumerate(nodes) if n.op_type == "Mul" and "cotangent" in n.input), None)
    first = next(i for i, n in enumerate(nodes) if "cotangent" in n.input) if scaled is None else scaled
    seen = "cotangent"
    before = []
    if scaled is not None:
        seen = "bounded_seen"
        before.append(helper.make_node("Mul", list(nodes[scaled].input), [seen], name="bounded_Mul"))
    before += [
        helper.make_node("Abs", [seen], ["bounded_magnitude"], name="bounded_Abs"),
        helper.make_node(
            "ReduceMax", ["bounded_magnitude", "bounded_axes"], ["bounded_peak"], name="bounded_ReduceMax"
        ),
        helper.make_node("Max", ["bounded_peak", "bounded_tiny"], ["bounded_safe"], name="bounded_Max"),
        helper.make_node("Mul", ["bounded_safe", "bounded_scale"], ["bounded_factor"], name="bounded_Scale"),
        helper.make_node("Div", ["cotangent", "bounded_factor"], ["bounded_cotangent"], name="bounded_Div"),
    ]
    after = helper.make_node("Mul", ["bounded_pullback", "bounded_factor"], ["pullback"], name="bounded_Restore")
    for node in nodes[first:]:
        node.input[:] = ["bounded_cotangent" if v == "cotangent" else v for v in node.input]
    del result.graph.node[:]
    result.graph.node.extend([*nodes[:first], *before, *nodes[first:], after])
    result.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([1, 2, 3], dtype=np.int64), "bounded_axes"),
            # A cotangent of zeros stays zeros.
            numpy_helper.from_array(np.array(1e-30, dtype=np.float32), "bounded_tiny"),
            numpy_helper.from_array(np.array(1 / _PEAK, dtype=np.float32), "bounded_scale"),
        ]
    )
    return result
