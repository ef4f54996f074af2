"""All damaged files that the quick tests have some of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.io.sweep import VARIABLE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dicom", "kspace", "sinogram", "volumes"])
def test_every_damaged_file_is_read_or_refused(kind):
    file = Path(__file__).parent / f"test_damaged_{kind}.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(command, env={**os.environ, VARIABLE: "full"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
