"""The operator benchmark: every row has figures or a reason, and the peers compute what ours computes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kernels
from benchmarks import operators
from benchmarks.lib.rows import OURS, Call, Operator, Row, Setting, Unavailable, measure, same, to_host
from benchmarks.peers import astra_projector
from benchmarks.peers.torch_projector import RotateAndSum

TINY = ["--slices", "2", "--size", "16", "--views", "3", "--repeats", "2", "--threads", "2"]


@pytest.fixture(autouse=True)
def settings_of_the_process_restored(monkeypatch):
    """The command sets threads and the allocator for the whole process; other tests have their own."""
    torch = sys.modules.get("torch")
    before = kernels.get_threads(), torch.get_num_threads() if torch else 1
    monkeypatch.setattr(operators, "keep_freed_memory", lambda: False)
    yield
    kernels.set_threads(before[0])
    if torch:
        torch.set_num_threads(before[1])


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    assert operators.main([*TINY, "--results", str(folder), *arguments]) == 0
    (path,) = folder.glob("operators-*.json")
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def check_rows(report: dict[str, Any]) -> None:
    for operator in report["operators"].values():
        assert next(iter(operator["rows"])) == OURS
        for row in operator["rows"].values():
            assert (row["seconds"] is None) != (row["reason"] is None)
            if row["seconds"]:
                assert row["seconds"]["n"] == 2
                # Float32 on both sides, sums of some hundred terms.
                assert (row["relative_difference"] or 0.0) < 1e-5


def test_every_row_has_figures_or_a_reason(tmp_path, capsys):
    report = run(tmp_path)
    check_rows(report)
    names = {"Radon forward", "Radon adjoint", "filtered back-projection", "single-coil gradient", "8-coil gradient"}
    names |= {"thick slices", "thick slices, transpose", "standard normals", "update x + a (x0 - x) + b z"}
    assert names <= report["operators"].keys()
    assert report["operators"]["update x + a (x0 - x) + b z"]["bytes"] == 16 * 2 * 16 * 16
    assert report["device"] == "cpu" and report["threads"] == 2
    assert report["versions"]["numpy"] == np.__version__
    shown = capsys.readouterr().out
    assert all(name in shown for name in report["operators"])


def test_missing_peers_keep_their_rows(tmp_path, monkeypatch):
    for name in ("astra", "sigpy", "sigpy.mri", "torch"):
        monkeypatch.setitem(sys.modules, name, None)
    report = run(tmp_path)
    check_rows(report)
    assert ".[peers]" in report["operators"]["Radon forward"]["rows"]["ASTRA FP"]["reason"]
    assert ".[peers]" in report["operators"]["single-coil gradient"]["rows"]["SigPy"]["reason"]
    assert ".[bench]" in report["operators"]["Radon adjoint"]["rows"]["PyTorch autograd"]["reason"]
    assert report["operators"]["Radon forward"]["rows"][OURS]["seconds"]


def test_defects_are_told_from_what_is_missing(caplog):
    def broken() -> Call:
        raise RuntimeError("no such mode")

    def missing() -> Call:
        raise Unavailable("not on this machine")

    def ours() -> Call:
        return Call(lambda: np.ones(3, np.float32), same)

    operator = Operator("ones", (Row(OURS, ours), Row("broken", broken), Row("missing", missing)), n_bytes=12)
    rows = measure(operator, Setting(1, 16, 1, 1, "cpu"), 2)
    assert rows["broken"]["is_defect"] and "no such mode" in rows["broken"]["reason"]
    assert not rows["missing"]["is_defect"] and rows["missing"]["reason"] == "not on this machine"
    assert rows[OURS]["ratio_to_ours"] == 1.0


@pytest.mark.parametrize(
    "arguments",
    [["--repeats", "1"], ["--size", "18"], ["--threads", "0"], ["--device", "cuda"]],
    ids=["repeats", "size", "threads", "device"],
)
def test_arguments_are_refused_in_one_sentence(arguments, monkeypatch, capsys):
    monkeypatch.setattr(operators, "has_gpu", lambda: False)
    with pytest.raises(SystemExit) as exit_:
        operators.main([*TINY, *arguments])
    assert exit_.value.code == 2
    assert f"{arguments[0]}: expected" in capsys.readouterr().err


@pytest.mark.parametrize("n", [15, 16])
@pytest.mark.parametrize(("n_batches", "is_channels_last"), [(1, False), (2, True), (4, False)])
def test_rotate_and_sum_is_our_projection(n, n_batches, is_channels_last):
    torch = pytest.importorskip("torch", reason="rotates with PyTorch, of the extra `bench`")
    geometry = kernels.ParallelGeometry(n, [0.0, 0.4, 1.3, 2.9])
    generator = np.random.default_rng(0)
    images = generator.random((4, n, n), dtype=np.float32)
    lines = generator.random((4, geometry.n_views, geometry.n_bins), dtype=np.float32)
    project = RotateAndSum(torch, geometry, "cpu", n_batches, is_channels_last)
    x = torch.from_numpy(images).requires_grad_()
    projected = project(x)
    (pulled,) = torch.autograd.grad(projected, x, torch.from_numpy(lines))
    # The grid's positions are float32 fractions of the lattice: some 1e-6 pixels off.
    np.testing.assert_allclose(to_host(projected), kernels.radon_forward(images, geometry), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(to_host(pulled), kernels.radon_adjoint(lines, geometry), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [64, 68])
def test_astra_projects_the_same_way_round(size):
    astra = pytest.importorskip("astra", reason="needs ASTRA, of the extra `peers`")
    setting = Setting(2, size, 7, 2, "cpu")
    geometry = kernels.ParallelGeometry.from_views(size, setting.n_views)
    geometries = astra_projector.parallel(astra, geometry)
    call = astra_projector.by_slice(setting, astra, "FP", astra_projector.JOSEPH, geometries, setting.images)
    ours = kernels.radon_forward(setting.images, geometry)
    # Two interpolations of a smooth image: both miss its integrals by about the square of a pixel's share of a wave.
    assert np.linalg.norm(call.run() - ours) < 2e-3 * np.linalg.norm(ours)
    call.close()


def test_astra_sees_the_same_fan():
    astra = pytest.importorskip("astra", reason="needs ASTRA, of the extra `peers`")
    setting = Setting(2, 64, 8, 2, "cpu")
    # More than half a turn: a source on the wrong side would be seen.
    angles_rad = np.linspace(0.0, 5.0, setting.n_views)
    source_px, detector_px, n_bins, spacing_px = 130.0, 60.0, 151, 1.4
    fan = astra_projector.fan(astra, setting.size, n_bins, spacing_px, angles_rad, source_px, detector_px)
    call = astra_projector.by_slice(setting, astra, "FP", astra_projector.FAN_LINE, fan, setting.images)
    geometry = kernels.FanGeometry((setting.size,) * 2, angles_rad, source_px, detector_px, n_bins, spacing_px)
    ours = kernels.radon_forward(setting.images, geometry)
    # ASTRA sums pixels by the length of the ray in each, without interpolation.
    assert np.linalg.norm(call.run() - ours) < 5e-3 * np.linalg.norm(ours)
    call.close()
