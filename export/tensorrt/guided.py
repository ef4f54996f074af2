"""Composes graphs of a whole guided step: the network forward, the measurement operator, the network backward.

The operator enters as small matrices, so that one graph serves every mask and every slice profile, and image sides stay
dynamic. Forward and backward pass run once each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

#: What the names of values begin with in each part.
_FORWARD, _OPERATOR, _BACKWARD = "forward_", "operator_", "backward_"

#: A name and sizes, numbers or symbols.
Input = tuple[str, list[int | str]]


class _Nodes:
    """Collects the operator's nodes; values are their names."""

    def __init__(self, split_products: bool) -> None:
        self.split_products = split_products
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    def __call__(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"{_OPERATOR}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=f"{name}_{op_type}", **attributes))
        return name

    def axes(self, *values: int) -> str:
        name = f"{_OPERATOR}axes_" + "_".join(str(v) for v in values)
        self.constants[name] = numpy_helper.from_array(np.array(values, dtype=np.int64), name)
        return name

    def product(self, a: str, b: str) -> str:
        """Matrix product, in full float32 precision."""
        if not self.split_products:
            return self("MatMul", a, b)
        (a_high, a_low), (b_high, b_low) = self._split(a), self._split(b)
        small = self("Add", self("MatMul", a_high, b_low), self("MatMul", a_low, b_high))
        return self("Add", self("MatMul", a_high, b_high), small)

    def _split(self, x: str) -> tuple[str, str]:
        """A number as the sum of its first 11 binary digits and the rest (Dekker, 1971)."""
        name = f"{_OPERATOR}splitter"
        self.constants[name] = numpy_helper.from_array(np.array(2**13 + 1, dtype=np.float32), name)
        far = self("Mul", x, name)
        high = self("Sub", far, self("Sub", far, x))
        return high, self("Sub", x, high)

    def channel(self, x: str, index: int) -> str:
        """One channel of (n, 2, h, w), as (n, 1, h, w)."""
        return self("Slice", x, self.axes(index), self.axes(index + 1), self.axes(1))

    def squared(self, x: str) -> str:
        """Sum of squares of every image of the batch: (n,)."""
        return self("ReduceSum", self("Mul", x, x), self.axes(1, 2, 3), keepdims=0)


def _times_i(o: _Nodes, x: str) -> str:
    """i·x, real and imaginary part being channels."""
    return o("Concat", o("Neg", o.channel(x, 1)), o.channel(x, 0), axis=1)


def _part(o: _Nodes, matrix: str, index: int) -> str:
    """Real (0) or imaginary (1) part of a matrix given as (2, m, n)."""
    return o("Gather", matrix, o.axes(index), axis=0)


def _fourier(o: _Nodes) -> tuple[str, str, str]:
    """DataFidelity of `engine.operators.MaskedFourier` for real images.

    With F = R + iI for rows and C for columns: A x = mask · F (x Cᵀ), and Aᵀ r = Re(Fᴴ (mask · r) conj(C)), of which
    only the real part is computed. x is real: twelve real products altogether.
    """
    real, imaginary = _part(o, "dft_rows", 0), _part(o, "dft_rows", 1)
    # One image times two matrices: real and imaginary part become channels.
    along_rows = o.product("x0", o("Transpose", "dft_columns", perm=[0, 2, 1]))
    spectrum = o("Add", o.product(real, along_rows), _times_i(o, o.product(imaginary, along_rows)))
    fidelity = o("Sub", o("Mul", "mask", spectrum), "measurement")
    residual = o("Mul", "scale", fidelity)
    weighted = o("Mul", o("Mul", "mask", "scale"), residual)
    real_t, imaginary_t = (o("Transpose", part, perm=[0, 2, 1]) for part in (real, imaginary))
    back = o("Sub", o.product(real_t, weighted), _times_i(o, o.product(imaginary_t, weighted)))
    cotangent = o("ReduceSum", o.product(back, "dft_columns"), o.axes(1), keepdims=1)
    return cotangent, o.squared(residual), o.squared(fidelity)


def _thick(axis: int) -> Callable[[_Nodes], tuple[str, str, str]]:
    """DataFidelity of `engine.operators.ThickSlices` along rows (1) or columns (2), A given as the matrix `mean`."""

    def build(o: _Nodes) -> tuple[str, str, str]:
        transposed = o("Transpose", "mean", perm=[1, 0])
        measured = o.product("mean", "x0") if axis == 1 else o.product("x0", transposed)
        fidelity = o("Sub", measured, "measurement")
        residual = o("Sub", o("Mul", "scale", fidelity), "noise")
        weighted = o("Mul", "scale", residual)
        cotangent = o.product(transposed, weighted) if axis == 1 else o.product(weighted, "mean")
        return cotangent, o.squared(residual), o.squared(fidelity)

    return build


#: What each fused graph takes beside x (n, 1, h, w) and sigma (n), all float32. The matrices of the Fourier transform
#: are centred, F[k, j] = exp(−2πi (k − m // 2) j / m), real and imaginary part; `blocks` is the number of thick slices.
#: Sizes that are symbols may change from run to run.
INPUTS: dict[str, list[Input]] = {
    "guided_fourier": [
        ("mask", ["height", "width"]),
        ("measurement", ["batch", 2, "height", "width"]),
        ("scale", [1]),
        ("dft_rows", [2, "height", "height"]),
        ("dft_columns", [2, "width", "width"]),
    ],
    "guided_thick_rows": [
        ("measurement", ["batch", 1, "blocks", "width"]),
        ("noise", ["batch", 1, "blocks", "width"]),
        ("scale", [1]),
        ("mean", ["blocks", "height"]),
    ],
    "guided_thick_columns": [
        ("measurement", ["batch", 1, "height", "blocks"]),
        ("noise", ["batch", 1, "height", "blocks"]),
        ("scale", [1]),
        ("mean", ["blocks", "width"]),
    ],
}
_BUILDERS = {"guided_fourier": _fourier, "guided_thick_rows": _thick(1), "guided_thick_columns": _thick(2)}


def compose(name: str, linearize: ModelProto, pullback: ModelProto, split_products: bool = False) -> ModelProto:
    """Return the graph of a guided step, (x, sigma, …) -> (x0, pullback, squared, plain).

    pullback is (∂x̂₀/∂x)ᵀ·s·Aᵀr with r = s·(A x̂₀ − y) − e; squared and plain, (n,), are Σ|r|² and Σ|A x̂₀ − y|² of every
    slice. The operator is float32 whatever the precision of the two graphs.

    Parameters
    ----------
    name : str
        A key of `INPUTS`, which says what else the graph takes.
    linearize, pullback : ModelProto
        Of one bundle, in one precision. Weights may lie in a file, then in the same one.
    split_products : bool
        Write each of the operator's products as three of numbers with few digits, for libraries that round the operands
        of float32 products (tf32).

    Returns
    -------
    ModelProto
        Shares nothing with its arguments; external weights are where those of the arguments are.
    """
    o = _Nodes(split_products)
    cotangent, squared, plain = _BUILDERS[name](o)
    # The two graphs, and the operator, may use the same names for values inside.
    tape = {i.name for i in pullback.graph.input} - {"cotangent"}
    forward = _renamed(linearize, _FORWARD, {name: name for name in ("x", "sigma", "x0", *tape)})
    backward = _renamed(
        pullback, _BACKWARD, {"cotangent": cotangent, "pullback": "pullback"} | {name: name for name in tape}
    )
    # A name of a weight is that of the same tensor in both graphs.
    weights = {t.name: t for graph in (linearize.graph, pullback.graph) for t in graph.initializer} | o.constants
    image: list[int | str] = ["batch", 1, "height", "width"]
    results: list[Input] = [("x0", image), ("pullback", image), ("squared", ["batch"]), ("plain", ["batch"])]
    own: list[Input] = [("x", image), ("sigma", ["batch"])]
    inputs = [_float32(*each) for each in own + INPUTS[name]]
    outputs = [_float32(*each) for each in results]
    ends = [helper.make_node("Identity", [v], [k], name=f"{_OPERATOR}{k}") for v, k in
            ((squared, "squared"), (plain, "plain"))]  # fmt: skip
    graph = helper.make_graph([*forward, *o.nodes, *ends, *backward], name, inputs, outputs, list(weights.values()))
    return helper.make_model(
        graph, opset_imports=linearize.opset_import, ir_version=linearize.ir_version, producer_name="tpdm"
    )


def _float32(name: str, sizes: Sequence[int | str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)


def _renamed(model: ModelProto, prefix: str, known: dict[str, str]) -> list[NodeProto]:
    """The nodes of a graph with a prefix before every name but those of weights and of `known` values."""
    kept = known | {t.name: t.name for t in model.graph.initializer} | {"": ""}
    nodes = []
    for node in model.graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = prefix + node.name
        copy.input[:] = [kept.get(v, prefix + v) for v in node.input]
        copy.output[:] = [kept.get(v, prefix + v) for v in node.output]
        nodes.append(copy)
    return nodes
