"""Every kind of layer against its NumPy twin, forward, and against differences of the twin, backward."""

from __future__ import annotations

import copy
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels import reference_network
from kernels.network import Network, instruction_sets

RNG = np.random.default_rng


class Program:
    """Builds a program layer by layer, with random weights of a size that keeps values near one."""

    def __init__(self, seed: int = 0, sigma_power: int = 1):
        self.rng = RNG(seed)
        self.channels = [1]
        self.content: dict[str, Any] = {"format": 1, "sigma_power": sigma_power, "channels": self.channels}
        self.content |= {"vectors": [], "images": [], "output": 0}

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * self.rng.standard_normal(shape)).astype(np.float32)

    def image(self, kind: str, sources: list[int], channels: int, **attributes: Any) -> int:
        self.channels.append(channels)
        out = self.content["output"] = len(self.channels) - 1
        self.content["images"].append({"op": kind, "in": sources, "out": out, **attributes})
        return out

    def conv(self, x: int, n: int, k: int = 3, stride: int = 1, pad: int | None = None, **more: Any) -> int:
        n_in, addend = self.channels[x], more.pop("addend", None)
        arrays = {"weight": self.normal(n, n_in, k, k, scale=(n_in * k * k) ** -0.5), "bias": self.normal(n, scale=0.3)}
        settings = {"stride": stride, "pad": k // 2 if pad is None else pad, "vector": None, "addend_scale": 1.0}
        return self.image("conv", [x] if addend is None else [x, addend], n, **arrays, **(settings | more))

    def norm(self, x: int, groups: int = 2, silu: bool = True) -> int:
        n = self.channels[x]
        weight, bias = 1 + self.normal(n, scale=0.2), self.normal(n, scale=0.3)
        return self.image("norm", [x], n, weight=weight, bias=bias, groups=groups, eps=1e-6, silu=silu)

    def same(self, kind: str, *sources: int, **attributes: Any) -> int:
        return self.image(kind, list(sources), self.channels[sources[0]], **attributes)

    def cat(self, *sources: int) -> int:
        return self.image("cat", list(sources), sum(self.channels[s] for s in sources))

    def embedding(self, n: int) -> int:
        vectors = self.content["vectors"]
        vectors.append({"op": "fourier", "out": 0, "weight": self.normal(4)})
        vectors.append(
            {
                "op": "dense",
                "in": 0,
                "out": 1,
                "weight": self.normal(n, 8, scale=0.3),
                "bias": self.normal(n, scale=0.3),
            }
        )
        vectors.append({"op": "silu", "in": 1, "out": 2})
        return 2

    def write(self, folder: Path) -> tuple[Path, Path]:
        content, data = copy.deepcopy(self.content), b""
        for layer in [*content["vectors"], *content["images"]]:
            for name in ("weight", "bias"):
                if name in layer:
                    array = layer[name]
                    layer[name] = {"offset": len(data), "shape": list(array.shape)}
                    data += array.tobytes()
        (folder / "network.json").write_text(json.dumps(content))
        (folder / "weights.bin").write_bytes(data)
        return folder / "network.json", folder / "weights.bin"


def layers() -> dict[str, Any]:
    """By name: a function that appends layers, from an image of some channels to another."""

    def down_and_up(fir):
        return lambda p, x: p.same("up", p.same("down", x, fir=fir), fir=fir)

    def attention(p, x):
        q, k, v = (p.conv(x, 5, 1) for _ in range(3))
        return p.same("attend", q, k, v, scale=5**-0.5)

    def strided(k, pad):
        return lambda p, x: p.same("up", p.conv(x, 18, k, 2, pad), fir=False)

    return {
        "conv 3": lambda p, x: p.conv(x, 20),
        "conv 3 of few": lambda p, x: p.conv(p.conv(x, 3), 40),
        "conv 1": lambda p, x: p.conv(x, 33, 1),
        "conv 5": lambda p, x: p.conv(x, 4, 5),
        "conv 3 without frame": lambda p, x: p.conv(p.conv(x, 20, pad=2), 18, pad=0),
        "conv 4 of stride 2": strided(4, 1),
        "conv 3 of stride 2": lambda p, x: strided(3, 0)(p, p.same("fir", x, pad=2, gain=1.0)),
        "norm": lambda p, x: p.norm(x),
        "norm alone": lambda p, x: p.norm(x, 1, silu=False),
        "fir down and up": down_and_up(True),
        "box down and up": down_and_up(False),
        "stuff": lambda p, x: p.same("fir", p.conv(p.same("stuff", x), 6, pad=2), pad=1, gain=4.0),
        "cat": lambda p, x: p.cat(
            x,
            p.conv(x, 7),
        ),
        "cat of blocks": lambda p, x: p.cat(p.conv(x, 32), p.conv(x, 16)),
        "attention": attention,
        "add": lambda p, x: p.same("add", x, p.conv(x, p.channels[x])),
        "affine": lambda p, x: p.same("affine", x, mul=-1.7, add=0.3),
        "addend": lambda p, x: p.conv(p.norm(x), p.channels[x], addend=x, addend_scale=0.7),
        "vector": lambda p, x: p.conv(x, 11, vector=p.embedding(11)),
    }


def stuff_down(p: Program, x: int) -> int:
    """Back to the size before `stuff`."""
    return p.same("down", x, fir=False)


def program_of(name: str, seed: int = 0) -> Program:
    p = Program(seed)
    x = p.conv(p.same("affine", 0, mul=2.0, add=-1.0), 10)
    y = layers()[name](p, x)
    if name == "stuff":
        y = stuff_down(p, y)
    # What was there before is used again after it: gradients of several consumers meet.
    p.conv(p.norm(p.cat(y, x), 1), 1)
    return p


def check(program: Program, folder: Path, instructions: str, shape: tuple[int, int], sigma: float = 0.8) -> None:
    network = Network(*program.write(folder), instructions)
    rng = RNG(5)
    x, cotangent, direction = (rng.standard_normal((2, *shape)).astype(np.float32) for _ in range(3))
    x0, pulled = np.full_like(x, np.nan), np.full_like(x, np.nan)
    workspace = network.workspace(2, *shape, True)
    workspace.denoise(x, sigma, x0)
    workspace.pullback(cotangent, pulled)

    def exact(z: np.ndarray) -> np.ndarray:
        return np.stack([reference_network.denoise(program.content, slice_, sigma) for slice_ in z.astype(np.float64)])

    expected = exact(x)
    assert np.linalg.norm(x0 - expected) <= 2e-6 * np.linalg.norm(expected)
    h = 1e-5
    slope = (exact(x + h * direction.astype(np.float64)) - exact(x - h * direction.astype(np.float64))) / (2 * h)
    # Slice by slice: neither may hide the other's error.
    for i in range(2):
        got, wanted = (
            np.vdot(pulled[i].astype(np.float64), direction[i]),
            np.vdot(cotangent[i].astype(np.float64), slope[i]),
        )
        assert abs(got - wanted) <= 2e-6 * np.linalg.norm(pulled[i]) * np.linalg.norm(direction[i])


@pytest.mark.parametrize("instructions", instruction_sets())
@pytest.mark.parametrize("name", layers())
def test_layers(name, instructions, tmp_path):
    shapes = [(8, 12), (14, 6), (34, 22)]
    for seed, shape in enumerate(shapes):
        check(program_of(name, seed), tmp_path, instructions, shape)


@pytest.mark.parametrize("instructions", instruction_sets())
@pytest.mark.parametrize(("channels", "shape"), list(product((15, 16, 48, 65), ((5, 7), (4, 4), (1, 1), (9, 33)))))
def test_convolutions_of_every_size(channels, shape, instructions, tmp_path):
    p = Program(channels)
    p.conv(p.norm(p.conv(p.conv(0, channels), channels), 1), 1)
    if shape == (1, 1):
        # A normalisation over a pixel and all channels, and frames that are nothing but zeros around it.
        p.content["images"][2]["eps"] = 1e-2
    check(p, tmp_path, instructions, shape)


def test_a_network_without_division_by_sigma(tmp_path):
    p = Program(sigma_power=2)
    p.conv(p.norm(p.conv(0, 4)), 1)
    check(p, tmp_path, "", (6, 5), sigma=1.3)


def test_instruction_sets_agree(tmp_path):
    p = program_of("attention")
    files = p.write(tmp_path)
    x = RNG(1).standard_normal((1, 20, 20)).astype(np.float32)
    results = []
    for instructions in instruction_sets():
        out = np.empty_like(x)
        Network(*files, instructions).workspace(1, 20, 20, False).denoise(x, 1.0, out)
        results.append(out)
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=0, atol=1e-5)


def test_values_that_are_no_numbers_stay_in_their_slice(tmp_path):
    network = Network(*program_of("norm").write(tmp_path))
    x = RNG(1).standard_normal((2, 8, 8)).astype(np.float32)
    x[0, 3, 3] = np.nan
    workspace, out = network.workspace(2, 8, 8, True), np.empty_like(x)
    workspace.denoise(x, 1.0, out)
    assert np.isnan(out[0]).any()
    assert np.isfinite(out[1]).all()
