"""Writes what a bundle runs: graphs from one traced program, and the network as native layers."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, fx

from engine.backends.bundle import WEIGHTS
from export.trace.adjoint import trace
from export.write.native import write_program
from export.write.onnx import ancestors, write_onnx
from export.write.weights import WeightStore
from networks import NCSNpp
from networks.denoiser import DenoisingNetwork

#: The graph that no run opens, (x, sigma, cotangent) -> (x0, pullback), for other programs.
ADJOINT = "adjoint"


def write_graphs(network: DenoisingNetwork, folder: Path, with_adjoint: bool = False) -> None:
    """Write denoise, linearize, pullback and, if wanted, the whole adjoint, and NCSN++'s native program into `folder`.

    One trace of the adjoint holds everything. The denoiser is the part that x̂₀ needs. Cutting where the cotangent
    enters gives `linearize`, all that does not depend on it, which also returns the values that the rest uses (the
    tape), and `pullback`, the rest, which takes them: a guided step then evaluates the network once, forward and
    backward, with any operator in between. All have their weights in one file.
    """
    module = trace(network)
    x, sigma, cotangent = (n for n in module.graph.nodes if n.op == "placeholder")
    (output,) = (n for n in module.graph.nodes if n.op == "output")
    x0, pullback = output.args[0]
    tape = {f"tape_{i}": node for i, node in enumerate(_tape(module, pullback, {x, sigma}, cotangent))}
    weights = WeightStore(folder / WEIGHTS)
    try:
        image = {"x": x, "sigma": sigma}
        write_onnx(module, folder / "denoise.onnx", weights, image, {"x0": x0})
        if with_adjoint:
            whole = {**image, "cotangent": cotangent}
            write_onnx(module, folder / f"{ADJOINT}.onnx", weights, whole, {"x0": x0, "pullback": pullback})
        write_onnx(module, folder / "linearize.onnx", weights, image, {"x0": x0, **tape})
        write_onnx(module, folder / "pullback.onnx", weights, {"cotangent": cotangent, **tape}, {"pullback": pullback})
        # Of the other families the native kernels lack layers: ONNX Runtime runs those.
        if isinstance(network, NCSNpp):
            write_program(network, folder, weights)
    finally:
        weights.close()


def _tape(module: fx.GraphModule, pullback: fx.Node, inputs: set[fx.Node], cotangent: fx.Node) -> list[fx.Node]:
    """Values known before the cotangent that the pullback uses, in the order of the program; constants are not among
    them."""
    needed = ancestors([pullback], set())
    varying, backward = set(inputs), {cotangent}
    for node in module.graph.nodes:
        if node in needed and isinstance(node.meta.get("val"), Tensor):
            if any(source in backward for source in node.all_input_nodes):
                backward.add(node)
            elif any(source in varying for source in node.all_input_nodes):
                varying.add(node)
    used = {source for node in backward for source in node.all_input_nodes}
    return [node for node in module.graph.nodes if node in used & varying]
