"""One volume on several ranks: the same as in one process, bit for bit, for every task and sampler."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.ranks.launcher import command, launched

WORKER = Path(__file__).with_name("worker.py")


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_ranks_compute_what_one_process_does(tiny_bundles, tmp_path, n):
    folders = [tiny_bundles[plane].folder for plane in ("axial", "coronal")]
    done = launched(tmp_path, command(n, WORKER, *folders))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "50 runs alike" in done.stdout
