"""Compares what a bundle runs with PyTorch over the trained noise levels."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from engine.backends.bundle import GRAPHS, PROGRAM, WEIGHTS
from export.write.graphs import ADJOINT
from kernels.network import Network
from networks.denoiser import DenoisingNetwork

#: Largest relative errors, against float64, that a float32 engine may show. To the bound on x0 comes what a single
#: rounding of x̂₀ = x + σ·raw costs, which no float32 program can avoid: at σ = 378 the sum cancels three digits.
BOUNDS = {"x0": 1e-5, "pullback": 1e-4}


@dataclass(frozen=True)
class Row:
    """How far a bundle is from PyTorch at one noise level and image shape.

    Parameters
    ----------
    errors : dict of str to float
        ‖ours − PyTorch‖ / ‖PyTorch‖ by what computed what: "denoise_x0", "native_pullback", …
    x0_rounding : float
        See `BOUNDS`.
    """

    sigma: float
    shape: tuple[int, int, int]
    errors: dict[str, float]
    x0_rounding: float

    @property
    def passes(self) -> bool:
        rounding = {"x0": self.x0_rounding, "pullback": 0.0}
        kinds = {name: name.rpartition("_")[2] for name in self.errors}
        # Written so that NaN fails.
        return all(error <= BOUNDS[kinds[name]] + rounding[kinds[name]] for name, error in self.errors.items())

    def to_dict(self) -> dict[str, object]:
        return {"sigma": self.sigma, "shape": self.shape, **self.errors, "x0_rounding": self.x0_rounding}


def verify(network: DenoisingNetwork, folder: Path, n_sigmas: int = 5, seed: int = 0) -> list[Row]:
    """Run the graphs and the native program of a bundle beside the network that they were made from.

    The reference is autograd in float64. Noise levels span the trained range; batch and image shape change from row to
    row.

    Parameters
    ----------
    network : DenoisingNetwork
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
    exact = copy.deepcopy(network).double()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    sessions = {
        name: ort.InferenceSession(str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
        for name in (*GRAPHS, ADJOINT)
        if (folder / f"{name}.onnx").is_file()
    }
    native = Network(folder / PROGRAM, folder / WEIGHTS) if (folder / PROGRAM).is_file() else None
    generator = torch.Generator().manual_seed(seed)
    rows = []
    divisor = network.divisor
    side = max(16, 4 * divisor)
    for i, sigma in enumerate(np.geomspace(*network.sigma_range, n_sigmas)):
        shape = (1 + i % 3, side + divisor * (i % 2), side + divisor * (i % 3))
        clean = torch.rand(shape[0], 1, 1, 1, generator=generator).expand(-1, 1, *shape[1:])
        noise = torch.randn(shape[0], 1, *shape[1:], generator=generator)
        x = (clean + float(sigma) * noise).float()
        sigmas = torch.full((shape[0],), float(sigma))
        cotangent = torch.randn(x.shape, generator=generator)

        x_exact = x.double().requires_grad_()
        x0_exact = exact.denoise(x_exact, sigmas.double())
        (pullback_exact,) = torch.autograd.grad(x0_exact, x_exact, cotangent.double())

        feeds = {"x": x.numpy(), "sigma": sigmas.numpy()}
        ours = {"denoise_x0": sessions["denoise"].run(["x0"], feeds)[0]}
        given = {"cotangent": cotangent.numpy()}
        if ADJOINT in sessions:
            ours["adjoint_x0"], ours["adjoint_pullback"] = sessions[ADJOINT].run(["x0", "pullback"], feeds | given)
        ours["split_x0"], *tape = sessions["linearize"].run(None, feeds)
        names = [o.name for o in sessions["linearize"].get_outputs()][1:]
        (ours["split_pullback"],) = sessions["pullback"].run(["pullback"], given | dict(zip(names, tape, strict=True)))
        if native is not None:
            workspace = native.workspace(*shape, with_pullback=True)
            x0, pullback = (np.empty((shape[0], 1, *shape[1:]), np.float32) for _ in range(2))
            workspace.denoise(x.numpy()[:, 0], float(sigma), x0[:, 0])
            workspace.pullback(cotangent.numpy()[:, 0], pullback[:, 0])
            ours |= {"native_x0": x0, "native_pullback": pullback}
        exactly = {"x0": x0_exact.detach().numpy(), "pullback": pullback_exact.numpy()}
        errors = {name: _error(value, exactly[name.rpartition("_")[2]]) for name, value in ours.items()}
        rounding = float(np.finfo(np.float32).eps * np.linalg.norm(x.numpy()) / np.linalg.norm(exactly["x0"]))
        rows.append(Row(float(sigma), shape, errors, rounding))
    return rows


def _error(ours: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(ours - exact) / np.linalg.norm(exact))


def table(rows: list[Row]) -> str:
    """The rows as text for a terminal."""
    lines = [f"{'sigma':>10}" + "".join(f"{c.replace('_', ' '):>17}" for c in ("slices", *rows[0].errors))]
    for r in rows:
        cells = ["×".join(str(s) for s in r.shape), *(f"{error:.1e}" for error in r.errors.values())]
        lines.append(f"{r.sigma:10.4g}" + "".join(f"{c:>17}" for c in cells) + ("" if r.passes else "  FAILS"))
    return "\n".join(lines)
