"""What runs the networks: the fastest that can, or what was asked for, or one sentence that says why not."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from engine.backends import onnx_gpu
from engine.backends.bundle import PROGRAM, Bundle
from engine.backends.compiled import RECORD
from engine.backends.native import NativeDenoiser
from engine.backends.onnx import OnnxDenoiser
from engine.backends.onnx_gpu import OnnxGpuDenoiser
from engine.backends.select import Request, Role, select
from engine.backends.tensorrt import TensorRTDenoiser
from engine.device import CPU, Device, gpu, parse
from engine.errors import InputError, Unavailable
from engine.operators import ThickSlices
from engine.run import main
from kernels.network import instruction_sets
from tests.devices import emulated_cupy
from tests.fake_tensorrt import FakeTensorRT, compile_as_fake

SIDE = 16


@pytest.fixture
def no_gpu(monkeypatch):
    """A machine without CuPy, whatever this one has."""
    monkeypatch.setitem(sys.modules, "cupy", None)


@pytest.fixture
def cupy(emulated_module, monkeypatch):
    """A machine with a GPU, and with TensorRT; ONNX Runtime's providers are what they are here."""
    cupy = emulated_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "kernels._cuda", emulated_module)
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT())
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    return cupy


@pytest.fixture
def roles(tiny_bundles, tmp_path) -> dict[str, Role]:
    """Copies of both bundles, to compile graphs below."""
    found = {}
    for role, plane in (("primary", "axial"), ("auxiliary", "coronal")):
        bundle = Bundle.open(shutil.copytree(tiny_bundles[plane].folder, tmp_path / plane))
        found[role] = Role(bundle, (SIDE, SIDE), ThickSlices((SIDE, SIDE), 4, 2) if role == "primary" else None)
    return found


def compile_both(roles, **how) -> None:
    for role in roles.values():
        compile_as_fake(role.bundle, **how)


# --- the fastest that can


def without_program(role: Role) -> Role:
    """The same with a bundle of an exporter that wrote no program for the native backend."""
    bundle = role.bundle
    files = {name: digest for name, digest in bundle.manifest["files"].items() if name != PROGRAM}
    return replace(role, bundle=Bundle(bundle.folder, {**bundle.manifest, "files": files}))


def test_a_cpu_takes_the_native_kernels(roles, no_gpu):
    chosen = select(roles, Request(n_threads=3, batch_size=5))
    assert {name: type(d) for name, d in chosen.denoisers.items()} == dict.fromkeys(roles, NativeDenoiser)
    assert (chosen.backend, chosen.device, chosen.precision, chosen.batch_size) == ("native", CPU, "fp32", 5)
    assert {d.n_threads for d in chosen.denoisers.values()} == {3}
    record = {"name": "native", "precision": "fp32", "device": "cpu", "why": chosen.why}
    assert chosen.record() == {**record, "instructions": instruction_sets()[0]}


def test_or_onnx_runtime_where_a_bundle_has_no_program(roles, no_gpu):
    roles["auxiliary"] = without_program(roles["auxiliary"])
    chosen = select(roles, Request())
    assert {name: type(d) for name, d in chosen.denoisers.items()} == dict.fromkeys(roles, OnnxDenoiser)
    assert str(chosen) == (
        "onnx on cpu, fp32, batches of 2 (not tensorrt on a GPU or onnx on a GPU: no CuPy that can be imported; "
        "not native: no network.json, which earlier exporters did not write)"
    )
    with pytest.raises(Unavailable, match=r"^backend: expected one that runs '.*coronal', got no network"):
        select(roles, Request("native"))


def test_or_where_the_slices_are_too_large(roles, no_gpu):
    roles["primary"] = replace(roles["primary"], slice_shape=(512, 258))
    chosen = select(roles, Request())
    assert chosen.backend == "onnx"
    assert "not native: 512×258: size: expected at most 16384 pixels where the network attends" in str(chosen)
    with pytest.raises(Unavailable, match=r"^backend: expected slices that the native kernels take"):
        select(roles, Request("native"))


def test_or_where_the_program_is_of_another_format(roles, no_gpu):
    folder = roles["primary"].bundle.folder
    program = json.loads((folder / PROGRAM).read_text())
    (folder / PROGRAM).write_text(json.dumps({**program, "format": 99}))
    chosen = select(roles, Request())
    assert chosen.backend == "onnx"
    assert "not native: program: expected format 1, got 99" in str(chosen)


def test_a_gpu_takes_compiled_graphs(roles, cupy):
    compile_both(roles)
    chosen = select(roles, Request())
    assert {type(d) for d in chosen.denoisers.values()} == {TensorRTDenoiser}
    assert str(chosen) == "tensorrt on cuda:0, fp32, batches of 4 (the fastest)"
    assert chosen.record()["compiled"]["primary"]["library_version"] == "11.0.0"
    # One run at a time, one workspace.
    assert len({id(d._workspace) for d in chosen.denoisers.values()}) == 1


def test_the_most_exact_precision_is_taken_unless_one_is_named(roles, cupy):
    compile_both(roles, precision="bf16")
    compile_both(roles, precision="fp16")
    assert select(roles, Request()).precision == "fp16"
    assert select(roles, Request(precision="bf16")).precision == "bf16"


def test_one_prior_in_another_precision_does_not_count(roles, cupy):
    compile_both(roles, precision="fp16")
    compile_as_fake(roles["primary"].bundle, precision="fp32")
    assert select(roles, Request("tensorrt")).precision == "fp16"


def test_graphs_for_this_gpu_come_before_portable_ones_and_both_before_others(roles, cupy):
    compile_both(roles, platform="any")
    compile_both(roles, platform="sm80")
    for role in roles.values():
        compile_as_fake(role.bundle, platform="sm90", fused=())
    chosen = select(roles, Request())
    assert [d.compiled.platform for d in chosen.denoisers.values()] == ["sm90", "sm90"]


def test_a_folder_that_cannot_be_used_does_not_hide_one_that_can(roles, cupy):
    compile_both(roles, library="tensorrt_rtx", platform="any")
    compile_both(roles, platform="any", library_version="9.0")
    compile_both(roles, platform="sm90")
    assert {d.compiled.name for d in select(roles, Request()).denoisers.values()} == {"tensorrt-fp32-sm90"}


def test_a_gpu_without_compiled_graphs_takes_onnx_runtime(roles, cupy, monkeypatch):
    monkeypatch.setattr(onnx_gpu, "_HEAVY", set())
    monkeypatch.setitem(onnx_gpu.PROVIDERS, "CPUExecutionProvider", "nothing")
    # The CPU's provider stands in for CUDA's.
    monkeypatch.setattr(OnnxGpuDenoiser.__init__, "__defaults__", (8, "fp32", "CPUExecutionProvider"))
    chosen = select(roles, Request())
    assert {type(d) for d in chosen.denoisers.values()} == {OnnxGpuDenoiser}
    assert str(chosen) == "onnx on cuda:0, fp32, batches of 8 (not tensorrt on a GPU: nothing compiled)"


# --- what was asked for, or a refusal


def refused(roles, **request) -> str:
    with pytest.raises(InputError, match=r"^[a-z-]+: expected [^\n]+; [^\n]+$") as caught:
        select(roles, Request(**request))
    return str(caught.value)


@pytest.mark.parametrize("backend", ["auto", "tensorrt", "onnx"])
def test_a_gpu_that_is_not_there_is_not_replaced(roles, no_gpu, backend):
    assert refused(roles, backend=backend, device="cuda").startswith("device: expected CuPy")


def test_compiled_graphs_without_a_gpu_are_not_replaced(roles, no_gpu):
    assert refused(roles, backend="tensorrt").startswith("device: expected CuPy")


def test_missing_graphs_are_refused_with_the_command_that_builds_them(roles, cupy):
    compile_as_fake(roles["primary"].bundle)
    folder = roles["auxiliary"].bundle.folder
    command = f"`python -m export.build_engine --bundle {folder} --backend tensorrt --precision"
    assert refused(roles, backend="tensorrt").endswith(f"{command} fp32`")
    assert refused(roles, backend="tensorrt", precision="bf16").endswith("--precision bf16`")


def test_priors_in_two_precisions_are_refused_with_what_one_of_them_lacks(roles, cupy):
    compile_as_fake(roles["primary"].bundle, precision="fp16")
    compile_as_fake(roles["auxiliary"].bundle, precision="bf16")
    folder = roles["auxiliary"].bundle.folder
    assert refused(roles, backend="tensorrt").endswith(f"--bundle {folder} --backend tensorrt --precision fp16`")


def test_a_backend_is_not_moved_to_another_device(roles, cupy):
    assert "backend tensorrt works on, got 'cpu'" in refused(roles, backend="tensorrt", device="cpu")
    assert "backend native works on, got 'cuda'" in refused(roles, backend="native", device="cuda")


@pytest.mark.parametrize("backend", ["auto", "onnx", "native"])
@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16"])
def test_a_cpu_computes_in_float32(roles, backend, precision):
    line = refused(roles, backend=backend, precision=precision, device="cpu")
    assert line.startswith(f"precision: expected fp32 on a CPU, got {precision}; ")
    assert line.endswith(f"--backend tensorrt --precision {precision}`")


def test_a_lower_precision_is_not_replaced_by_a_backend_that_lacks_it(roles, cupy):
    compile_both(roles, precision="fp32")
    assert refused(roles, precision="fp16").endswith("--precision fp16`")


def test_the_reason_against_the_first_folder_is_told(roles, cupy):
    compile_both(roles, platform="sm80")
    assert "those in" in refused(roles, backend="tensorrt")
    compile_both(roles, platform="any", bundle="of another")
    assert "got those of another one" in refused(roles, backend="tensorrt")


def test_damaged_graphs_are_not_run(roles, cupy):
    compile_both(roles)
    file = roles["auxiliary"].bundle.folder / "compiled" / "tensorrt-fp32-sm90" / "pullback.engine"
    file.write_bytes(file.read_bytes() + b" ")
    assert "as it was compiled" in refused(roles, backend="tensorrt")


def test_a_half_written_folder_is_never_loaded(roles, cupy):
    compile_both(roles)
    for role in roles.values():
        folder = role.bundle.folder / "compiled" / "tensorrt-fp32-sm90"
        # As the exporter writes: under another name until it is whole.
        folder.rename(folder.with_name(f".{folder.name}.part"))
    assert ", got nothing compiled; " in refused(roles, backend="tensorrt")
    for role in roles.values():
        folder = role.bundle.folder / "compiled" / "tensorrt-fp32-sm90"
        folder.with_name(f".{folder.name}.part").rename(folder)
        (folder / RECORD).unlink()
    assert RECORD in refused(roles, backend="tensorrt")


def test_slices_and_batches_outside_the_profile_are_refused(roles, cupy):
    compile_both(roles)
    assert refused(roles, backend="tensorrt", batch_size=9).startswith("batch-size: expected 1 to 8")
    wide = {name: Role(role.bundle, (SIDE, 128), role.operator) for name, role in roles.items()}
    assert refused(wide, backend="tensorrt").startswith("volume: expected slices of 4 to 64 × 4 to 64")


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"backend": "torch"}, "backend"),
        ({"precision": "int8"}, "precision"),
        ({"device": "gpu"}, "device"),
        ({"device": "cuda:"}, "device"),
        ({"device": "cuda:-1"}, "device"),
        ({"device": "cuda:1000000"}, "device"),
        ({"batch_size": 0}, "batch-size"),
        ({"n_threads": 0}, "threads"),
    ],
    ids=str,
)
def test_words_that_mean_nothing_are_refused(roles, request_, named):
    assert refused(roles, **request_).startswith(f"{named}: ")


# --- devices


def test_devices_have_names():
    assert [parse(name) for name in ("cpu", "cuda", "cuda:0", "cuda:3")] == [None, 0, 0, 3]
    assert CPU.name == "cpu"
    array = np.zeros(3)
    with CPU.working():
        assert CPU.put(array) is array


def test_a_gpu_has_a_stream_while_it_works(cupy):
    device = gpu()
    assert (device.name, device.platform, device) == ("cuda:0", "sm90", Device(cupy, 0))
    assert cupy.cuda.get_current_stream().ptr == 0
    with device.working():
        assert cupy.cuda.get_current_stream().ptr != 0
        assert type(device.put(np.zeros(3))) is cupy.ndarray
    assert cupy.cuda.get_current_stream().ptr == 0


def refuses_gpu(number: int = 0) -> str:
    with pytest.raises(Unavailable, match=r"^device: expected .+, got .+; .+$") as caught:
        gpu(number)
    return str(caught.value)


def test_a_machine_without_a_driver_is_told_so(cupy):
    cupy.cuda.runtime.driverGetVersion = lambda: 0
    assert "got no NVIDIA driver" in refuses_gpu()


def test_an_old_driver_is_told_with_what_is_needed(cupy):
    cupy.cuda.runtime.driverGetVersion = lambda: 12040
    line = refuses_gpu()
    assert "expected a driver for CUDA 13, which CuPy was built for, got a driver for CUDA 12.4" in line
    assert "update the driver, or install cupy-cuda12x instead" in line


def test_an_older_driver_of_the_same_major_version_will_do(cupy):
    cupy.cuda.runtime.driverGetVersion, cupy.cuda.runtime.runtimeGetVersion = lambda: 13000, lambda: 13020
    assert gpu() == Device(cupy, 0)


def test_no_gpu_and_too_few_are_told(cupy):
    assert "got 1 of them" in refuses_gpu(1)
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    assert "got none" in refuses_gpu()

    def fails():
        raise cupy.cuda.runtime.CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    cupy.cuda.runtime.getDeviceCount = fails
    assert "no CUDA-capable device is detected" in refuses_gpu()


def test_kernels_without_cuda_are_told(cupy, monkeypatch):
    monkeypatch.setitem(sys.modules, "kernels._cuda", None)
    assert "got kernels built without CUDA; install again where nvcc is found" in refuses_gpu()


# --- the command line


def argv(roles, out, *more) -> list[str]:
    folders = ["--primary", roles["primary"].bundle.folder, "--auxiliary", roles["auxiliary"].bundle.folder]
    return [str(a) for a in ("--task", "uncond", "--steps", 4, "--quiet", "--out", out, *folders, *more)]


def test_the_plan_and_the_record_say_what_runs(roles, tmp_path, cupy, capsys):
    compile_both(roles)
    assert main(argv(roles, tmp_path / "gpu", "--dry-run")) == 0
    assert "backend    tensorrt on cuda:0, fp32, batches of 4 (the fastest)\n" in capsys.readouterr().out
    assert main(argv(roles, tmp_path / "gpu")) == 0
    record = json.loads((tmp_path / "gpu" / "run.json").read_text())
    assert (record["backend"]["name"], record["backend"]["device"], record["batch_size"]) == ("tensorrt", "cuda:0", 4)
    assert record["threads"] is None
    assert main(argv(roles, tmp_path / "cpu", "--backend", "onnx", "--device", "cpu", "--threads", 1)) == 0
    record = json.loads((tmp_path / "cpu" / "run.json").read_text())
    assert record["backend"] == {"name": "onnx", "precision": "fp32", "device": "cpu", "why": "as asked"}
    assert (record["threads"], record["batch_size"]) == (1, 2)


def test_the_command_line_refuses_in_one_line(roles, tmp_path, no_gpu, capsys):
    for more in (("--backend", "tensorrt"), ("--device", "cuda"), ("--precision", "fp16", "--device", "cpu")):
        assert main(argv(roles, tmp_path / "out", *more)) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("engine.run: ")
    assert not (tmp_path / "out").exists()
