"""A score network on CPU cores: the layers that `network.json` of a bundle lists, forward and backward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, final

import numpy as np

FORMAT = 1
#: Memory for weights of 3×3 convolutions kept in transformed form, four times their size in either direction; a larger
#: network transforms them whenever they are used.
TRANSFORMED_BYTES = 256 * 2**20


@final
class Network:
    """x̂₀ = x + σᵖ · network(x, σ), and its vector-Jacobian product.

    Its 3×3 convolutions are Winograd's F(4×4, 3×3), normalisation and SiLU are one pass, sums are part of the
    convolutions before them. Read-only once made: threads may share it, each with workspaces of its own.

    Parameters
    ----------
    program : Path
        ``network.json`` as `export.write.native` writes it.
    weights : Path
        The file that its arrays lie in.
    instructions : str
        One of `instruction_sets`; empty for the best one that the processor has.

    Raises
    ------
    ValueError
        A program of another format, or one that is damaged.
    """

    def __init__(self, program: Path, weights: Path, instructions: str = ""):
        from kernels import _network

        content = json.loads(program.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"program: expected format {FORMAT}, got {content['format']}; build the engine again")
        data = np.memmap(weights, dtype=np.uint8, mode="r")

        def array(place: dict[str, Any]) -> np.ndarray:
            shape = tuple(place["shape"])
            end = place["offset"] + 4 * int(np.prod(shape))
            if end > len(data):
                raise ValueError(f"weights: expected at least {end} bytes, got {len(data)}; build the engine again")
            return data[place["offset"] : end].view(np.float32).reshape(shape)

        self._native = _network.Network(content["channels"], content["sigma_power"], instructions, TRANSFORMED_BYTES)
        for layer in content["vectors"]:
            if layer["op"] == "fourier":
                self._native.add_fourier(array(layer["weight"]))
            elif layer["op"] == "dense":
                self._native.add_dense(layer["in"], array(layer["weight"]), array(layer["bias"]))
            elif layer["op"] == "silu":
                self._native.add_silu(layer["in"])
            else:
                raise ValueError(f"program: expected a known layer, got {layer['op']!r}; build the engine again")
        for layer in content["images"]:
            kind, sources, out = layer["op"], layer["in"], layer["out"]
            if kind == "conv":
                vector = -1 if layer["vector"] is None else layer["vector"]
                self._native.add_conv(
                    sources, out, array(layer["weight"]), array(layer["bias"]), layer["stride"], layer["pad"], vector,
                    layer["addend_scale"],
                )  # fmt: skip
            elif kind == "norm":
                weight, bias = array(layer["weight"]), array(layer["bias"])
                self._native.add_norm(sources[0], out, weight, bias, layer["groups"], layer["eps"], layer["silu"])
            else:
                factor = layer.get("gain", layer.get("scale", layer.get("mul", 1.0)))
                self._native.add_layer(
                    kind, sources, out, layer.get("fir", False), layer.get("pad", 0), factor, layer.get("add", 0.0)
                )
        self._native.finish(content["output"])

    @property
    def instructions(self) -> str:
        """The instruction set that it runs with."""
        return self._native.instructions

    @property
    def keeps_transforms(self) -> bool:
        """Whether the weights of 3×3 convolutions are kept transformed, or prepared whenever they are used."""
        return self._native.keeps_transforms

    def workspace_bytes(self, n_images: int, height: int, width: int, with_pullback: bool) -> int:
        """Size of a workspace that is not made; raises what `Workspace` says."""
        return self._native.workspace_bytes(n_images, height, width, with_pullback)

    def workspace(self, n_images: int, height: int, width: int, with_pullback: bool) -> Workspace:
        """Memory for some images; see `Workspace`."""
        return Workspace(self, n_images, height, width, with_pullback)


@final
class Workspace:
    """Memory in which a network works on a few images at a time.

    Parameters
    ----------
    network : Network
    n_images : int
        At most; small images share the weights that are brought from memory.
    height, width : int
        Of the images.
    with_pullback : bool
        Keep what `pullback` needs.

    Raises
    ------
    ValueError
        Sides that the network cannot halve often enough.
    """

    def __init__(self, network: Network, n_images: int, height: int, width: int, with_pullback: bool):
        from kernels import _network

        self.shape, self.with_pullback = (n_images, height, width), with_pullback
        self._native = _network.Workspace(network._native, n_images, height, width, with_pullback)

    def fits(self, shape: tuple[int, ...], with_pullback: bool) -> bool:
        """Whether there is room for images (n, height, width), and for their pullback if wanted."""
        n_images, *size = self.shape
        return shape[0] <= n_images and list(shape[1:]) == size and (self.with_pullback or not with_pullback)

    def denoise(self, x: np.ndarray, sigma: float, x0: np.ndarray) -> None:
        """Write x̂₀ of noisy images into `x0`, both float32 (n, height, width), C-contiguous."""
        self._native.denoise(x, sigma, x0)

    def pullback(self, cotangent: np.ndarray, pulled: np.ndarray) -> None:
        """Write (∂x̂₀/∂x)ᵀ · cotangent into `pulled`, at the images that were denoised last; once for each call of
        `denoise`."""
        self._native.pullback(cotangent, pulled)

    @property
    def bytes(self) -> int:
        """Size of the memory."""
        return self._native.bytes


def instruction_sets() -> list[str]:
    """The versions of the kernels that this processor can run, the best one first."""
    from kernels import _network

    return _network.instructions()
