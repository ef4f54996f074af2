"""ONNX Runtime on a GPU: bound to arrays where they are, and never quietly on the CPU.

The CPU's provider stands in for CUDA's here, and host memory for that of a GPU: addresses, bindings and batches are
real. benchmarks/GPU_TODO.md has what only a GPU can show.
"""

from __future__ import annotations

import logging
import sys

import numpy as np
import onnxruntime as ort
import pytest

from engine.backends import onnx_gpu
from engine.backends.bundle import Bundle
from engine.backends.onnx import OnnxDenoiser
from engine.backends.onnx_gpu import PROVIDERS, OnnxGpuDenoiser
from engine.device import Device
from engine.errors import InputError, Unavailable
from engine.operators import MaskedFourier
from engine.problems.tasks import Measurement, simulate
from engine.sampling import Settings, reconstruct
from engine.sampling.posterior_mean import Prior
from engine.volume import Plane
from tests.devices import emulated_cupy

SIDE = 16
STAND_IN = "CPUExecutionProvider"


@pytest.fixture
def cupy(emulated_module, monkeypatch):
    cupy = emulated_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "kernels._cuda", emulated_module)
    return cupy


@pytest.fixture
def device(cupy, monkeypatch) -> Device:
    """A GPU that is the host: its provider the CPU's, which may have all the arithmetic."""
    monkeypatch.setattr(onnx_gpu, "_MEMORY", "cpu")
    monkeypatch.setattr(onnx_gpu, "_HEAVY", set())
    monkeypatch.setitem(PROVIDERS, STAND_IN, "nothing")
    return Device(cupy, 0)


@pytest.fixture(scope="module")
def bundle(tiny_bundles) -> Bundle:
    return Bundle.open(tiny_bundles["axial"].folder)


def noisy(n: int, shape=(SIDE, SIDE)) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, *shape)).astype(np.float32)


def close(ours, theirs, bound: float = 1e-5) -> None:
    """Equal up to float32 rounding of the network; the batch, and so the order of sums, differs."""
    assert ours.shape == theirs.shape
    assert np.linalg.norm(np.asarray(ours) - theirs) <= bound * np.linalg.norm(theirs)


@pytest.mark.parametrize(("n", "batch_size", "shape"), [(1, 8, (16, 16)), (5, 2, (12, 20)), (0, 4, (16, 16))])
def test_denoises_and_pulls_back_as_the_cpu_does(device, bundle, cupy, n, batch_size, shape):
    ours, theirs, x = (
        OnnxGpuDenoiser(bundle, device, batch_size, provider=STAND_IN),
        OnnxDenoiser(bundle),
        noisy(n, shape),
    )
    weights = np.random.default_rng(9).random(x.shape).astype(np.float32)
    with device.working():
        stack = cupy.asarray(x)
        denoised = ours.denoise(stack, 0.7)
        x0, pulled = ours.vjp(stack, 0.7, lambda x0, part: cupy.asarray(weights[part]) * x0)
    assert type(denoised) is type(pulled) is cupy.ndarray
    np.testing.assert_array_equal(stack, x)
    close(denoised, theirs.denoise(x, 0.7))
    expected = theirs.vjp(x, 0.7, lambda x0, part: weights[part] * x0)
    close(x0, expected[0])
    close(pulled, expected[1])


def test_a_guided_step_is_that_of_the_cpu(device, bundle, cupy):
    operator = MaskedFourier((np.random.default_rng(0).random((SIDE, SIDE)) < 0.4).astype(np.float32))
    x, measurement = noisy(5), operator.apply(noisy(5))
    expected = OnnxDenoiser(bundle).guided(x, 0.7, operator.fidelity(measurement, 1.5))
    ours = OnnxGpuDenoiser(bundle, device, 3, provider=STAND_IN)
    with device.working():
        fidelity = operator.on(device).fidelity(cupy.asarray(measurement), 1.5)
        found = ours.guided(cupy.asarray(x), 0.7, fidelity)
    for got, wanted in zip(found, expected, strict=True):
        assert type(got) is cupy.ndarray
        close(got, wanted, 1e-4)


@pytest.mark.parametrize("name", ["csmri", "svct"])
def test_a_reconstruction_is_that_of_the_cpu(device, tiny_bundles, name):
    volume = np.random.default_rng(0).random((SIDE,) * 3, dtype=np.float32)
    planes = [Plane.parse(p) for p in ("axial", "coronal")]
    bundles = [Bundle.open(tiny_bundles[p].folder) for p in ("axial", "coronal")]
    task = simulate(name, volume, planes[0], Measurement(acceleration=2, views=9))
    on_cpu = [Prior(OnnxDenoiser(b), p) for b, p in zip(bundles, planes, strict=True)]
    on_gpu = [Prior(OnnxGpuDenoiser(b, device, 5, provider=STAND_IN), p) for b, p in zip(bundles, planes, strict=True)]
    expected = reconstruct(task, on_cpu, Settings(n_steps=4))
    found = reconstruct(task, on_gpu, Settings(n_steps=4))
    assert type(found.volume) is np.ndarray
    close(found.volume, expected.volume, 1e-4)


def test_the_run_waits_for_what_is_still_under_way(device, bundle, cupy, monkeypatch):
    """ONNX Runtime has a stream of its own: before each graph the current one must have been waited for."""
    order = []
    monkeypatch.setattr(cupy.cuda.Stream, "synchronize", lambda stream: order.append("wait"))
    run = ort.InferenceSession.run_with_iobinding
    monkeypatch.setattr(
        ort.InferenceSession, "run_with_iobinding", lambda *a, **k: (order.append("run"), run(*a, **k))[1]
    )
    ours = OnnxGpuDenoiser(bundle, device, 2, provider=STAND_IN)
    with device.working():
        ours.vjp(cupy.asarray(noisy(4)), 0.7, lambda x0, part: x0)
    assert order == ["wait", "run"] * 4 + ["wait"]


def test_the_batch_is_halved_where_there_is_no_room(device, bundle, cupy, monkeypatch, caplog):
    ours, x = OnnxGpuDenoiser(bundle, device, 8, provider=STAND_IN), noisy(8)
    kind = type("RuntimeException", (RuntimeError,), {"__module__": "onnxruntime.capi"})
    original = OnnxGpuDenoiser._run

    def limited(self, session, inputs, *rest, **more):
        if len(next(iter(inputs.values()))) > 2:
            raise kind("Failed to allocate memory for requested buffer of size 1073741824")
        return original(self, session, inputs, *rest, **more)

    monkeypatch.setattr(OnnxGpuDenoiser, "_run", limited)
    with device.working(), caplog.at_level(logging.WARNING, "engine"):
        close(ours.denoise(cupy.asarray(x), 0.7), OnnxDenoiser(bundle).denoise(x, 0.7))
        ours.vjp(cupy.asarray(x), 0.7, lambda x0, part: x0)
    assert ours.batch_size == 2
    assert len(caplog.records) == 1


def test_a_shape_that_does_not_fit_is_no_lack_of_memory(device, bundle, cupy):
    ours = OnnxGpuDenoiser(bundle, device, 8, provider=STAND_IN)
    with device.working(), pytest.raises(Exception, match=r"dimensions|shape|Shape"):
        ours.denoise(cupy.asarray(noisy(2, (15, 15))), 0.7)
    assert ours.batch_size == 8


# --- what is refused when opened


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_a_missing_provider_is_named_with_its_package(bundle, cupy, provider):
    if provider in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    with pytest.raises(Unavailable, match=rf"with {provider}, got one with .*; install `pip install onnxruntime-gpu"):
        OnnxGpuDenoiser(bundle, Device(cupy, 0), provider=provider)


def test_a_provider_that_is_quietly_left_out_is_refused(bundle, cupy, monkeypatch):
    """What ONNX Runtime does where CUDA's libraries are missing: it says so in its log and takes the CPU."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(Unavailable, match=r"got one that could not load it; .*, and check the driver$"):
        OnnxGpuDenoiser(bundle, Device(cupy, 0))


def test_arithmetic_that_is_left_to_the_cpu_is_refused(device, bundle, monkeypatch):
    monkeypatch.setattr(onnx_gpu, "_HEAVY", {"Conv", "Gemm"})
    with pytest.raises(Unavailable, match=r"of 'denoise\.onnx', got Conv, Gemm left to the CPU; update"):
        OnnxGpuDenoiser(bundle, device, provider=STAND_IN)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_precision_that_it_lacks_is_refused(bundle, cupy, precision):
    with pytest.raises(InputError, match=rf"got {precision}; build .* --backend tensorrt --precision {precision}`$"):
        OnnxGpuDenoiser(bundle, Device(cupy, 0), precision=precision)


@pytest.mark.parametrize(("precision", "option"), [("fp32", "0"), ("tf32", "1")])
def test_the_precision_is_told_to_cuda(bundle, cupy, monkeypatch, precision, option):
    """Left to itself the provider takes TF32."""
    asked = []
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", lambda *a, providers, **k: asked.append(providers) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        OnnxGpuDenoiser(bundle, Device(cupy, 2), precision=precision)
    assert asked[0][0] == ("CUDAExecutionProvider", {"device_id": "2", "use_tf32": option})


# --- on a GPU


@pytest.mark.cuda
@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_a_gpu_computes_what_the_cpu_does(bundle, card, provider):
    """The providers themselves, on memory of the GPU."""
    if provider not in ort.get_available_providers():
        pytest.skip(f"this ONNX Runtime lacks {provider}")
    ours, theirs, x = OnnxGpuDenoiser(bundle, card, 3, provider=provider), OnnxDenoiser(bundle), noisy(7)
    weights = np.random.default_rng(9).random(x.shape).astype(np.float32)
    with card.working():
        x0, pulled = ours.vjp(card.put(x), 0.7, lambda x0, part: card.put(weights[part]) * x0)
        denoised = ours.denoise(card.put(x), 0.7)
    expected = theirs.vjp(x, 0.7, lambda x0, part: weights[part] * x0)
    # Other convolutions, whose sums are in another order.
    for got, wanted in ((x0, expected[0]), (pulled, expected[1]), (denoised, expected[0])):
        close(got.get(), wanted, 1e-3)
