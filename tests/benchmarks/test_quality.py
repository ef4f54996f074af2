"""The quality benchmark: cells are run once, kept whole, and compared right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kernels
from benchmarks import ROOT, quality, tables
from benchmarks.lib.cells import Laboratory, Store, Truth, measured, streaks
from benchmarks.lib.configurations import PROBLEMS, Configuration, at_steps, configurations, sweep
from benchmarks.reports import quality as quality_report
from engine import demo
from engine.errors import InputError
from engine.job.choices import PRESETS
from engine.problems.tasks import simulate
from engine.volume import NAMED_PLANES, Plane

TINY = ["--tasks", "csmri-8", "--methods", "fast", "classical", "--threads", "2"]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """A preset of three steps; and threads, which the command sets for the whole process, as they were."""
    monkeypatch.setitem(PRESETS, "fast", {**PRESETS["fast"], "n_steps": 3})
    before = kernels.get_threads()
    yield
    kernels.set_threads(before)


@pytest.fixture
def runs(monkeypatch) -> list[str]:
    """Names of the configurations that are really run."""
    found: list[str] = []
    run = Laboratory.run
    monkeypatch.setattr(Laboratory, "run", lambda self, cell: found.append(cell.configuration.name) or run(self, cell))
    return found


def report_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("quality-*.json")
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_the_command_writes_figures_plot_and_picture_and_recomputes_only_what_is_damaged(tmp_path, capsys, runs):
    pytest.importorskip("nilearn")
    command = [*TINY, "--results", str(tmp_path)]
    assert quality.main(command) == 0
    assert runs == ["fast", "classical"]
    first = report_of(tmp_path)
    assert "CS-MRI ×8" in capsys.readouterr().out
    assert len(list(tmp_path.glob("quality-*.png"))) == 2
    cells = {cell["configuration"]: cell for cell in first["cells"]}
    assert cells["fast"]["figures"]["n_evaluations"] == 3 and cells["classical"]["figures"]["n_evaluations"] == 0
    assert cells["fast"]["figures"]["psnr_db"] > cells["classical"]["figures"]["psnr_db"]
    # Proximal consistency meets samples of k-space exactly.
    assert cells["fast"]["figures"]["data_residual"] < 1e-5

    runs.clear()
    assert quality.main(command) == 0
    assert runs == []
    assert report_of(tmp_path)["cells"] == first["cells"]

    file = tmp_path / "cells" / f"{Store.key(cells['classical']['identity'])}.json"
    for damaged in (file.read_text()[:-20], file.read_text().replace('"failure": null', '"failure": "none"')):
        file.write_text(damaged)
        runs.clear()
        assert quality.main(command) == 0
        assert runs == ["classical"]
    file.with_suffix(".npy").unlink()
    assert quality.main(command) == 0
    assert runs == ["classical", "classical"]


def test_what_is_interrupted_is_kept_so_far(tmp_path, capsys, monkeypatch, runs):
    pytest.importorskip("nilearn")
    run = Laboratory.run

    def interrupted(self, cell):
        if cell.configuration.name == "classical":
            raise KeyboardInterrupt
        return run(self, cell)

    command = [*TINY, "--results", str(tmp_path)]
    with monkeypatch.context() as patched:
        patched.setattr(Laboratory, "run", interrupted)
        assert quality.main(command) == 130
    assert "goes on" in capsys.readouterr().err
    runs.clear()
    assert quality.main(command) == 0
    assert runs == ["classical"]


def test_the_published_sampler_gets_the_best_weight_of_its_search(tmp_path, capsys):
    pytest.importorskip("nilearn")
    command = ["--tasks", "mrzsr-4", "--methods", "pc", "--pc-steps", "2", "--threads", "2", "--results", str(tmp_path)]
    assert quality.main(command) == 0
    cells = report_of(tmp_path)["cells"]
    tried = {c["identity"]["dps_weight_multiple"]: c["figures"]["psnr_db"] for c in cells if c["group"] == "search"}
    assert list(tried) == [0.3, 1, 3, 10]
    (found,) = (cell for cell in cells if cell["group"] == "main")
    assert found["identity"]["dps_weight_multiple"] == max(tried, key=lambda multiple: tried[multiple])
    weights = {c["identity"]["dps_weight_multiple"]: c["dps_weight"] for c in cells}
    assert weights[10] == pytest.approx(10 * weights[1])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--tasks", "csmri-9"], "tasks: expected"),
        (["--methods", "slow"], "methods: expected"),
        (["--methods"], "methods: expected"),
        (["--seeds", "0"], "seeds: expected"),
        (["--axial-slices", "0"], "axial_slices: expected"),
        (["--pc-steps", "1"], "steps: expected"),
        (["--sweep", "speed=1"], "sweep: expected"),
        (["--sweep", "K=often"], "sweep: expected"),
        (["--sweep", "K=1"], "K: expected"),
        (["--sweep", "planes=axial+axial"], "sweep: expected"),
        (["--sweep", "mix=stir"], "mix: expected"),
        (["--volumes", "nothing.nii.gz"], "volume: expected"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, word, capsys):
    assert quality.main(["--list", *TINY, *arguments]) == 2
    said = capsys.readouterr().err
    assert word in said and said.count("\n") == 1


def test_a_plane_without_a_prior_is_refused_before_anything_runs(capsys, monkeypatch, tmp_path, runs):
    pytest.importorskip("nilearn")
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "coronal").symlink_to(demo.bundle_folder("coronal"))
    assert quality.main([*TINY, "--prior", str(tmp_path / "some"), "--results", str(tmp_path)]) == 2
    assert "planes: expected planes of" in capsys.readouterr().err and runs == []


def test_the_list_is_what_would_run(capsys):
    pytest.importorskip("nilearn")
    assert quality.main(["--list", "--tasks", "csmri", "--methods", "fast", "pc", "classical", "--seeds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # Two problems: fast and pc with two seeds, one classical, four of the search.
    assert lines[-1] == "18 cells" and len(lines) == 19


def test_sweeps_change_one_setting():
    assert [c.settings["K"] for c in sweep("K=2,2.7")] == [2, 2.7]
    assert [type(c.settings["K"]) for c in sweep("K=2,2.0")] == [int, float]
    assert [c.planes for c in sweep("planes=axial,coronal+axial")] == [("axial",), ("coronal", "axial")]
    assert [(c.settings["mix"], c.settings["alpha"]) for c in sweep("alpha=0.3")] == [("sum", 0.3)]
    assert [c.settings["n_steps"] for c in sweep("steps=10,30")] == [10, 30]
    (published,) = sweep("dps_weight=5")
    assert published.weight == 5 and published.settings_for(0).sampler == "pc"
    for name in ("rho=0.1", "eta=0.5", "mix=sum"):
        (changed,) = sweep(name)
        assert changed.settings_for(0).n_steps == PRESETS["fast"]["n_steps"] and changed.group.startswith("sweep")


def test_thick_axial_slices_are_not_measured_in_axial_slices():
    assert not PROBLEMS["mrzsr-4"].takes(("axial", "coronal")) and PROBLEMS["mrzsr-4"].takes(("sagittal",))
    assert PROBLEMS["svct-5"].measurement(64).views == 20 and PROBLEMS["svct-9"].measurement(64).views == 11


def test_further_steps_leave_out_the_published_sampler_and_what_is_there_already():
    chosen = [configurations()[name] for name in ("fast", "dds", "pc")]
    assert [c.name for c in at_steps(chosen, [10, PRESETS["fast"]["n_steps"]])] == ["fast-10", "dds-10"]
    assert at_steps([Configuration("classical", "classical", "classical")], [10]) == []


def test_a_volume_is_cut_about_its_middle(tmp_path):
    np.save(tmp_path / "ramp.npy", np.broadcast_to(np.linspace(0.1, 1, 64, dtype=np.float32), (64, 64, 64)))
    whole, cut = (Truth.read(str(tmp_path / "ramp.npy"), axial_slices=n) for n in (None, 10))
    np.testing.assert_array_equal(cut.data, whole.data[..., 27:37])
    assert cut.sha256 != whole.sha256


def test_streaks_show_slices_that_disagree():
    rng = np.random.default_rng(0)
    truth = rng.random((24, 24, 24)).astype(np.float32)
    noise = rng.standard_normal(truth.shape).astype(np.float32)
    jitter = np.broadcast_to(rng.standard_normal(24).astype(np.float32), truth.shape)
    jitter = jitter * np.linalg.norm(noise) / np.linalg.norm(jitter) + 0.01 * noise
    # 24 values of jitter, 13824 of noise: neither number is far from its limit.
    assert streaks(truth, truth + noise, 2) == pytest.approx(1, abs=0.05)
    assert streaks(truth, truth + jitter, 2) > 100
    assert streaks(truth, truth + jitter, 0) < 0.1
    assert streaks(truth, truth, 2) == 1


def test_what_is_not_finite_is_a_failure():
    truth = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32)
    task = simulate("csmri", truth, Plane(NAMED_PLANES["axial"]), PROBLEMS["csmri-4"].measurement(16))
    broken = truth.copy()
    broken[0, 0, 0] = np.nan
    failure, figures = measured(truth, broken, task)
    assert failure is not None and "1 of 4096" in failure and figures is None
    failure, figures = measured(truth, truth, task)
    assert failure is None and figures is not None and figures["data_residual"] < 1e-6


def record(configuration: str, db: float | None, seconds: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """A made-up cell."""
    figures = {
        **{
            "psnr_db": db,
            "worst_plane_psnr_db": db,
            "tissue_psnr_db": db,
            "ssim": 0.9,
            "streaks": 1.0,
            "data_residual": 0.1,
        },
        **{"seconds": seconds, "cpu_seconds": seconds, "n_evaluations": 3},
        "planes": {plane: {"psnr_db": db, "ssim": 0.9} for plane in NAMED_PLANES},
    }
    return {
        **{"volume": "demo", "problem": "csmri-4", "configuration": configuration, "title": configuration},
        **{"group": "main", "seed": seed, "identity": {"dps_weight_multiple": None}},
        **{"failure": "diverged" if db is None else None, "figures": None if db is None else figures},
    }


MADE_UP = [
    record("fast", 35.0, 10.0),
    record("fast", 37.0, 20.0, seed=1),
    record("fast-one", 37.5, 14.0),
    record("pc", 34.0, 300.0),
    record("pc-one", None),
    record("tv", 31.0, 3.0),
    record("classical", 25.0, 0.01),
]


def test_claims_compare_means_of_the_worst_plane():
    entries = quality_report.summaries(MADE_UP)
    fast = next(entry for entry in entries if entry["configuration"] == "fast")
    assert fast["figures"]["psnr_db"] == {"mean": 36.0, "deviation": pytest.approx(2**0.5)}
    (claim,) = quality_report.claims(entries)
    assert claim["fast − pc"] == pytest.approx(2.0) and claim["times as fast"] == pytest.approx(20.0)
    assert claim["two − one plane"] == pytest.approx(-1.5)
    assert claim["two − one plane, pc"] is None
    assert claim["fast − best classical"] == pytest.approx(5.0) and claim["best classical"] == "tv"
    said = quality_report.claims_text([claim])
    assert "does not hold: demo, csmri-4: two − one plane" in said
    assert "failed with 1 of 1 seeds: diverged" in quality_report.tables(entries)


def test_the_pareto_front_holds_what_nothing_beats():
    assert quality_report.pareto([(1.0, 20.0), (2.0, 19.0), (3.0, 30.0), (3.0, 29.0), (0.5, 10.0)]) == [4, 0, 2]


def test_the_search_takes_the_best_that_did_not_fail():
    tried = [record("pc-100-x1", 20.0), record("pc-100-x3", 25.0), record("pc-100-x10", None)]
    for multiple, of in zip((1.0, 3.0, 10.0), tried, strict=True):
        of["identity"] = {"dps_weight_multiple": multiple}
    assert quality.best_weight(tried) == 3.0
    assert quality.best_weight([tried[2]]) == 1.0


@pytest.fixture
def reported(tmp_path, monkeypatch):
    """Writes a report of made-up cells where `benchmarks.tables` looks for it."""

    def write(name: str, cells: list[dict[str, Any]]) -> None:
        entries = quality_report.summaries(cells)
        report = {
            **{"summaries": entries, "claims": quality_report.claims(entries), "cells": cells, "threads": 2},
            **{"command": "command", "date": "2026-01-01", "machine": {"cores": 2, "processor": "a processor"}},
        }
        (tmp_path / "results").mkdir(exist_ok=True)
        (tmp_path / "results" / f"{name}-2cores-2026-01-01.json").write_text(json.dumps(report))

    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    return write


def test_the_readme_gets_a_row_a_problem(reported):
    reported("quality", MADE_UP)
    head, _, row = tables.quality_table().splitlines()[:3]
    assert head == "| | fast | pc | fast-one | best without a network |"
    expected = "36.0 ± 1.4 dB, 15.0 s | 34.0 dB, 5.0 min | 37.5 dB, 14.0 s | 31.0 dB, 3.0 s (tv)"
    assert row == f"| CS-MRI ×4 | {expected} |"


def test_a_table_shows_how_much_seeds_differ(reported):
    reported("seeds", [record("fast", db, seed=seed) for seed, db in enumerate((35.0, 37.0, None))])
    row = tables.seeds_table().splitlines()[2]
    assert row == "| CS-MRI ×4, fast, 3 seeds | 36.00 dB | 1.414 dB | 35.00 dB | 37.00 dB | 1 |"


def test_a_table_shows_the_adaptive_weight_beside_fixed_ones(reported):
    fixed = [
        {**record(f"pc-100-x{m}", db), "group": "search", "title": f"published sampler, 100 steps, λ × {m}"}
        for m, db in (("10", 20.0), ("0.3", None), ("1", 30.0))
    ]
    reported("quality", [record("pc-adaptive", 31.0), *fixed])
    head, _, row = tables.weights_table().splitlines()[:3]
    assert head == "| | adaptive | fixed × 0.3 | fixed × 1 | fixed × 10 |"
    assert row == "| CS-MRI ×4 | 31.0 | failed | 30.0 | 20.0 |"
    (claim,) = quality_report.claims(quality_report.summaries([record("pc-adaptive", 31.0), *fixed]))
    assert claim["adaptive − best fixed λ"] == pytest.approx(1.0)


def test_a_table_shows_what_a_setting_changes(reported):
    swept = [{**record(f"fast K {K}", 30.0 + K), "group": "sweep K", "title": f"fast, K {K}"} for K in (2, 3)]
    reported("sweeps", [record("fast", 32.5), record("classical", 25.0), *swept])
    rows = tables.sweeps_table().splitlines()[2:5]
    assert rows == ["| fast | 32.5 |", "| K 2 | 32.0 |", "| K 3 | 33.0 |"]


def test_every_table_has_its_place_in_its_file():
    for name, filled in tables.FILES.items():
        text = (ROOT / name).read_text()
        for table in filled:
            assert text.count(f"<!-- {table} -->") == text.count(f"<!-- end of {table} -->") == 1


def test_an_unknown_sweep_is_an_input_error():
    with pytest.raises(InputError, match="NAME=v1"):
        sweep("K")
