"""Score networks in PyTorch, their checkpoints, and the architecture a checkpoint implies."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from networks.architecture import Architecture
    from networks.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
    from networks.ncsnpp import NCSNpp

#: Where each public name is; loaded when first used, for PyTorch takes seconds.
_PLACES = {
    "Architecture": "architecture",
    "CheckpointError": "checkpoint",
    "NCSNpp": "ncsnpp",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
}

__all__ = ["Architecture", "CheckpointError", "NCSNpp", "load_checkpoint", "save_checkpoint"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
