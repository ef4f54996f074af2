"""Compiled graphs on a GPU: the same numbers as on the CPU, and everything that cannot run refused.

TensorRT and CuPy are stand-ins here, see tests/fake_tensorrt.py and tests/devices.py; benchmarks/GPU_TODO.md has what
only a GPU can show.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys

import numpy as np
import pytest

from engine.backends.bundle import Bundle
from engine.backends.compiled import RECORD, Compiled
from engine.backends.onnx import OnnxDenoiser
from engine.backends.tensorrt import TensorRTDenoiser
from engine.backends.tensorrt_graphs import Workspace
from engine.device import Device
from engine.errors import InputError, Unavailable
from engine.operators import CoilFourier, MaskedFourier, Radon, ThickSlices
from engine.problems.tasks import Measurement, simulate
from engine.sampling import Settings, reconstruct
from engine.sampling.noise import CounterNoise
from engine.sampling.posterior_mean import Prior
from engine.volume import Plane
from kernels import ParallelGeometry
from tests.devices import emulated_cupy
from tests.fake_tensorrt import FakeTensorRT, compile_as_fake

SIDE = 16
#: float32 rounding of the whole network; the batch, and so the order of sums, differs.
BOUND = 1e-5


@pytest.fixture
def cupy(emulated_module, monkeypatch):
    cupy = emulated_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "kernels._cuda", emulated_module)
    return cupy


@pytest.fixture
def library(monkeypatch) -> FakeTensorRT:
    module = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


@pytest.fixture
def bundle(tiny_bundles, tmp_path) -> Bundle:
    return Bundle.open(shutil.copytree(tiny_bundles["axial"].folder, tmp_path / "axial"))


@pytest.fixture
def opened(bundle, cupy, library):
    """Open compiled graphs; the arguments are those of `compile_as_fake` and of the denoiser."""

    def build(batch_size=None, workspace=None, guided_by=None, **how) -> TensorRTDenoiser:
        compiled = Compiled.open(compile_as_fake(bundle, **how), bundle)
        return TensorRTDenoiser(bundle, compiled, Device(cupy, 0), batch_size, workspace, guided_by)

    return build


def noisy(n: int, shape=(SIDE, SIDE), sigma: float = 1.0) -> np.ndarray:
    generator = np.random.default_rng(n)
    return (generator.random((n, 1, 1)) + sigma * generator.standard_normal((n, *shape))).astype(np.float32)


def close(ours, theirs, bound: float = BOUND) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert np.linalg.norm(np.asarray(ours) - theirs) <= bound * np.linalg.norm(theirs)


# --- the same numbers as on the CPU


@pytest.mark.parametrize(("n", "batch_size"), [(1, None), (5, 4), (8, 4), (7, 3), (3, 8), (0, 4)])
def test_denoises_as_the_cpu_does(opened, bundle, cupy, n, batch_size):
    ours, theirs, x = opened(batch_size), OnnxDenoiser(bundle), noisy(n)
    with ours.device.working():
        found = ours.denoise(cupy.asarray(x), 0.7)
    assert type(found) is cupy.ndarray
    close(found, theirs.denoise(x, 0.7))


@pytest.mark.parametrize(("n", "batch_size"), [(1, None), (5, 4), (7, 3), (0, 4)])
def test_pulls_back_as_the_cpu_does(opened, bundle, cupy, n, batch_size):
    ours, theirs, x = opened(batch_size), OnnxDenoiser(bundle), noisy(n)
    weights = np.random.default_rng(1).random(x.shape).astype(np.float32)
    asked = []

    def cotangent(x0, part):
        asked.extend(range(n)[part])
        return cupy.asarray(weights[part]) * x0

    with ours.device.working():
        x0, pulled = ours.vjp(cupy.asarray(x), 0.7, cotangent)
    assert asked == list(range(n))
    expected = theirs.vjp(x, 0.7, lambda x0, part: weights[part] * x0)
    close(x0, expected[0])
    close(pulled, expected[1])


def test_slices_need_not_be_square(opened, bundle, cupy):
    ours, x = opened(), noisy(3, (12, 20))
    with ours.device.working():
        close(ours.denoise(cupy.asarray(x), 0.7), OnnxDenoiser(bundle).denoise(x, 0.7))


def operators() -> dict:
    mask = (np.random.default_rng(0).random((SIDE, SIDE)) < 0.4).astype(np.float32)
    maps = np.ones((2, SIDE, SIDE), np.complex64)
    return {
        "fourier": MaskedFourier(mask),
        "rows": ThickSlices((SIDE, SIDE), 3, 1),
        "columns": ThickSlices((SIDE, SIDE), 4, 2, "gaussian", 1.0),
        "radon": Radon(ParallelGeometry.from_views(SIDE, 5)),
        "coils": CoilFourier(mask, maps),
    }


FUSED = {"fourier": "guided_fourier", "rows": "guided_thick_rows", "columns": "guided_thick_columns"}


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "in two"])
@pytest.mark.parametrize("name", operators())
def test_a_guided_step_is_that_of_the_cpu(opened, bundle, cupy, library, name, fused, noise):
    operator, x = operators()[name], noisy(5)
    measurement = operator.apply(noisy(5, sigma=0.1))
    e = (0.1 * operator.apply(noisy(5, sigma=0.2))) if noise else None
    expected = OnnxDenoiser(bundle).guided(x, 0.7, operator.fidelity(measurement, 1.5), e)
    ours = opened(3, **({} if fused else {"fused": ()}))
    with ours.device.working():
        fidelity = operator.on(ours.device).fidelity(cupy.asarray(measurement), 1.5)
        # All but the first run are CUDA graphs.
        for _ in range(3):
            found = ours.guided(cupy.asarray(x), 0.7, fidelity, None if e is None else cupy.asarray(e))
    for got, wanted in zip(found, expected, strict=True):
        assert type(got) is cupy.ndarray
        # Through the operator and back: further from the CPU's rounding than the network alone.
        close(got, wanted, 1e-4)
    is_fused = fused and name in FUSED and not (noise and name == "fourier")
    assert set(library.runs) == ({FUSED[name]} if is_fused else {"linearize", "pullback"})


def test_another_measurement_takes_the_place_of_the_last(opened, bundle, cupy):
    ours, x = opened(4), noisy(4)
    with ours.device.working():
        for seed in (0, 1):
            mask = (np.random.default_rng(seed).random((SIDE, SIDE)) < 0.4).astype(np.float32)
            operator = MaskedFourier(mask)
            measurement = operator.apply(noisy(4, sigma=seed))
            expected = OnnxDenoiser(bundle).guided(x, 0.7, operator.fidelity(measurement, 1.0))
            fidelity = operator.on(ours.device).fidelity(cupy.asarray(measurement), 1.0)
            for _ in range(3):
                found = ours.guided(cupy.asarray(x), 0.7, fidelity)
            for got, wanted in zip(found, expected, strict=True):
                close(got, wanted, 1e-4)


def test_thick_slices_that_the_graph_was_not_compiled_for_take_two_graphs(opened, cupy, library):
    library.largest = 2
    ours, operator = opened(), operators()["rows"]
    with ours.device.working():
        fidelity = operator.fidelity(cupy.asarray(operator.apply(noisy(2))))
        ours.guided(cupy.asarray(noisy(2)), 0.7, fidelity)
    assert set(library.runs) == {"linearize", "pullback"}


def test_a_guided_step_of_the_wrong_size_is_refused(opened, cupy):
    ours, operator = opened(), operators()["fourier"]
    with ours.device.working():
        fidelity = operator.on(ours.device).fidelity(cupy.asarray(operator.apply(noisy(3))))
        with pytest.raises(ValueError, match=r"^x: expected 16 rows along axis 1 and 16 columns along axis 2, got"):
            ours.guided(cupy.asarray(noisy(3, (12, 20))), 0.7, fidelity)
        with pytest.raises(ValueError, match=r"^x0: expected one slice for each"):
            ours.guided(cupy.asarray(noisy(4)), 0.7, fidelity)


# --- CUDA graphs


def test_the_second_run_on_is_a_cuda_graph(opened, cupy, library):
    ours, x = opened(4), noisy(4)
    with ours.device.working():
        first, second, third, fourth = (ours.denoise(cupy.asarray(x), 0.7) for _ in range(4))
    assert (library.runs, library.replays) == ({"denoise": 1}, {"denoise": 3})
    for other in (second, third, fourth):
        assert first.tobytes() == other.tobytes()


def test_a_cuda_graph_takes_new_slices_and_levels(opened, bundle, cupy, library):
    ours, theirs = opened(4), OnnxDenoiser(bundle)
    with ours.device.working():
        for i in range(5):
            x, sigma = noisy(4, sigma=i + 1), 0.5 * (i + 1)
            close(ours.denoise(cupy.asarray(x), sigma), theirs.denoise(x, sigma))
    assert library.replays["denoise"] > 0


def test_a_graph_is_captured_again_when_the_workspace_has_moved(opened, cupy, library):
    ours, x = opened(4), noisy(4)
    with ours.device.working():
        stack = cupy.asarray(x)
        before = [ours.denoise(stack, 0.7) for _ in range(3)]
        captured = library.runs["denoise"]
        # Needs more memory than the denoiser alone.
        ours.vjp(stack, 0.7, lambda x0, part: x0)
        after = [ours.denoise(stack, 0.7) for _ in range(3)]
    assert library.runs["denoise"] == captured + 1
    assert library.replays["denoise"] >= 4
    assert {a.tobytes() for a in before + after} == {before[0].tobytes()}


def test_two_denoisers_share_one_workspace(opened, bundle, cupy, library):
    workspace = Workspace(Device(cupy, 0))
    one = opened(2, workspace)
    other = TensorRTDenoiser(bundle, one.compiled, one.device, 8, workspace)
    x = noisy(8)
    expected = OnnxDenoiser(bundle).denoise(x, 0.7)
    with one.device.working():
        for _ in range(4):
            for denoiser in (one, other):
                close(denoiser.denoise(cupy.asarray(x), 0.7), expected)
    # As large as the larger of the two needs, not as both.
    assert workspace.n_bytes == 100 * len("denoise") * 8


@pytest.mark.parametrize("why", ["the library", "the default stream", "CUDA"])
def test_what_cannot_be_captured_is_run(opened, bundle, cupy, library, monkeypatch, why):
    ours, x = opened(4), noisy(4)
    expected = OnnxDenoiser(bundle).denoise(x, 0.7)
    library.capturable = why != "the library"
    if why == "CUDA":

        def fails(stream):
            stream.captured = None
            raise cupy.cuda.runtime.CUDARuntimeError("operation not permitted when stream is capturing")

        monkeypatch.setattr(cupy.cuda.Stream, "end_capture", fails)
    if why == "the default stream":
        found = [ours.denoise(cupy.asarray(x), 0.7) for _ in range(4)]
    else:
        with ours.device.working():
            found = [ours.denoise(cupy.asarray(x), 0.7) for _ in range(4)]
    for x0 in found:
        close(x0, expected)
    assert library.replays == {}


# --- a whole run


FAST, PUBLISHED = Settings(n_steps=4), Settings(sampler="pc", guidance="dps", n_steps=4)


@pytest.mark.parametrize(
    ("name", "settings", "batch_size"),
    [
        *((name, PUBLISHED, size) for name in ("csmri", "mrzsr", "svct", "uncond") for size in (None, 3)),
        *((name, FAST, None) for name in ("csmri", "mrzsr", "svct", "uncond")),
        ("csmri", Settings(n_steps=4, mix="sum"), 3),
        ("csmri", Settings(n_steps=4, sampler="heun"), 3),
        ("csmri", Settings(n_steps=4, guidance="dps"), None),
    ],
    ids=lambda value: f"{value.sampler} {value.guidance} {value.mix}" if isinstance(value, Settings) else None,
)
def test_a_reconstruction_is_that_of_the_cpu(tiny_bundles, tmp_path, cupy, library, name, settings, batch_size):
    volume = np.random.default_rng(0).random((SIDE, SIDE, SIDE), dtype=np.float32)
    roles = ("coronal", "axial") if name == "mrzsr" else ("axial", "coronal")
    bundles = [Bundle.open(shutil.copytree(tiny_bundles[r].folder, tmp_path / r)) for r in roles]
    planes = [Plane.parse(role) for role in roles]
    how = Measurement(acceleration=2, factor=3, views=9)
    task = simulate(name, None if name == "uncond" else volume, planes[0], how, volume.shape)
    on_cpu = [Prior(OnnxDenoiser(b), p) for b, p in zip(bundles, planes, strict=True)]
    device = Device(cupy, 0)
    workspace = Workspace(device)
    on_gpu = [
        Prior(TensorRTDenoiser(b, Compiled.open(compile_as_fake(b), b), device, batch_size, workspace), p)
        for b, p in zip(bundles, planes, strict=True)
    ]
    seen = []
    expected = reconstruct(task, on_cpu, settings)
    found = reconstruct(task, on_gpu, settings, callback=lambda state, sigma: seen.append(type(state.x.data)))
    # The state never leaves the device; the result does, and the task stays where it was.
    assert seen == [cupy.ndarray] * 4
    assert type(found.volume) is np.ndarray
    assert task.measurement is None or type(task.measurement) is np.ndarray
    close(found.volume, expected.volume, 1e-4)
    np.testing.assert_allclose(found.residuals, expected.residuals, rtol=1e-4)
    assert found.settings == expected.settings
    assert (found.plan == expected.plan).all()
    assert library.replays


def test_two_devices_in_one_run_are_refused(opened, bundle):
    ours = Prior(opened(), Plane.parse("axial"))
    other = Prior(OnnxDenoiser(bundle), Plane.parse("coronal"))
    task = simulate("uncond", None, ours.plane, shape=(SIDE,) * 3)
    with pytest.raises(InputError, match=r"^auxiliary: expected an engine on cuda:0 .*, got one on cpu; open all"):
        reconstruct(task, (ours, other), Settings(n_steps=2), noise=CounterNoise(0))


def test_numpy_arrays_are_refused(opened):
    with pytest.raises(TypeError, match=r"^x: expected cupy\.ndarray, got numpy\.ndarray; .* move x there$"):
        opened().denoise(noisy(2), 0.7)


# --- memory


def test_the_batch_is_halved_until_there_is_room_and_that_is_said_once(opened, bundle, cupy, library, caplog):
    ours, x = opened(8), noisy(16)
    library.room = 3
    with ours.device.working(), caplog.at_level(logging.WARNING, "engine"):
        first = ours.denoise(cupy.asarray(x), 0.7)
        again = [ours.denoise(cupy.asarray(x), 0.7) for _ in range(3)]
    assert ours.batch_size == 2
    assert [r.getMessage() for r in caplog.records] == [
        "cuda:0 has no room for batches of 8 slices of 16×16: going on with 2"
    ]
    for x0 in (first, *again):
        close(x0, OnnxDenoiser(bundle).denoise(x, 0.7))


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "in two"])
def test_arrays_without_room_halve_the_batch_too(opened, bundle, cupy, monkeypatch, caplog, fused):
    ours, x, operator = opened(8, **({} if fused else {"fused": ()})), noisy(8), operators()["fourier"]
    zeros = cupy.zeros

    def limited(shape, dtype=float):
        if isinstance(shape, tuple) and shape[0] > 4:
            raise cupy.cuda.memory.OutOfMemoryError("out of memory allocating")
        return zeros(shape, dtype)

    measurement = operator.apply(noisy(8, sigma=0.1))
    expected = OnnxDenoiser(bundle).guided(x, 0.7, operator.fidelity(measurement, 1.5))
    with ours.device.working():
        fidelity = operator.on(ours.device).fidelity(cupy.asarray(measurement), 1.5)
        monkeypatch.setattr(cupy, "zeros", limited)
        found = ours.guided(cupy.asarray(x), 0.7, fidelity)
    for got, wanted in zip(found, expected, strict=True):
        close(got, wanted, 1e-4)
    assert ours.batch_size == 4
    assert len(caplog.records) == 1


@pytest.mark.parametrize("smallest", [1, 3])
def test_no_room_for_the_smallest_batch_is_the_users_to_mend(opened, cupy, library, smallest):
    profile = {"batch": [smallest, 4, 8], "height": [4, 16, 64], "width": [4, 16, 64]}
    ours = opened(8, profile=profile)
    library.room = 0
    with ours.device.working(), pytest.raises(InputError, match=rf"^batch-size: .* room on cuda:0 for {smallest} at"):
        ours.denoise(cupy.asarray(noisy(8)), 0.7)
    assert ours.batch_size == smallest


def test_other_errors_of_the_library_are_not_taken_for_a_lack_of_memory(opened, cupy, library, monkeypatch):
    ours = opened(8)
    monkeypatch.setattr("tests.fake_tensorrt._Context.execute_async_v3", lambda *_: False)
    with ours.device.working(), pytest.raises(RuntimeError, match="tensorrt could not run: no reason given"):
        ours.denoise(cupy.asarray(noisy(8)), 0.7)
    assert ours.batch_size == 8


def test_fewer_slices_than_the_smallest_batch_are_filled_up(opened, bundle, cupy):
    ours, x = opened(profile={"batch": [4, 4, 8], "height": [4, 16, 64], "width": [4, 16, 64]}), noisy(2)
    with ours.device.working():
        close(ours.denoise(cupy.asarray(x), 0.7), OnnxDenoiser(bundle).denoise(x, 0.7))


# --- what is refused when opened


def test_graphs_for_another_gpu_are_refused(opened):
    with pytest.raises(Unavailable, match=r"^backend: expected graphs .*\(sm90\), got those in .* for sm80; compile"):
        opened(platform="sm80")


def test_portable_graphs_are_not(opened, cupy):
    ours = opened(platform="any")
    with ours.device.working():
        ours.denoise(cupy.asarray(noisy(2)), 0.7)


def test_graphs_of_another_version_are_refused(opened):
    with pytest.raises(Unavailable, match=r"^backend: expected tensorrt 10\.3\.0, .* got version 11\.0\.0; `pip inst"):
        opened(library_version="10.3.0")


def test_a_missing_library_is_named_with_its_package(opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(
        Unavailable, match=r"^backend: expected the library tensorrt_rtx, .*`pip install tensorrt-rtx-cu13`"
    ):
        opened(library="tensorrt_rtx")


@pytest.mark.parametrize("batch_size", [0, 9])
def test_a_batch_outside_the_profile_is_refused(opened, batch_size):
    with pytest.raises(InputError, match=rf"^batch-size: expected 1 to 8, .* got {batch_size}; choose"):
        opened(batch_size)


def test_the_default_batch_is_the_one_that_the_graphs_are_fastest_for(opened):
    assert opened().batch_size == 4


@pytest.mark.parametrize("shape", [(2, 16), (16, 128)])
def test_slices_outside_the_profile_are_refused(opened, cupy, shape):
    ours = opened()
    message = r"^volume: expected slices of 4 to 64 × 4 to 64, .*; compile .* with `.* --height \d+ --width \d+`$"
    with pytest.raises(InputError, match=message):
        ours.check_slice(shape)
    with ours.device.working(), pytest.raises(InputError, match=message):
        ours.denoise(cupy.asarray(noisy(2, shape)), 0.7)


@pytest.mark.parametrize("graph", ["denoise", "linearize", "guided_fourier"])
def test_a_damaged_graph_is_refused_when_opened(bundle, cupy, library, graph):
    folder = compile_as_fake(bundle)
    file = folder / f"{graph}.engine"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"^compiled: expected '.*{graph}\.engine' as it was compiled"):
        TensorRTDenoiser(bundle, Compiled.open(folder, bundle), Device(cupy, 0))


def test_a_missing_graph_is_refused_when_opened(bundle):
    folder = compile_as_fake(bundle)
    record = json.loads((folder / RECORD).read_text())
    del record["graphs"]["pullback"]
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"^compiled: expected the graphs .*without pullback; compile"):
        Compiled.open(folder, bundle)


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient)", "update the NVIDIA driver"),
        ("Error Code 1: Serialization (header.magicTag == kEXPECTED_MAGIC_TAG failed)", "compile it again"),
        ("Error Code 2: OutOfMemory (Requested size was 244 bytes.)", "end other programs"),
    ],
)
def test_what_the_library_refuses_is_told_with_its_reason(opened, library, said, remedy):
    library.refusal = said
    with pytest.raises(Unavailable) as caught:
        opened()
    assert str(caught.value).startswith("backend: expected tensorrt to load '")
    assert said in str(caught.value)
    assert str(caught.value).rpartition("; ")[2].startswith(remedy)


def test_what_the_run_needs_is_loaded_when_opened(opened, library, monkeypatch):
    loaded = []
    original = TensorRTDenoiser._network
    monkeypatch.setattr(TensorRTDenoiser, "_network", lambda self, g: (loaded.append(g), original(self, g))[1])
    opened(guided_by=operators()["fourier"], platform="sm90")
    opened(guided_by=operators()["fourier"], platform="any", fused=())
    opened(guided_by=operators()["radon"], precision="fp16")
    opened(precision="bf16")
    assert loaded == ["guided_fourier", "linearize", "pullback", "linearize", "pullback", "denoise"]


def test_tensorrt_for_rtx_without_a_driver_is_told_by_its_own_reason(bundle, cupy):
    """The real library builds a graph without a GPU, and loads none: its reason has to reach the user."""
    rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    folder = compile_as_fake(bundle, "tensorrt_rtx", library_version=rtx.__version__)
    content = built_by(rtx, bundle.folder / "denoise.onnx")
    (folder / "denoise.engine").write_bytes(content)
    record = json.loads((folder / RECORD).read_text())
    record["graphs"]["denoise"]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / RECORD).write_text(json.dumps(record))
    compiled = Compiled.open(folder, bundle)
    try:
        TensorRTDenoiser(bundle, compiled, Device(cupy, 0))
    except Unavailable as error:
        text = str(error)
    else:
        pytest.skip("this machine has a GPU")
    assert text.startswith("backend: expected tensorrt_rtx to load '")
    assert "cudaError" in text
    assert text.endswith("; update the NVIDIA driver")


def built_by(rtx, onnx) -> bytes:
    """A graph of one size, as TensorRT for RTX compiles it."""
    messages = rtx.Logger(rtx.Logger.ERROR)
    builder = rtx.Builder(messages)
    network = builder.create_network(0)
    assert rtx.OnnxParser(network, messages).parse_from_file(str(onnx))
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("x", *[(1, 1, SIDE, SIDE)] * 3)
    profile.set_shape("sigma", *[(1,)] * 3)
    config.add_optimization_profile(profile)
    return bytes(builder.build_serialized_network(network, config))


# --- on a GPU


@pytest.mark.cuda
@pytest.mark.slow
@pytest.mark.parametrize("name", [*operators(), None])
def test_a_gpu_computes_what_the_cpu_does(bundle, card, caplog, name):
    """The libraries themselves, from compilation to the replay of a CUDA graph."""
    compile = pytest.importorskip("export.tensorrt.compile", reason="compiling needs the extra `export`")
    tensorrt = pytest.importorskip("export.tensorrt.build", reason="compiling needs the extra `export`")
    try:
        trt = tensorrt.library()
    except InputError as error:
        pytest.skip(str(error))
    sides = {"height": str(SIDE), "width": str(SIDE)}
    settings = compile.Settings.checked(bundle, "fp32", batch="1,4,8", **sides)
    compiled, _ = compile.compile_bundle(bundle, settings, trt)
    ours, theirs, x = TensorRTDenoiser(bundle, compiled, card), OnnxDenoiser(bundle), noisy(7)
    operator = None if name is None else operators()[name]
    with card.working(), caplog.at_level(logging.INFO, "engine"):
        stack = card.put(x)
        if operator is None:
            expected = (theirs.denoise(x, 0.7),)
            found = [(ours.denoise(stack, 0.7),) for _ in range(4)]
        else:
            measurement = operator.apply(noisy(7, sigma=0.1))
            expected = theirs.guided(x, 0.7, operator.fidelity(measurement, 1.5))
            fidelity = operator.on(card).fidelity(card.put(measurement), 1.5)
            found = [ours.guided(stack, 0.7, fidelity) for _ in range(4)]
    for run in found:
        for got, wanted in zip(run, expected, strict=True):
            # Other convolutions, whose sums are in another order, and float32 through the whole network and back.
            close(got.get(), wanted, 1e-3)
    # A graph that could not be captured has said so.
    assert caplog.records == []
    assert all(program._graph is not None for program in ours._programs.values())
