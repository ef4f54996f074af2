"""What `benchmarks/gpu_check.sh` runs, as far as it can run without a GPU."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kernels

ROOT = Path(__file__).resolve().parents[2]


def test_every_kernel_runs(xp, capsys):
    if xp is np:
        pytest.skip("the script is for CuPy")
    sys.modules.pop("benchmarks.gpu.every_kernel", None)
    assert importlib.import_module("benchmarks.gpu.every_kernel").main() == 0
    assert capsys.readouterr().out == "every kernel ran\n"
    sys.modules.pop("benchmarks.gpu.every_kernel")


def test_counts_of_a_projection():
    from benchmarks.gpu import projection_limits

    geometry = kernels.ParallelGeometry.from_views(64, 5)
    # Rays and samples are a pixel apart: one sample a pixel, and a few around the border.
    n_pixels = 64 * 64 * 5
    assert n_pixels < projection_limits.count_samples(geometry) < 1.1 * n_pixels
    # By hand: every pixel asks every ray.
    n_entries = sum(
        int((kernels.radon_adjoint(one[None], geometry) > 0).sum())
        for one in np.eye(5 * geometry.n_bins, dtype=np.float32).reshape(-1, 5, geometry.n_bins)
    )
    assert projection_limits.count_entries(geometry) == n_entries


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--help"]])
def test_gpu_check_wants_a_folder(arguments):
    done = subprocess.run([ROOT / "benchmarks" / "gpu_check.sh", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("folder: expected one argument")
    assert done.stderr.count("\n") == 1


def test_gpu_check_without_a_gpu(tmp_path: Path):
    # A Python that finds no CuPy, whatever this machine has.
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    environment = {**os.environ, "PYTHON": str(tmp_path / "python")}
    command = [ROOT / "benchmarks" / "gpu_check.sh", tmp_path / "results"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("gpu: expected an NVIDIA GPU")
    assert done.stderr.count("\n") == 1
