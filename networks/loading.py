"""Opens a checkpoint of any supported family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import InputError
from networks.callable_names import is_callable
from networks.callables import load_callable
from networks.checkpoint import load_checkpoint
from networks.denoiser import DenoisingNetwork
from networks.diffusers_files import is_diffusers
from networks.diffusers_folder import load_diffusers

#: Settings that networks of every family take; the others are NCSN++'s own.
_COMMON = ("centered", "sigma_min", "sigma_max")


def load_network(path: str | Path, *, ema: bool = True, **known: Any) -> tuple[DenoisingNetwork, dict[str, Any]]:
    """Load a network in evaluation mode, of whichever family the file or folder is.

    Parameters
    ----------
    path : path
        A checkpoint of score_sde or TPDM (`networks.checkpoint.load_checkpoint`), a `UNet2DModel` of diffusers
        (`networks.diffusers_folder.load_diffusers`), or ``module:function`` (`networks.callables.load_callable`).
    ema : bool
        Use the moving average of the weights, where the file holds both.
    **known
        Settings that the caller states.

    Returns
    -------
    network : DenoisingNetwork
        float32, on the CPU, parameters frozen.
    info : dict
        As of `load_checkpoint`.

    Raises
    ------
    CheckpointError
        The checkpoint cannot be used.
    InputError
        A setting that this family does not have.
    """
    path = Path(path)
    other = "function" if is_callable(path) else "diffusers model" if is_diffusers(path) else None
    if other is None:
        return load_checkpoint(path, ema=ema, **known)
    others = [name for name in known if name not in _COMMON]
    if others or not ema:
        option = others[0].replace("_", "-") if others else "no-ema"
        raise InputError(option, "an NCSN++ checkpoint with it", f"the {other} '{path}'", "drop the option")
    return load_callable(path, **known) if is_callable(path) else load_diffusers(path, **known)
