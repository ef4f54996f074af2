"""NCSN++ score networks in PyTorch, their checkpoints, and the architecture a checkpoint implies."""

from networks.architecture import Architecture
from networks.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from networks.ncsnpp import NCSNpp

__all__ = ["Architecture", "CheckpointError", "NCSNpp", "load_checkpoint", "save_checkpoint"]
