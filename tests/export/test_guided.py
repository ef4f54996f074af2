"""Fused graphs of a guided step equal linearize, data fidelity and pullback one after another."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from engine.backends.bundle import Bundle
from engine.backends.onnx import OnnxDenoiser
from engine.operators import MaskedFourier, ThickSlices
from engine.operators.thick_slices import profile_weights
from engine.sampling.denoiser import Denoiser
from export.tensorrt.guided import INPUTS, compose

#: Two orders of summation of the same float32 numbers differ by some 1e-6 of their norm.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def bundle(tiny_bundles) -> Bundle:
    return Bundle.open(tiny_bundles["axial"].folder)


@pytest.fixture(scope="module")
def run(bundle):
    """Run a fused graph by its name: (name, feeds) -> x0, pullback, squared, plain."""
    sessions = {}

    def run(name: str, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        if name not in sessions:
            parts = [
                onnx.load(bundle.folder / f"{part}.onnx", load_external_data=False)
                for part in ("linearize", "pullback")
            ]
            options = ort.SessionOptions()
            options.log_severity_level = 3
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle.folder))
            model = compose(name, *parts)
            sessions[name] = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
            assert [i.name for i in sessions[name].get_inputs()] == ["x", "sigma", *(k for k, _ in INPUTS[name])]
        return sessions[name].run(["x0", "pullback", "squared", "plain"], feeds)

    return run


@pytest.fixture(scope="module")
def denoiser(bundle) -> Denoiser:
    return OnnxDenoiser(bundle, n_threads=1)


def slices(shape: tuple[int, int, int], sigma: float) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    return (rng.random(shape) + sigma * rng.standard_normal(shape)).astype(np.float32)


def dft(n: int) -> np.ndarray:
    """The centred transform of the unit vectors, as columns: real and imaginary part."""
    matrix = np.fft.fftshift(np.fft.fft(np.eye(n), axis=0), axes=0)
    return np.stack([matrix.real, matrix.imag]).astype(np.float32)


def check(ours, expected) -> None:
    for name, a, b in zip(("x0", "pullback", "squared", "plain"), ours, expected, strict=True):
        a = a[:, 0] if a.ndim == 4 else a
        assert a.dtype == np.float32
        assert a.shape == b.shape, name
        assert np.linalg.norm(a - b) <= CLOSE * np.linalg.norm(b), name


# 16 × 22: an odd half of the width; the tiny network halves once.
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 22), (2, 26, 18)], ids=str)
@pytest.mark.parametrize("weighted", [False, True], ids=["binary", "weighted"])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_fourier(run, denoiser, shape, weighted, scale):
    rng = np.random.default_rng(7)
    mask = (rng.random(shape[1:]) < 0.4).astype(np.float32)
    if weighted:
        mask *= (0.2 + rng.random(shape[1:])).astype(np.float32)
    operator, sigma = MaskedFourier(mask), 1.5
    x = slices(shape, sigma)
    y = operator.apply(rng.random(shape, dtype=np.float32))
    y += (0.1 * rng.standard_normal((*shape, 2), dtype=np.float32)).view(np.complex64)[..., 0]
    feeds = {
        "x": x[:, None], "sigma": np.full(len(x), sigma, np.float32), "mask": mask,
        "measurement": np.stack([y.real, y.imag], axis=1), "scale": np.array([scale], np.float32),
        "dft_rows": dft(shape[1]), "dft_columns": dft(shape[2]),
    }  # fmt: skip
    check(run("guided_fourier", feeds), denoiser.guided(x, sigma, operator.fidelity(y, scale)))


@pytest.mark.parametrize(("axis", "name"), [(1, "guided_thick_rows"), (2, "guided_thick_columns")])
@pytest.mark.parametrize(
    ("factor", "profile", "gap"), [(2, "box", 0.0), (3, "box", 0.0), (4, "box", 1.5), (3, "gaussian", 0.5)]
)
@pytest.mark.parametrize("noisy", [False, True], ids=["plain", "noise"])
def test_thick(run, denoiser, axis, name, factor, profile, gap, noisy):
    rng = np.random.default_rng(8)
    shape, sigma, scale = (2, 16, 22), 0.7, 0.6
    operator = ThickSlices(shape[1:], factor, axis, profile, gap)
    x = slices(shape, sigma)
    y = operator.apply(rng.random(shape, dtype=np.float32)) + np.float32(0.05)
    noise = rng.standard_normal(y.shape, dtype=np.float32)
    mean = profile_weights(shape[axis], factor, profile, gap).astype(np.float32)
    feeds = {
        "x": x[:, None], "sigma": np.full(len(x), sigma, np.float32), "measurement": y[:, None],
        "noise": noise[:, None] * np.float32(noisy), "scale": np.array([scale], np.float32), "mean": mean,
    }  # fmt: skip
    expected = denoiser.guided(x, sigma, operator.fidelity(y, scale), noise if noisy else None)
    check(run(name, feeds), expected)


def test_the_check_sees_another_noise_level(run, denoiser):
    """The graph takes σ from its input: a wrong one shows."""
    x = slices((1, 16, 16), 1.0)
    operator = ThickSlices((16, 16), 2, 1)
    y = operator.apply(x)
    feeds = {
        "x": x[:, None], "sigma": np.full(1, 1.01, np.float32), "measurement": y[:, None],
        "noise": np.zeros_like(y[:, None]), "scale": np.ones(1, np.float32),
        "mean": profile_weights(16, 2, "box", 0.0).astype(np.float32),
    }  # fmt: skip
    with pytest.raises(AssertionError):
        check(run("guided_thick_rows", feeds), denoiser.guided(x, 1.0, operator.fidelity(y)))
