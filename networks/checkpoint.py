"""Checkpoints in the format of score_sde and TPDM: reading without executing pickled code, and writing."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import InputError
from engine.io.files import replacing
from networks.architecture import Architecture
from networks.infer import infer_architecture
from networks.kinds import family_of, kind_of
from networks.ncsnpp import NCSNpp


class CheckpointError(InputError):
    """A checkpoint cannot be used."""


_REMEDY = "give the file that training by score_sde, TPDM or `tpdm train` wrote"
#: Tensors that score_sde stores but does not train, so that the EMA's list omits them.
UNTRAINED = ("sigmas", "all_modules.0.W")


def read_weights(path: str | Path, *, ema: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of one checkpoint file.

    Parameters
    ----------
    path : path
        A score_sde checkpoint: keys ``model`` and ``ema``. ``module.`` prefixes are removed.
    ema : bool
        Return the exponential moving average of the weights instead of the last ones.

    Returns
    -------
    weights : dict of str to tensor
    extra : dict
        The checkpoint's other entries (step, architecture and plane where stored).

    Raises
    ------
    CheckpointError
        Missing, truncated, holding anything but tensors and plain containers, or no score network.
    """
    path = Path(path)
    stored = read_stored(path)
    weights = {str(name).removeprefix("module."): tensor for name, tensor in stored["model"].items()}
    if not all(isinstance(t, Tensor) for t in weights.values()) or not weights.keys() & {
        "all_modules.0.W",
        "all_modules.0.weight",
    }:
        raise CheckpointError(
            "ckpt",
            "an NCSN++ network ('all_modules.0.W', or 'all_modules.0.weight' with positional features)",
            f"{len(weights)} entries without it in '{path}'",
            "give a score_sde or TPDM checkpoint of a VE model",
        )
    if ema:
        _apply_ema(weights, stored.get("ema"), path)
    check_finite(weights, path)
    return weights, {k: v for k, v in stored.items() if k not in ("model", "ema", "optimizer")}


def read_stored(path: str | Path) -> dict[str, Any]:
    """Read everything in one checkpoint file as it was stored; ``model`` is there and is a dict.

    Raises
    ------
    CheckpointError
        Missing, truncated, or holding anything but tensors and plain containers.
    """
    stored = _unpickled(Path(path))
    if not isinstance(stored, dict) or not isinstance(stored.get("model"), dict):
        _refuse_family(stored, path)
        raise CheckpointError(
            "ckpt",
            "a score_sde checkpoint with an entry 'model'",
            f"none in '{path}'",
            _REMEDY,
        )
    _refuse_family(stored["model"], path)
    return stored


def _refuse_family(stored: Any, path: str | Path) -> None:
    """Refuse the weights of another family by its name; they may lie one level deep."""
    nested = [stored, *stored.values()] if isinstance(stored, dict) else []
    for names in nested:
        family = family_of(map(str, names)) if isinstance(names, dict) else None
        if family is not None:
            raise CheckpointError(
                "ckpt",
                "the weights of an NCSN++ network, or diffusers' UNet2DModel in its folder",
                f"{family} in '{path}'",
                "return that network and its scheduler from a function: --ckpt module:function",
            )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors and nothing else: safetensors, or PyTorch's own format.

    Raises
    ------
    CheckpointError
        Missing, damaged, or holding anything else.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                "ckpt", "a safetensors file", f"'{path}', which cannot be read ({error})", "download or save it again"
            ) from error
    stored = _unpickled(path)
    if not isinstance(stored, dict) or not all(isinstance(t, Tensor) for t in stored.values()):
        raise CheckpointError("ckpt", "named tensors", f"something else in '{path}'", "save the state_dict alone")
    return {str(name): tensor for name, tensor in stored.items()}


def check_finite(weights: dict[str, Tensor], path: Path) -> None:
    """Refuse weights with NaN or infinity."""
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                "ckpt", "finite weights", f"NaN or infinity in '{name}' of '{path}'", "train or download again"
            )


def _unpickled(path: Path) -> Any:
    """What `torch.load` finds without running pickled code."""
    if not path.is_file():
        found, remedy = ("a folder", "give the file in it") if path.is_dir() else ("nothing", "check the path")
        raise CheckpointError("ckpt", "a checkpoint file", f"{found} at '{path}'", remedy)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the zip reader and the unpickler raise whatever the damage leads to
        if kind := kind_of(path):
            raise CheckpointError("ckpt", "a PyTorch checkpoint", f"{kind}, '{path}'", _REMEDY) from error
        if isinstance(error, pickle.UnpicklingError):
            raise CheckpointError(
                "ckpt",
                "tensors and plain containers",
                f"other pickled objects, or no such file, in '{path}', which are never executed",
                "save it again with tensors only",
            ) from error
        raise CheckpointError(
            "ckpt",
            "a PyTorch checkpoint",
            f"'{path}', which cannot be read ({type(error).__name__})",
            "it is damaged: download or save it again",
        ) from error


def _apply_ema(weights: dict[str, Tensor], ema: Any, path: Path) -> None:
    shadow = ema.get("shadow_params") if isinstance(ema, dict) else None
    names = [name for name in weights if name not in UNTRAINED]
    expected = [tuple(weights[name].shape) for name in names]
    shapes = [tuple(t.shape) if isinstance(t, Tensor) else None for t in shadow] if isinstance(shadow, list) else []
    if not isinstance(shadow, list) or shapes != expected:
        if not shapes:
            found = "none"
        elif len(shapes) != len(names):
            found = f"{len(shapes)}"
        else:
            name = next(n for n, got, want in zip(names, shapes, expected, strict=True) if got != want)
            found = f"another shape for '{name}'"
        raise CheckpointError(
            "ckpt",
            f"an EMA list of {len(names)} tensors that match the trained weights",
            f"{found} in '{path}'",
            "pass --no-ema to use the last weights",
        )
    weights.update(zip(names, shadow, strict=True))


def load_checkpoint(path: str | Path, *, ema: bool = True, **known: Any) -> tuple[NCSNpp, dict[str, Any]]:
    """Load a network in evaluation mode; its architecture is inferred from the tensors.

    Parameters
    ----------
    path, ema
        As in `read_weights`.
    **known
        Fields of `Architecture` that the caller states, such as ``fir=True``; they override what would be inferred.

    Returns
    -------
    network : NCSNpp
        float32, on the CPU, parameters frozen.
    info : dict
        ``step``, ``plane`` (three axes, or "all"), ``image_size`` (pixels), ``voxel_mm`` (smallest and largest side
        of a training pixel) and ``margin`` (pixels to mirror where tissue reaches a border), each None where not
        stored, and ``inferred``: how each setting that shapes do not fix was found.

    Raises
    ------
    CheckpointError
        As in `read_weights`, or a setting can neither be inferred nor was stated.
    """
    weights, extra = read_weights(path, ema=ema)
    stored = extra.get("architecture")
    try:
        architecture, how = infer_architecture(weights, stored if isinstance(stored, dict) else {}, known)
    except InputError as error:
        raise CheckpointError("ckpt", error.expected, f"{error.got} in '{path}'", error.remedy) from error
    network = NCSNpp.of_weights(architecture, weights)
    info = {
        "step": extra.get("step"),
        "plane": extra.get("plane"),
        "image_size": extra.get("image_size"),
        "voxel_mm": extra.get("voxel_mm"),
        "margin": extra.get("margin"),
        "inferred": how,
    }
    return network.eval().requires_grad_(False), info


def save_checkpoint(path: str | Path, network: NCSNpp, shadow: Sequence[Tensor], **entries: Any) -> None:
    """Write a checkpoint that score_sde and TPDM can load, atomically.

    Parameters
    ----------
    path : path
    network : NCSNpp
        Its last weights go to ``model`` under the ``module.`` prefix that the reference's DataParallel gives.
    shadow : sequence of tensor
        EMA of the trained parameters, in the order of ``network.parameters()`` that require gradients.
    **entries
        ``step``, ``optimizer``, ``ema_decay`` and any further plain values.
    """
    path = Path(path)
    decay = entries.pop("ema_decay", 0.999)
    step = entries.get("step", 0)
    content = {
        "optimizer": entries.pop("optimizer", {}),
        "model": {f"module.{k}": v.detach().cpu() for k, v in network.state_dict().items()},
        "ema": {"decay": decay, "num_updates": step, "shadow_params": [t.detach().cpu() for t in shadow]},
        "step": step,
        "architecture": network.architecture.to_dict(),
        **entries,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        torch.save(content, temporary)


def random_checkpoint(path: str | Path, architecture: Architecture, seed: int = 0) -> None:
    """Write a checkpoint of random weights, for timing an architecture whose trained weights are not at hand.

    Layers that training starts at zero are drawn like the others, so that no part of the network is trivially dead.
    """
    torch.manual_seed(seed)
    network = NCSNpp(architecture)
    for parameter in network.parameters():
        if parameter.requires_grad and parameter.abs().max() < 1e-3:
            parameter.data.normal_(std=0.02)
    save_checkpoint(path, network, [p for p in network.parameters() if p.requires_grad])
