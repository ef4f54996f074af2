"""What each core ATen operator is in ONNX: only those that `export.trace.lowering` leaves, some thirty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from export.write.graph_writer import GraphWriter, Translation

aten = torch.ops.aten

#: By operator; see `export.write.graph_writer.Translation`.
TRANSLATIONS: dict[Any, Translation] = {}


def _translates(*targets: Any) -> Callable[[Translation], Translation]:
    def register(function: Translation) -> Translation:
        TRANSLATIONS.update(dict.fromkeys(targets, function))
        return function

    return register


for _target, _op_type in {
    aten.mul.Tensor: "Mul", aten.add.Tensor: "Add", aten.sub.Tensor: "Sub", aten.div.Tensor: "Div", aten.bmm.default:
    "MatMul", aten.sigmoid.default: "Sigmoid", aten.log.default: "Log", aten.sin.default: "Sin", aten.cos.default:
    "Cos", aten.neg.default: "Neg", aten.mm.default: "MatMul",
    aten.reciprocal.default: "Reciprocal", aten.exp.default: "Exp",
    # The tracer takes the result for the tensor from then on; verification would see an alias that was read instead.
    aten.add_.Tensor: "Add", aten.sub_.Tensor: "Sub", aten.mul_.Tensor: "Mul", aten.div_.Tensor: "Div",
}.items():  # fmt: skip
    TRANSLATIONS[_target] = lambda w, node, *args, _op_type=_op_type: w.emit(
        _op_type, [w.value(a) for a in args], node.name
    )


@_translates(aten.clone.default, aten.alias.default, aten.detach.default)
def _same(w: GraphWriter, node: fx.Node, x: fx.Node, **_: Any) -> str:
    return w.value(x)


@_translates(aten.rsub.Scalar)
def _rsub(w: GraphWriter, node: fx.Node, x: fx.Node, other: float) -> str:
    return w.emit("Sub", [w.value(other), w.value(x)], node.name)


@_translates(aten.rsqrt.default)
def _rsqrt(w: GraphWriter, node: fx.Node, x: fx.Node) -> str:
    return w.emit("Reciprocal", [w.emit("Sqrt", [w.value(x)], f"{node.name}_root")], node.name)


@_translates(
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.unsqueeze.default, aten.squeeze.dims
)
def _reshape(w: GraphWriter, node: fx.Node, x: fx.Node, *_: Any) -> str:
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
def _expand(w: GraphWriter, node: fx.Node, x: fx.Node, *_: Any) -> str:
    old, new = x.meta["val"].shape if "val" in x.meta else w.constants[x].shape, node.meta["val"].shape
    if len(old) == len(new) and all(str(a) == str(b) for a, b in zip(old, new, strict=True)):
        return w.value(x)
    return w.emit("Expand", [w.value(x), w.shape(list(new))], node.name)


@_translates(aten.permute.default)
def _permute(w: GraphWriter, node: fx.Node, x: fx.Node, axes: list[int]) -> str:
    return w.emit("Transpose", [w.value(x)], node.name, perm=[a % len(axes) for a in axes])


@_translates(aten.flip.default)
def _flip(w: GraphWriter, node: fx.Node, x: fx.Node, axes: list[int]) -> str:
    n = len(axes)
    bounds = [w.ints([-1] * n), w.ints([-(2**31)] * n), w.ints(axes), w.ints([-1] * n)]
    return w.emit("Slice", [w.value(x), *bounds], node.name)


@_translates(aten.slice.Tensor)
def _slice(
    w: GraphWriter, node: fx.Node, x: fx.Node, axis: int = 0, start: Any = 0, end: Any = 2**63 - 1, step: int = 1
) -> str:
    bounds = [w.ints([start or 0]), w.ints([2**63 - 1 if end is None else end]), w.ints([axis]), w.ints([step])]
    return w.emit("Slice", [w.value(x), *bounds], node.name)


@_translates(aten.slice_scatter.default)
def _slice_scatter(
    w: GraphWriter, node: fx.Node, x: fx.Node, part: fx.Node, axis: int = 0, start: Any = 0, end: Any = None,
    step: int = 1,
) -> str:  # fmt: skip
    size = node.meta["val"].shape[axis]
    if step != 1 or not isinstance(size, int):
        raise NotImplementedError(f"{node.target} with a step, or along an axis of any size")
    start, end = start or 0, size if end is None else min(end, size)

    def rest(low: int, high: int) -> list[str]:
        if low >= high:
            return []
        bounds = [w.ints([low]), w.ints([high]), w.ints([axis])]
        return [w.emit("Slice", [w.value(x), *bounds], f"{node.name}_{low}")]

    parts = [*rest(0, start), w.value(part), *rest(end, size)]
    return w.emit("Concat", parts, node.name, axis=axis)


@_translates(aten.cat.default)
def _cat(w: GraphWriter, node: fx.Node, parts: list[fx.Node], axis: int = 0) -> str:
    return w.emit("Concat", [w.value(p) for p in parts], node.name, axis=axis)


@_translates(aten.clamp.default)
def _clamp(w: GraphWriter, node: fx.Node, x: fx.Node, low: float | None = None, high: float | None = None) -> str:
    bounds = ["" if bound is None else w.value(float(bound)) for bound in (low, high)]
    return w.emit("Clip", [w.value(x), *bounds], node.name)


@_translates(aten.full.default, aten.full_like.default)
def _full(w: GraphWriter, node: fx.Node, _sizes: Any, value: float, **_: Any) -> str:
    return w.emit("Expand", [w.value(float(value)), w.shape(list(node.meta["val"].shape))], node.name)


@_translates(aten.mean.dim, aten.sum.dim_IntList)
def _reduce(w: GraphWriter, node: fx.Node, x: fx.Node, axes: list[int], keepdim: bool = False, **_: Any) -> str:
    op_type = "ReduceMean" if node.target == aten.mean.dim else "ReduceSum"
    return w.emit(op_type, [w.value(x), w.ints(axes)], node.name, keepdims=int(keepdim))


@_translates(aten._softmax.default)
def _softmax(w: GraphWriter, node: fx.Node, x: fx.Node, axis: int, _half: bool) -> str:
    return w.emit("Softmax", [w.value(x)], node.name, axis=axis)


@_translates(aten.addmm.default)
def _addmm(w: GraphWriter, node: fx.Node, bias: fx.Node, x: fx.Node, weight: fx.Node) -> str:
    return w.emit("Gemm", [w.value(x), w.value(weight), w.value(bias)], node.name)


@_translates(torch.ops.tpdm.double_pixels.default)
def _double_pixels(w: GraphWriter, node: fx.Node, x: fx.Node) -> str:
    scales = w.constant(np.array([1, 1, 2, 2], dtype=np.float32))
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return w.emit("Resize", [w.value(x), "", scales], node.name, **attributes)


@_translates(aten.convolution.default)
def _convolution(
    w: GraphWriter, node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None, stride: list[int],
    padding: list[int], dilation: list[int], transposed: bool, output_padding: list[Any], groups: int,
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
