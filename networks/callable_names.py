"""What names a Python function instead of a file; without PyTorch."""

from __future__ import annotations

import re
from pathlib import Path


def is_callable(spec: Path) -> bool:
    """Whether this is ``module:function`` and no file."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", str(spec)) is not None and not spec.exists()
