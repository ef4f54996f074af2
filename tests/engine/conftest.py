"""Small runs, to be stopped, killed and shared out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

#: Side of the volume.
SIDE = 16


@pytest.fixture(scope="module")
def words(tiny_bundles, tmp_path_factory):
    """A command line on a small volume; later options win over earlier ones."""
    file = tmp_path_factory.mktemp("volume") / "head.npy"
    x = np.linspace(-1, 1, SIDE)
    np.save(file, np.exp(-3 * (x[:, None, None] ** 2 + x[:, None] ** 2 + 2 * x**2)).astype(np.float32))

    def build(out: Path, *more: object) -> list[str]:
        priors = ("--primary", tiny_bundles["axial"].folder, "--auxiliary", tiny_bundles["coronal"].folder)
        fixed = ("--task", "csmri", "--acceleration", 2, "--volume", file, "--no-report", "--quiet", "--out", out)
        return [str(word) for word in (*fixed, *priors, *more)]

    return build
