"""Compares what a bundle runs with PyTorch over the trained noise levels."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from engine.backends.bundle import GRAPHS, PROGRAM, WEIGHTS
from kernels.network import Network
from networks import NCSNpp

#: Largest relative errors, against float64, that a float32 engine may show. To the bound on x0 comes what a single
#: rounding of x̂₀ = x + σ·raw costs, which no float32 program can avoid: at σ = 378 the sum cancels three digits.
BOUNDS = {"x0": 1e-5, "pullback": 1e-4}


@dataclass(frozen=True)
class Row:
    """Relative errors ‖ours − PyTorch‖ / ‖PyTorch‖ at one noise level and image shape."""

    sigma: float
    shape: tuple[int, int, int]
    denoise_x0: float
    adjoint_x0: float
    adjoint_pullback: float
    split_x0: float
    split_pullback: float
    native_x0: float
    native_pullback: float
    x0_rounding: float

    @property
    def passes(self) -> bool:
        x0 = (self.denoise_x0, self.adjoint_x0, self.split_x0, self.native_x0)
        pullback = (self.adjoint_pullback, self.split_pullback, self.native_pullback)
        # Written so that NaN fails.
        return all(e <= BOUNDS["x0"] + self.x0_rounding for e in x0) and all(e <= BOUNDS["pullback"] for e in pullback)

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def verify(network: NCSNpp, folder: Path, n_sigmas: int = 5, seed: int = 0) -> list[Row]:
    """Run the graphs and the native program of a bundle beside the network that they were made from.

    The reference is autograd in float64. Noise levels span the trained range; batch and image shape change from row to
    row.

    Parameters
    ----------
    network : NCSNpp
        float32, as loaded.
    folder : Path
        Holds graphs, program and weights.
    n_sigmas : int
    seed : int
        Of the test images.

    Returns
    -------
    list of Row
    """
    a = network.architecture
    exact = copy.deepcopy(network).double()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    sessions = {
        name: ort.InferenceSession(str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
        for name in GRAPHS
    }
    native = Network(folder / PROGRAM, folder / WEIGHTS)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    side = max(16, 4 * a.divisor)
    for i, sigma in enumerate(np.geomspace(a.sigma_min, a.sigma_max, n_sigmas)):
        shape = (1 + i % 3, side + a.divisor * (i % 2), side + a.divisor * (i % 3))
        clean = torch.rand(shape[0], 1, 1, 1, generator=generator).expand(-1, 1, *shape[1:])
        noise = torch.randn(shape[0], 1, *shape[1:], generator=generator)
        x = (clean + float(sigma) * noise).float()
        sigmas = torch.full((shape[0],), float(sigma))
        cotangent = torch.randn(x.shape, generator=generator)

        x_exact = x.double().requires_grad_()
        x0_exact = exact.denoise(x_exact, sigmas.double())
        (pullback_exact,) = torch.autograd.grad(x0_exact, x_exact, cotangent.double())

        feeds = {"x": x.numpy(), "sigma": sigmas.numpy()}
        (x0_denoise,) = sessions["denoise"].run(["x0"], feeds)
        x0_adjoint, pullback_adjoint = sessions["adjoint"].run(
            ["x0", "pullback"], {**feeds, "cotangent": cotangent.numpy()}
        )
        x0_split, *tape = sessions["linearize"].run(None, feeds)
        names = [o.name for o in sessions["linearize"].get_outputs()][1:]
        (pullback_split,) = sessions["pullback"].run(
            ["pullback"], {"cotangent": cotangent.numpy(), **dict(zip(names, tape, strict=True))}
        )
        workspace = native.workspace(*shape, with_pullback=True)
        x0_native, pullback_native = np.empty(shape, np.float32), np.empty(shape, np.float32)
        workspace.denoise(x.numpy()[:, 0], float(sigma), x0_native)
        workspace.pullback(cotangent.numpy()[:, 0], pullback_native)
        x0_64, pullback_64 = x0_exact.detach().numpy(), pullback_exact.numpy()
        rows.append(
            Row(
                float(sigma),
                shape,
                _error(x0_denoise, x0_64),
                _error(x0_adjoint, x0_64),
                _error(pullback_adjoint, pullback_64),
                _error(x0_split, x0_64),
                _error(pullback_split, pullback_64),
                _error(x0_native[:, None], x0_64),
                _error(pullback_native[:, None], pullback_64),
                float(np.finfo(np.float32).eps * np.linalg.norm(x.numpy()) / np.linalg.norm(x0_64)),
            )
        )
    return rows


def _error(ours: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(ours - exact) / np.linalg.norm(exact))


def table(rows: list[Row]) -> str:
    """The rows as text for a terminal."""
    columns = ("slices", "denoise x0", "adjoint x0", "pullback", "split x0", "pullback", "native x0", "pullback")
    lines = [f"{'sigma':>10}" + "".join(f"{c:>13}" for c in columns)]
    for r in rows:
        errors = (
            *(r.denoise_x0, r.adjoint_x0, r.adjoint_pullback),
            *(r.split_x0, r.split_pullback, r.native_x0, r.native_pullback),
        )
        shape = "×".join(str(s) for s in r.shape)
        lines.append(
            f"{r.sigma:10.4g} {shape:>12} " + " ".join(f"{e:12.1e}" for e in errors) + ("" if r.passes else "  FAILS")
        )
    return "\n".join(lines)
