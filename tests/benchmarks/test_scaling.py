"""The cost model of several ranks: it finds rates that it was made from, and its benchmark runs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import scaling
from benchmarks.lib.scaling_model import Case, Cluster, Model, fitted
from tests.engine.ranks.launcher import mpirun

MODEL = Model(7e-7, 0.05, {"csmri": 8e-9, "svct": 5e-8}, 4e-9, 7e-5, 9e-10, 5e-5)


def case(task="csmri", shape=(64, 48, 32), n_ranks=1):
    return Case(task, shape, n_ranks)


def test_ranks_with_most_slices_set_the_time():
    # 32 axial slices, 48 coronal ones; 5 ranks have at most 7 and 10 of them.
    assert case(n_ranks=5).network_pixels == np.mean([7 * 64 * 48, 10 * 64 * 32])
    assert case().network_pixels == 64 * 48 * 32


def test_the_rates_are_found_again():
    cases = [case(task, shape, n) for task in ("csmri", "svct") for shape in ((64, 48, 32), (32, 32, 64))
             for n in (1, 2, 4)]  # fmt: skip
    parts = [MODEL.predicted(c) for c in cases]
    steps = [part["step"] for part in parts]
    found = fitted(cases, [{**part, "waiting": 0.0} for part in parts], steps)
    assert found.network_s == pytest.approx(MODEL.network_s)
    assert found.crowding == pytest.approx(MODEL.crowding)
    assert found.consistency_s == pytest.approx(MODEL.consistency_s)
    assert found.rest_s == pytest.approx(MODEL.rest_s, rel=1e-3)
    assert found.exchange_s == pytest.approx(MODEL.exchange_s, rel=1e-2)
    assert found.exchange_byte_s == pytest.approx(MODEL.exchange_byte_s, rel=1e-2)
    assert found.reduction_s == pytest.approx(MODEL.reduction_s)
    assert found.predicted(case(n_ranks=3))["step"] == pytest.approx(MODEL.predicted(case(n_ranks=3))["step"], rel=1e-2)


def test_gpus_gain_less_where_wires_are_slow():
    cluster = Cluster(1e12, 2e12, 3e14)
    one, eight, many = (cluster.step(256, n)["step"] for n in (1, 8, 64))
    assert one == pytest.approx(256 / 300)
    assert one / eight > 0.99 * 8
    assert 50 < one / many < 64
    assert cluster.step(256, 1, guided=True)["step"] == pytest.approx(2 * one)


def test_predictions_need_no_gpu():
    found = scaling.predictions()
    hours = found["study"]
    assert hours["8"]["one_gpu_each_h"] == pytest.approx(hours["1"]["one_gpu_each_h"] / 8)
    assert hours["64"]["all_gpus_each_h"] > 0.9 * hours["64"]["one_gpu_each_h"]


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path, monkeypatch, capsys):
    mpirun()
    monkeypatch.setattr(scaling, "FITTED", [("csmri", (16, 16, 16)), ("mrzsr", (16, 16, 16))])
    monkeypatch.setattr(scaling, "PREDICTED", [("uncond", (16, 12, 20))])
    assert scaling.main(["--repeats", "1", "--steps", "3", "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("scaling-*.json")
    report = json.loads(path.read_text())
    assert len(report["rows"]) == 6
    for row in report["rows"]:
        assert row["step_s"]["median"] > 0
        assert row["predicted_s"]["step"] > 0
    assert capsys.readouterr().out.count("\n|") >= 4


@pytest.mark.parametrize("options", [("--ranks", "1"), ("--steps", "4"), ("--repeats", "0")])
def test_what_makes_no_sense_is_refused(capsys, options):
    assert scaling.main(list(options)) == 2
    assert capsys.readouterr().err.startswith("scaling: ranks: expected at least 2")
