"""Start programs on several ranks of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
#: Launchers refuse root, and more ranks than cores, unless they are told.
_PERMITS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMP_NUM_THREADS": "1",
}


def mpirun() -> str:
    """The launcher, beside Python first; tests are skipped where there is none."""
    pytest.importorskip("mpi4py", reason="mpi4py is in the extra `mpi`")
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.is_file() else shutil.which("mpirun")
    if found is None:
        pytest.skip("no mpirun")
    return found


def command(n: int, *words: object) -> list[str]:
    """The command line of Python with some words on n ranks."""
    return [mpirun(), "-n", str(n), sys.executable, *map(str, words)]


def environment() -> dict[str, str]:
    return {**os.environ, **_PERMITS, "PYTHONPATH": str(ROOT)}


def launched(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command line in a folder."""
    return subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)
