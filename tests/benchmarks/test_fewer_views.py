"""The comparison on a real scan, on a small one that is none."""

from __future__ import annotations

import json

import h5py
import numpy as np

from benchmarks import fewer_views
from engine.operators import Radon
from tests.engine.io.discs import line_integrals, parallel


def test_all_methods_are_compared(tmp_path, capsys):
    geometry = parallel(n=32, n_views=30)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["exchange/data"] = 1e4 * np.exp(-line_integrals(geometry).swapaxes(0, 1))
        file["exchange/data_white"] = np.full((1, 2, 32), 1e4)
        file["exchange/theta"] = np.rad2deg(geometry.angles_rad)
    words = [str(tmp_path / "scan.h5"), "--view-steps", "3", "--iterations", "40", "--results", str(tmp_path)]
    assert fewer_views.main(words) == 0
    (path,) = tmp_path.glob("fewer-views-*.json")
    report = json.loads(path.read_text())
    row = report["rows"]["10"]
    assert set(row) == {*fewer_views.METHODS, "SIRT", "SIRT, not negative"}
    assert row["SIRT, not negative"]["psnr_db"] > row["filtered back-projection"]["psnr_db"]
    # Where it lies is nobody's business.
    assert str(tmp_path / "scan.h5") not in path.read_text()
    assert "| default" in capsys.readouterr().out


def test_sirt_comes_to_explain_the_measurement():
    operator = Radon(parallel(n=24, n_views=40))
    truth = np.zeros((1, 24, 24), np.float32)
    truth[0, 8:14, 6:18] = 1
    y = operator.apply(truth)
    residuals = [np.linalg.norm(operator.apply(fewer_views.sirt(operator, y, n)) - y) for n in (0, 10, 100)]
    assert residuals[0] > 5 * residuals[1] > 10 * residuals[2]
