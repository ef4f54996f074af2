"""The benchmark of several stacks, of a small head and without a network."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import stacks
from engine import demo


@pytest.fixture
def small(monkeypatch):
    """The demonstration's head at 6 mm, and two cases."""
    head = demo.volume()
    coarse = head.data.reshape(32, 2, 32, 2, 32, 2).mean(axis=(1, 3, 5))
    monkeypatch.setattr(stacks, "CASES", ((1, False), (2, False)))
    return np.ascontiguousarray(coarse, np.float32)


def test_rows_are_written_one_by_one_and_kept(small, tmp_path, capsys):
    np.save(tmp_path / "head.npy", demo.volume().data)
    words = [
        "--volumes",
        str(tmp_path / "head.npy"),
        "--voxel-mm",
        "1",
        "--methods",
        "classical",
        "--results",
        str(tmp_path),
    ]
    # Voxels of .npy are 1 mm.
    assert stacks.main(words) == 0
    (path,) = tmp_path.glob("stacks-*.json")
    report = json.loads(path.read_text())
    assert [(row["stacks"], row["moved"]) for row in report["rows"]] == [(1, False), (2, False)]
    assert all(row["recon"]["tissue_psnr_db"] == row["cubic"]["tissue_psnr_db"] > 15 for row in report["rows"])
    assert "1 stack | 2 stacks |" in capsys.readouterr().out
    before = path.stat().st_mtime_ns
    assert stacks.main(words) == 0
    assert path.stat().st_mtime_ns == before


def test_a_moved_stack_lies_elsewhere_than_its_header_says(small):
    unmoved, affine = stacks.stack_of(small, 6.0, 4, 1, False)
    moved, same = stacks.stack_of(small, 6.0, 4, 1, True)
    np.testing.assert_array_equal(affine, same)
    assert unmoved.shape == moved.shape == (8, 32, 32)
    np.testing.assert_allclose(unmoved, small.reshape(8, 4, 32, 32).mean(axis=1), atol=1e-6)
    assert np.abs(unmoved - moved).max() > 0.1
    first, _ = stacks.stack_of(small, 6.0, 4, 0, True)
    np.testing.assert_array_equal(first, stacks.stack_of(small, 6.0, 4, 0, False)[0])
