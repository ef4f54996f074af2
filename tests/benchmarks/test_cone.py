"""The comparison for a cone beam, on a small volume."""

from __future__ import annotations

import json

import numpy as np

from benchmarks import cone
from engine.io.volumes import save_nifti


def test_methods_are_compared(tmp_path, capsys):
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, 32)] * 3, indexing="ij")
    head = 500 * ((x**2 + y**2 + z**2 < 0.7) - 0.4 * ((x - 0.3) ** 2 + y**2 + (z + 0.2) ** 2 < 0.1))
    # Axes that run the other way than those of a volume.
    affine = np.diag([-3.0, 3.0, -3.0, 1.0])
    save_nifti(tmp_path / "head.nii.gz", head.astype(np.float32), affine)
    words = ["--volume", str(tmp_path / "head.nii.gz"), "--views", "12", "--noise", "0.01", "--results", str(tmp_path)]
    assert cone.main([*words, "--methods", "default", "Feldkamp, Davis and Kress"]) == 0
    (path,) = tmp_path.glob("cone-*.json")
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["views"], row["noise"]) == (12, 0.01)
    found = {title: method["psnr_db"] for title, method in row["methods"].items()}
    assert found["default"] > found["Feldkamp, Davis and Kress"] + 1 > 10
    assert "| default" in capsys.readouterr().out
