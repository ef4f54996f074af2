"""All slices of a volume side by side in one picture, from which the page's viewer cuts its planes."""

from __future__ import annotations

import base64
import math
from io import BytesIO

import numpy as np
from PIL import Image

from engine.report.viewers import Panel

_COLOURS = 256


def mosaic(panel: Panel) -> str:
    """Draw a panel's sagittal slices, the last one first, each with its rows from top to bottom; a PNG in base64."""
    n, deep, high = panel.data.shape
    per_row = max(1, round(math.sqrt(n * high / deep)))
    n_rows = -(-n // per_row)
    level = (panel.data - panel.low) * (_COLOURS / (panel.high - panel.low))
    tiles = np.zeros((n_rows * per_row, high, deep), np.uint8)
    tiles[:n] = np.clip(level, 0, _COLOURS - 1).astype(np.uint8)[::-1, :, ::-1].swapaxes(1, 2)
    picture = tiles.reshape(n_rows, per_row, high, deep).swapaxes(1, 2).reshape(n_rows * high, per_row * deep)
    image = Image.fromarray(picture)
    colours = panel.colours(np.linspace(0, 1, _COLOURS))[:, :3]
    image.putpalette(np.rint(255 * colours).astype(np.uint8).tobytes())
    stream = BytesIO()
    image.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()
