"""The file in which all graphs of a bundle, and its native program, have their weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np


class WeightStore:
    """The weights file that several graphs share: every distinct tensor once, larger ones aligned to pages."""

    def __init__(self, path: Path):
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        self._size = 0
        self._stream = path.open("wb")

    def add(self, array: np.ndarray) -> tuple[int, int]:
        """Return offset and length, in bytes, of the stored array."""
        data = np.ascontiguousarray(array).tobytes()
        key = hashlib.sha256(data).hexdigest()
        if key not in self._places:
            gap = -self._size % (4096 if len(data) >= 4096 else 64)
            self._stream.write(b"\0" * gap + data)
            self._places[key] = (self._size + gap, len(data))
            self._size += gap + len(data)
        return self._places[key]

    def close(self) -> None:
        self._stream.close()
