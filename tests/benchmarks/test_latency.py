# ruff: noqa: E402
"""The latency benchmark: every row computes the same, and what is derived from its figures is right."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# What follows imports it.
torch = pytest.importorskip("torch", reason="the baseline needs PyTorch, of the extra `bench`")

from benchmarks import latency, tables
from benchmarks.lib import backends, peak_memory
from benchmarks.lib.eager import exact, prepare
from benchmarks.lib.flops import per_slice
from benchmarks.lib.network_rows import BASELINE, Source, Work, batch_sizes, rows_for
from benchmarks.lib.rows import Row, Setting, Unavailable
from benchmarks.lib.workload import AUXILIARY, DENOISE, GUIDED, MEASURES, PRIMARY, Workload, batches_of, engine_calls
from benchmarks.reports import latency as latency_report
from engine.backends.bundle import Bundle
from engine.backends.onnx import OnnxDenoiser
from engine.errors import InputError
from engine.operators import MaskedFourier
from engine.sampling.noise import CounterNoise, Phase
from engine.volume import Plane
from networks import Architecture
from networks.architecture import PUBLISHED

SMALL = Workload(n_slices=8, size=16, sigma_min=0.01, sigma_max=50.0, device="cpu", threads=1)


@pytest.fixture(scope="module")
def source(tiny_bundles: dict[str, Any]) -> Source:
    return Source(tiny_bundles["axial"].checkpoint, tiny_bundles["axial"].folder)


@pytest.fixture(scope="module")
def ours(source: Source) -> dict[str, Any]:
    return engine_calls(OnnxDenoiser(Bundle.open(source.bundle), 2, 1), MaskedFourier(SMALL.mask), SMALL)


def relative(value: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


# --- rows compute the same


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_eager_and_engine_agree_in_what_is_timed(source, ours, batch_size):
    eager, _ = prepare("float32", source.ckpt, SMALL, batch_size)
    assert relative(ours[DENOISE](), eager[DENOISE]().numpy()) < 1e-5
    for value, expected in zip(ours[GUIDED](), eager[GUIDED](), strict=True):
        assert relative(value, expected.numpy()) < 1e-4


@pytest.mark.parametrize("turn, later, axes, guided", [(PRIMARY, 0, (2, 0, 1), True), (AUXILIARY, 1, (2, 1, 0), False)])
def test_turns_are_steps_of_the_sampler(source, ours, monkeypatch, turn, later, axes, guided):
    """With the sampler's own noise the baseline's turn gives what the sampler gives."""
    eager, _ = prepare("float32", source.ckpt, SMALL, 6)
    plane = Plane(axes)
    z = CounterNoise(0).draw(SMALL.step + later, Phase.CORRECTOR, plane, (SMALL.size, SMALL.size, SMALL.n_slices))
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.from_numpy(np.ascontiguousarray(z))[:, None])
    assert relative(eager[turn]().numpy(), ours[turn]().x.gathered()) < 1e-4


def test_exact_gradient_is_that_of_autograd_over_the_group(source):
    found_x0, found = exact(source.ckpt, SMALL, 2)
    eager, _ = prepare("float32", source.ckpt, SMALL, 8)
    x0, gradient = eager[GUIDED]()
    assert relative(found_x0.numpy(), x0[:2].numpy()) < 1e-5
    assert relative(found.numpy(), gradient[:2].numpy()) < 1e-4
    assert found.dtype == torch.float64


@pytest.mark.parametrize("variant, bound", [("bfloat16", 0.1), ("float16", 0.02), ("channels-last", 1e-4)])
def test_variants_of_eager_differ_by_their_rounding(source, variant, bound):
    exact_row, row = (prepare(v, source.ckpt, SMALL, 8)[0] for v in ("float32", variant))
    error = relative(row[GUIDED]()[1].numpy(), exact_row[GUIDED]()[1].numpy())
    assert error < bound
    assert variant == "channels-last" or error > 1e-5, "half precision was not used"


def test_batches_hold_whole_groups():
    groups = [slice(0, 4), slice(4, 8), slice(8, 11)]
    assert batches_of(groups, 1) == [[g] for g in groups]
    assert batches_of(groups, 8) == [groups[:2], groups[2:]]
    assert batches_of(groups, 100) == [groups]


# --- arithmetic


def test_operations_are_those_counted_by_hand():
    architecture = Architecture(nf=8, ch_mult=(1,), n_res_blocks=1, resblock="ddpm", scale_by_sigma=True)
    pixels = 16 * 16

    def conv(n_in: int, n_out: int, kernel: int = 3) -> int:
        return 2 * n_in * n_out * kernel**2 * pixels

    def block(n_in: int, n_out: int) -> int:
        shortcut = conv(n_in, n_out, 1) if n_in != n_out else 0
        return conv(n_in, n_out) + conv(n_out, n_out) + shortcut + 2 * 32 * n_out

    embedding = 2 * (16 * 32 + 32 * 32)
    attention = 4 * conv(8, 8, 1) + 2 * (2 * pixels * pixels * 8)
    # Down one block, bottleneck of two around attention, up two blocks that take the skips, first and last layer.
    expected = embedding + conv(1, 8) + 3 * block(8, 8) + attention + 2 * block(16, 8) + conv(8, 1)
    assert per_slice(architecture, 16)["forward"] == expected


def test_the_published_network_takes_1_33_tflop_a_slice():
    found = per_slice(PUBLISHED, 256)
    assert found["forward"] == pytest.approx(1.33e12, rel=0.005)
    # To the image alone: no gradients of weights, which would make it twice as much.
    assert found["backward"] == pytest.approx(found["forward"], rel=0.01)


def test_a_volume_is_every_turn_of_the_plan_on_every_slice():
    # 2 of 16 slices took 3 s in a primary turn and 1 s in an auxiliary one.
    workload = Workload(2, 16, 0.01, 50.0, "cpu", 1)
    assert latency.volume_seconds(3.0, 1.0, workload, 2000) == pytest.approx(8 * (1000 * 3 + 1000 * 1))
    assert latency.volume_seconds(3.0, 1.0, workload, 5) == pytest.approx(8 * (3 * 3 + 2 * 1))
    assert latency.volume_seconds(3.0, None, workload, 5) is None


@pytest.mark.parametrize("seconds, text", [(5.0, "5.0 s"), (150.0, "2.5 min"), (9000.0, "2.5 h"), (None, "–")])
def test_durations_read_well(seconds, text):
    assert latency_report.duration(seconds) == text


# --- rows that cannot run


def fake(name: str, side: str, seconds_by_batch: dict[int, float], clock: list[float]) -> Row:
    def prepare(source: Source, workload: Workload, batch_size: int) -> Work:
        def call() -> None:
            clock[0] += seconds_by_batch[batch_size]

        return Work(dict.fromkeys(MEASURES, call))

    return Row(name, prepare, side)


def test_the_fastest_batch_is_taken(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock[0])
    setting = Setting(8, 16, 0, 1, "cpu")
    row = fake("ours", "engine", {1: 3.0, 2: 1.0, 4: 2.0}, clock)
    entry, work = latency.prepared(row, Source(None, Path()), SMALL, [1, 2, 4], setting)
    assert entry["batch_size"] == 2 and work is not None
    assert entry["tried_batch_sizes"] == {"1": 3.0, "2": 1.0, "4": 2.0}


def failing(error: Exception) -> Row:
    def prepare(*_: object) -> Work:
        raise error

    return Row("ours", prepare, "engine")


@pytest.mark.parametrize(
    "error, is_defect",
    [
        (Unavailable("no such card"), False),
        (InputError("memory", "room", "none", "ask for less"), False),
        (OSError("torn"), True),
    ],
)
def test_a_row_that_fails_says_why(error, is_defect):
    entry, work = latency.prepared(failing(error), Source(None, Path()), SMALL, [1, 2], Setting(8, 16, 0, 1, "cpu"))
    assert work is None
    assert str(error) in entry["reason"]
    assert entry["is_defect"] is is_defect


def test_a_batch_that_does_not_fit_leaves_the_smaller_one(monkeypatch):
    def prepare(source: Source, workload: Workload, batch_size: int) -> Work:
        if batch_size != 2:
            raise InputError("batch-size", "2", batch_size, "leave it out")
        return Work(dict.fromkeys(MEASURES, lambda: None))

    entry, work = latency.prepared(
        Row("ours", prepare, "engine"), Source(None, Path()), SMALL, [1, 2, 4], Setting(8, 16, 0, 1, "cpu")
    )
    assert work is not None and entry["batch_size"] == 2 and entry["reason"] is None
    assert "got 4" in entry["larger_batch_sizes"]


def test_backends_of_another_device_say_so(source):
    (row,) = (r for r in rows_for("cpu") if r.name == "tensorrt fp16")
    with pytest.raises(Unavailable, match="device"):
        row.prepare(source, SMALL, 1)


def test_a_compiler_that_is_missing_is_a_reason(source, monkeypatch):
    def compiled(*_: object, **__: object) -> Any:
        def call(*_: object) -> Any:
            raise torch._dynamo.exc.TorchDynamoException("no C++ compiler")

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    (row,) = (r for r in rows_for("cpu") if r.name == "eager compile")
    with pytest.raises(Unavailable, match="no C\\+\\+ compiler"):
        row.prepare(source, SMALL, 1)


def test_without_pytorch_the_baseline_has_a_reason():
    (row,) = (r for r in rows_for("cpu") if r.name == BASELINE)
    with pytest.raises(Unavailable, match="no PyTorch"):
        row.prepare(Source(None, Path(), "no PyTorch"), SMALL, 1)


def test_batches_that_are_tried_never_exceed_the_stack():
    for row in rows_for("cuda"):
        for n in (1, 5, 24):
            assert 1 <= min(batch_sizes(row, Workload(n, 16, 0.01, 50.0, "cuda", 1), True))
            assert max(batch_sizes(row, Workload(n, 16, 0.01, 50.0, "cuda", 1), True)) <= n


# --- processes and reports


@pytest.mark.parametrize("name", [BASELINE, "onnx"])
def test_memory_is_of_a_process_without_the_other_side(source, name):
    texts = {"ckpt": str(source.ckpt), "bundle": str(source.bundle), "reason": ""}
    found = peak_memory.measured(name, texts, SMALL, 2)
    assert found["foreign"] == []
    assert found["peak_mb"] > found["imported_mb"] > 10
    assert found["above_imports_mb"] == pytest.approx(found["peak_mb"] - found["imported_mb"])


def test_memory_of_a_row_that_fails_is_a_reason(tmp_path):
    found = peak_memory.measured("onnx", {"ckpt": None, "bundle": str(tmp_path), "reason": ""}, SMALL, 2)
    assert "expected an engine bundle" in found["reason"]


@pytest.fixture
def report(source, tmp_path, monkeypatch) -> dict[str, Any]:
    """A real run of three rows on a tiny network; one of them does not exist here."""
    built = {"seconds": 1.0, "is_shipped": False, "bytes": 1}
    monkeypatch.setattr(latency, "_network", lambda arch, folder: (source, built))
    monkeypatch.setattr(latency.machine, "matrix_rate", lambda device, dtype: 1e12)
    argv = ["--rows", "onnx", "tensorrt fp16", "--device", "cpu", "--size", "16", "--slices", "4", "--repeats", "2"]
    assert latency.main([*argv, "--threads", "1", "--batch-size", "2", "--results", str(tmp_path / "results")]) == 0
    (path,) = (tmp_path / "results").glob("latency-demo-*.json")
    assert path.with_suffix(".png").stat().st_size > 1000
    return json.loads(path.read_text())


def test_a_run_reports_every_row(report, tmp_path, monkeypatch):
    rows = report["rows"]
    assert list(rows) == [BASELINE, "onnx", "tensorrt fp16"]
    # A batch of 2 was asked for; the baseline takes its 4 slices, one group, at once all the same.
    assert (rows[BASELINE]["batch_size"], rows["onnx"]["batch_size"]) == (4, 2)
    for name in (BASELINE, "onnx"):
        assert all(rows[name]["seconds"][m]["median"] > 0 for m in MEASURES)
        assert rows[name]["relative_error"]["gradient"] < 1e-4
        assert rows[name]["memory"]["peak_mb"] > 0
        assert rows[name]["volume_seconds"]["published plan"] > rows[name]["volume_seconds"]["demonstration"] > 0
    assert rows[BASELINE]["ratio_to_eager"][GUIDED] == 1
    ratio = rows[BASELINE]["seconds"][GUIDED]["median"] / rows["onnx"]["seconds"][GUIDED]["median"]
    assert rows["onnx"]["ratio_to_eager"][GUIDED] == pytest.approx(ratio)
    fraction = report["flops_per_slice"][DENOISE] * 4 / rows["onnx"]["seconds"][DENOISE]["median"] / 1e12
    assert rows["onnx"]["fraction_of_matrix_rate"][DENOISE] == pytest.approx(fraction)
    assert rows["tensorrt fp16"]["reason"] and not any(rows["tensorrt fp16"]["seconds"].values())

    text = latency.table(report)
    assert "tensorrt fp16: not here: " in text and "extrapolated" in text
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    table = tables.latency_table()
    assert "| onnx |" in table and "tensorrt fp16: " in table


def test_arguments_that_cannot_be_met_are_refused(capsys):
    assert latency.main(["--rows", "abacus"]) == 2
    assert "abacus" in capsys.readouterr().err
    with pytest.raises(InputError, match="repeats"):
        latency.run(Namespace(arch="demo", device="cpu", slices=1, size=16, repeats=1, threads=1, rows=None), [])


def test_graphs_are_compiled_for_the_sizes_that_are_timed(source, monkeypatch):
    """And what the compiler has to say against it is the row's reason."""
    commands = []

    def run(command: list[str], **_: object) -> Namespace:
        commands.append(command)
        return Namespace(returncode=2, stderr="loading …\nbuild_engine: backend: expected TensorRT, got none\n")

    monkeypatch.setattr(backends, "gpu", lambda: None)
    monkeypatch.setattr(backends.subprocess, "run", run)
    (backend,) = (b for b in backends.BACKENDS if b.name == "tensorrt bf16")
    bundle = Bundle.open(source.bundle)
    with pytest.raises(
        Unavailable, match=r"^export\.build_engine: build_engine: backend: expected TensorRT, got none$"
    ):
        backend.open(backends.Problem(bundle, (16, 24), MaskedFourier(SMALL.mask), 4, 12, 1))
    (command,) = commands
    options = dict(zip(command[3::2], command[4::2], strict=True))
    assert options["--bundle"] == str(bundle.folder)
    assert (options["--precision"], options["--batch"]) == ("bf16", "1,8,12")
    assert (options["--height"], options["--width"]) == ("16", "24")
