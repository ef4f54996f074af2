"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_DEFAULT = Path(__file__).resolve().parents[1] / ".." / "shared" / "fixtures" / "reference_tiny"


@pytest.fixture(scope="session")
def reference_tiny() -> Path:
    """Folder of numbers recorded from the reference implementation at 32 cubed."""
    folder = Path(os.environ.get("TPDM_FIXTURES", _DEFAULT))
    if not folder.is_dir():
        pytest.skip("no recorded reference numbers: set TPDM_FIXTURES to the folder reference_tiny")
    return folder
