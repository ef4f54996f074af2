"""Writes the four graphs of a bundle from one traced program."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, fx

from export.adjoint import trace
from export.onnx import WeightStore, ancestors, write_onnx
from networks import NCSNpp

WEIGHTS = "weights.bin"


def write_graphs(network: NCSNpp, folder: Path) -> None:
    """Write denoise, adjoint, linearize and pullback into `folder`, with one weights file.

    One trace of the adjoint holds everything. The denoiser is the part that x̂₀ needs. Cutting the rest off where it
    takes values from that part gives `linearize`, which also returns those values (the tape), and `pullback`, which
    takes them: a guided step then evaluates the network once, forward and backward, with any operator in between.
    """
    module = trace(network)
    x, sigma, cotangent = (n for n in module.graph.nodes if n.op == "placeholder")
    (output,) = (n for n in module.graph.nodes if n.op == "output")
    x0, pullback = output.args[0]
    tape = {f"tape_{i}": node for i, node in enumerate(_tape(module, x0, pullback, {x, sigma}))}
    weights = WeightStore(folder / WEIGHTS)
    try:
        image = {"x": x, "sigma": sigma}
        write_onnx(module, folder / "denoise.onnx", weights, image, {"x0": x0})
        write_onnx(
            module,
            folder / "adjoint.onnx",
            weights,
            {**image, "cotangent": cotangent},
            {"x0": x0, "pullback": pullback},
        )
        write_onnx(module, folder / "linearize.onnx", weights, image, {"x0": x0, **tape})
        write_onnx(module, folder / "pullback.onnx", weights, {"cotangent": cotangent, **tape}, {"pullback": pullback})
    finally:
        weights.close()


def _tape(module: fx.GraphModule, x0: fx.Node, pullback: fx.Node, inputs: set[fx.Node]) -> list[fx.Node]:
    """Values of the forward part that the backward part uses, in the order of the program; constants are not among
    them."""
    forward = ancestors([x0], set())
    backward = ancestors([pullback], set()) - forward
    varying = set(inputs)
    for node in module.graph.nodes:
        if any(source in varying for source in node.all_input_nodes):
            varying.add(node)
    used = {source for node in backward for source in node.all_input_nodes}
    return [n for n in module.graph.nodes if n in used & forward & varying and isinstance(n.meta.get("val"), Tensor)]
