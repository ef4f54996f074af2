"""Reads a bundle back into the PyTorch network, and the checkpoint, that it was made from."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper

from engine.backends.bundle import Bundle
from export.trace.adjoint import trace
from export.write.onnx import WeightStore, write_onnx
from networks import Architecture, NCSNpp, save_checkpoint
from networks.checkpoint import UNTRAINED

#: First of the probe's numbers: larger than any constant of a graph that is not a weight.
_FIRST = 1000
#: Numbers are told apart after a multiplication by √½ in float32 as long as there are no more than this.
_MOST = 2**22
#: Relative error of x̂₀ that two float32 programs may differ by.
_BOUND = 1e-5


def network_of(bundle: Bundle) -> NCSNpp:
    """The network of a bundle, float32, in evaluation mode, its parameters frozen.

    The exporter stores weights transposed, reshaped, or times √½. How, a probe tells: a network of the same
    architecture whose parameters are numbered is exported in the same way, and where its numbers end up, the weights
    are. The result is run beside the bundle.

    Parameters
    ----------
    bundle : Bundle
        Of at most 4 million parameters, written by this version of the exporter.

    Raises
    ------
    ValueError
        The bundle's graph has another structure than the exporter gives its architecture, or x̂₀ differs.
    """
    if family := bundle.manifest["architecture"].get("family"):
        raise ValueError(f"bundle: expected an NCSN++ network, got {family}; load the network's checkpoint")
    architecture = Architecture.from_dict(bundle.manifest["architecture"])
    network = NCSNpp(architecture).eval().requires_grad_(False)
    n = sum(p.numel() for p in network.parameters())
    if n > _MOST:
        raise ValueError(f"bundle: expected at most {_MOST} parameters, got {n}; load the network's checkpoint")
    torch.nn.utils.vector_to_parameters(_FIRST + torch.arange(n, dtype=torch.float32), network.parameters())
    values = np.full(n, np.nan, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        _export(network, Path(folder))
        probe, stored = _constants(Path(folder)), _constants(bundle.folder)
    if [(name, a.shape) for name, a in probe] != [(name, a.shape) for name, a in stored]:
        raise ValueError(f"bundle: expected the graph that this exporter writes, '{bundle.folder}' has another one")
    for (_, numbers), (_, weights) in zip(probe, stored, strict=True):
        if numbers.dtype != np.float32 or not numbers.size or numbers.min() < _FIRST * math.sqrt(0.5):
            continue
        scale = 1.0 if (numbers == np.rint(numbers)).all() else math.sqrt(0.5)
        at = np.rint(numbers.astype(np.float64) / scale).astype(np.int64) - _FIRST
        values[at] = weights.astype(np.float64) / scale
    if np.isnan(values).any():
        raise ValueError(f"bundle: expected every weight in its graph, {int(np.isnan(values).sum())} are missing")
    torch.nn.utils.vector_to_parameters(torch.from_numpy(values), network.parameters())
    _compare(network, bundle)
    return network


def write_checkpoint(bundle: Bundle, path: Path) -> None:
    """Write a checkpoint from which training can start: `training.fit --init`.

    Raises
    ------
    ValueError
        As `network_of`.
    """
    network, of = network_of(bundle), bundle.manifest
    # The frequencies of the noise level's features are never trained.
    weights = [p for name, p in network.named_parameters() if name not in UNTRAINED]
    save_checkpoint(
        path, network, weights, step=of["checkpoint"]["step"], plane=of["plane"], image_size=of["trained_size"],
        voxel_mm=of.get("voxel_mm"), margin=of.get("margin"),
    )  # fmt: skip


def _export(network: NCSNpp, folder: Path) -> None:
    module = trace(network)
    x, sigma, _ = (node for node in module.graph.nodes if node.op == "placeholder")
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    weights = WeightStore(folder / "weights.bin")
    write_onnx(module, folder / "denoise.onnx", weights, {"x": x, "sigma": sigma}, {"x0": output.args[0][0]})
    weights.close()


def _constants(folder: Path) -> list[tuple[str, np.ndarray]]:
    """Operator and value of every constant operand, in the order of the denoiser's graph: equal values may share a
    name there, places may not."""
    graph = onnx.load(folder / "denoise.onnx").graph
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    return [(node.op_type, values[name]) for node in graph.node for name in node.input if name in values]


def _compare(network: NCSNpp, bundle: Bundle) -> None:
    side, sigma = 8 * bundle.divisor, 0.5
    x = np.random.default_rng(0).standard_normal((2, side, side)).astype(np.float32)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(bundle.folder / "denoise.onnx"), options, providers=["CPUExecutionProvider"])
    feeds = {"x": x[:, None], "sigma": np.full(2, sigma, np.float32)}
    ours = session.run(["x0"], feeds)[0][:, 0]
    with torch.no_grad():
        theirs = network.denoise(torch.from_numpy(x)[:, None], torch.full((2,), sigma))[:, 0].numpy()
    error = float(np.linalg.norm(theirs - ours) / np.linalg.norm(ours))
    if not error <= _BOUND:
        raise ValueError(f"bundle: expected x̂₀ within {_BOUND:g} of the network's, got {error:g}")
