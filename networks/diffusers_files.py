"""Which files a model of the package diffusers consists of, and whether it is one that can be used; without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.errors import InputError

#: In words, for refusals.
SUPPORTED = "an unconditional UNet2DModel of one channel"
CONFIG, _PIPELINE, _SCHEDULER = "config.json", "model_index.json", "scheduler_config.json"
#: Names that diffusers gives the file of weights, the preferred first.
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
#: What diffusers' other models are, by parts of their class names.
_OTHERS = {
    "2DCondition": "a text-conditioned model",
    "3D": "a model of volumes or videos",
    "Autoencoder": "an autoencoder, as of latent models",
    "VQModel": "an autoencoder, as of latent models",
    "1D": "a model of sequences",
    "Transformer": "a transformer",
    "ControlNet": "a conditioned model",
}


def is_diffusers(path: Path) -> bool:
    """Whether a folder or a file is diffusers' to read: by the names that it gives them, whatever is inside."""
    if path.is_dir():
        return any((path / name).exists() for name in (CONFIG, _PIPELINE, _SCHEDULER, "unet", *_WEIGHTS))
    return path.suffix in (".safetensors", ".bin")


def parts_of(path: Path) -> list[Path]:
    """All files that a checkpoint of whatever family is read from; not asked whether they are there, where it is one.

    Raises
    ------
    InputError
        As `files_of`.
    """
    return files_of(path) if is_diffusers(path) else [path]


def files_of(path: Path) -> list[Path]:
    """The files that a network is read from: configuration, scheduler, weights.

    Raises
    ------
    InputError
        One is missing, or the folder holds something else than `SUPPORTED`.
    """
    folder = path if path.is_dir() else path.parent
    pipeline = folder / _PIPELINE
    if path.is_dir() and pipeline.is_file():
        parts = read_json(pipeline)
        others = {name: part[1] for name, part in parts.items() if _is_part(part)}
        if others.get("unet") != "UNet2DModel" or others.keys() - {"unet", "scheduler"}:
            found = _described(others.get("unet", "")) or "a pipeline of other parts"
            if "unet" in others and others.keys() & {"vae", "vqvae", "movq"}:
                found = "a latent model"
            listed = ", ".join(f"{name} {kind}" for name, kind in others.items()) or "nothing"
            raise refused(f"{found} ({listed})", folder)
        config, scheduler = folder / "unet" / CONFIG, folder / "scheduler" / _SCHEDULER
    else:
        config = folder / CONFIG
        beside = (folder / _SCHEDULER, folder.parent / "scheduler" / _SCHEDULER)
        scheduler = next((file for file in beside if file.is_file()), beside[0])
    if not config.is_file():
        raise InputError(
            "ckpt",
            f"{SUPPORTED} with its {CONFIG}",
            f"none in '{config.parent}'",
            "put the model's configuration there, or give a checkpoint of score_sde or TPDM",
        )
    kind = read_json(config).get("_class_name")
    if kind != "UNet2DModel":
        raise refused(_described(str(kind)) or f"a model of the class {kind}", config.parent)
    if not scheduler.is_file():
        raise InputError(
            "ckpt",
            f"a {_SCHEDULER}, which tells the noise schedule and what the network predicts",
            f"none at '{scheduler}'",
            "save the training's scheduler there: scheduler.save_pretrained(folder)",
        )
    weights = [path] if path.is_file() else [config.parent / name for name in _WEIGHTS]
    found_weights = [file for file in weights if file.is_file()]
    if not found_weights:
        raise InputError(
            "ckpt", f"weights in one file, {' or '.join(_WEIGHTS)}", f"none in '{config.parent}'", "put them there"
        )
    return [config, scheduler, found_weights[0]]


def _is_part(part: Any) -> bool:
    return isinstance(part, list) and len(part) == 2 and part[1] is not None


def _described(class_name: str) -> str | None:
    return next((words for part, words in _OTHERS.items() if part in class_name), None)


def refused(found: str, place: Path) -> InputError:
    """The error for a model that is not `SUPPORTED`."""
    return InputError("ckpt", SUPPORTED, f"{found} in '{place}'", "use a model of grey slices without conditions")


def read_json(file: Path) -> dict[str, Any]:
    """Read a configuration.

    Raises
    ------
    InputError
        No JSON object.
    """
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise InputError("ckpt", "a readable JSON file", f"'{file}' ({error})", "download it again") from error
    if not isinstance(content, dict):
        raise InputError("ckpt", "a JSON object", f"something else in '{file}'", "download it again")
    return content
