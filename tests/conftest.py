"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.devices import card, emulated_module, to_numpy, xp  # noqa: F401  (fixtures)

# The networks of the tests are so small that several threads only wait for each other, for seconds where other work has
# the cores. Read once, when PyTorch and NumPy's BLAS are loaded; the project's own kernels and runners do not look at
# it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_DEFAULT = Path(__file__).resolve().parents[1] / ".." / "shared" / "fixtures" / "reference_tiny"


@pytest.fixture(scope="session")
def reference_tiny() -> Path:
    """Folder of numbers recorded from the reference implementation at 32 cubed."""
    folder = Path(os.environ.get("TPDM_FIXTURES", _DEFAULT))
    if not folder.is_dir():
        pytest.skip("no recorded reference numbers: set TPDM_FIXTURES to the folder reference_tiny")
    return folder


@dataclass(frozen=True)
class TinyBundle:
    """An engine bundle of a very small random network, and the checkpoint that it was built from."""

    folder: Path
    checkpoint: Path


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of two very small random networks, by the name of the plane that they claim to know."""
    torch = pytest.importorskip("torch", reason="checkpoints need PyTorch, of the extra `export`")
    from engine.volume import NAMED_PLANES
    from networks import Architecture, NCSNpp, save_checkpoint

    architecture = Architecture(
        nf=8, ch_mult=(1, 2), n_res_blocks=1, attention_levels=(1,), progressive_input="residual", sigma_max=50.0
    )
    folder = tmp_path_factory.mktemp("checkpoints")
    found = {}
    for seed, plane in enumerate(("axial", "coronal")):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = NCSNpp(architecture)
            trained = [p for p in network.parameters() if p.requires_grad]
            for parameter in trained:
                # No layer stays at the zeros from which training starts.
                parameter.data += 0.05 * torch.randn(parameter.shape)
            # The last weights and their moving average differ, as after any training.
            average = [0.9 * p.detach() for p in trained]
        found[plane] = folder / f"{plane}.pth"
        entries: dict[str, Any] = {"plane": list(NAMED_PLANES[plane]), "image_size": 16}
        save_checkpoint(found[plane], network, average, **entries)
    return found


@pytest.fixture(scope="session")
def tiny_bundles(tiny_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, TinyBundle]:
    """Engine bundles of both tiny networks, by the name of their plane; to be read, not changed."""
    from export.build_engine import build_engine

    folder = tmp_path_factory.mktemp("engines")
    for plane, checkpoint in tiny_checkpoints.items():
        build_engine(checkpoint, folder / plane)
    return {plane: TinyBundle(folder / plane, checkpoint) for plane, checkpoint in tiny_checkpoints.items()}
