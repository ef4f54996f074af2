"""Models of the package diffusers: `UNet2DModel` folders, its own class being the network and its own scheduler the
schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from networks.adapted import AdaptedNetwork, settle
from networks.checkpoint import CheckpointError, check_finite, read_tensors
from networks.diffusers_files import CONFIG, files_of, read_json, refused
from networks.schedule import Schedule, schedule_of


def load_diffusers(path: Path, *, centered: bool | None = None, **stated: Any) -> tuple[AdaptedNetwork, dict[str, Any]]:
    """Load a network in evaluation mode.

    Parameters
    ----------
    path : Path
        Folder of a pipeline (``model_index.json``) or of a model (``config.json``, ``scheduler_config.json``), or a
        file of weights in the latter.
    centered : bool or None
        True: intensities as they are; False: mapped from [0, 1] to [-1, 1]; None: found by trial, as they are where no
        trial decides.
    **stated
        ``sigma_min`` and ``sigma_max``, in units of our intensities: a narrower range than the schedule's.

    Returns
    -------
    network : AdaptedNetwork
        float32, on the CPU, parameters frozen.
    info : dict
        As of `networks.checkpoint.load_checkpoint`.

    Raises
    ------
    InputError
        As `files_of`; a configuration that is not supported, weights that do not fit it.
    ModuleNotFoundError
        diffusers is not installed.
    """
    config_file, scheduler_file, weights_file = files_of(path)
    import diffusers

    config, of_scheduler = read_json(config_file), read_json(scheduler_file)
    in_channels, out_channels = config.get("in_channels", 3), config.get("out_channels", 3)
    if in_channels != 1 or out_channels not in (1, 2):
        raise refused(f"one of {in_channels} channels in and {out_channels} out", config_file)
    if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
        raise refused("one that is conditioned on a class", config_file)
    if any("Skip" in str(block) for block in config.get("down_block_types", ())):
        # Their 1×1 convolutions are written for three channels.
        raise refused("one of blocks for colour images alone (SkipDownBlock2D)", config_file)
    try:
        network = diffusers.UNet2DModel.from_config(config)
    except Exception as error:  # whatever the package makes of a setting that it does not know
        raise CheckpointError(
            "ckpt", "a configuration that diffusers can build", f"'{config_file}' ({error})", "check the settings"
        ) from error
    weights = read_tensors(weights_file)
    check_finite(weights, weights_file)
    _fill(network, weights, weights_file)
    schedule, name = _schedule_in(of_scheduler, scheduler_file)
    learned = str(of_scheduler.get("variance_type", "")).startswith("learned")
    if out_channels == 2 and not learned:
        raise refused("one of 1 channel in and 2 out without learned variances", scheduler_file)
    side = config.get("sample_size")
    if isinstance(side, list):
        side = side[0] if len(set(side)) == 1 else None
    described = {
        "family": "diffusers UNet2DModel",
        "config": {k: v for k, v in config.items() if not k.startswith("_name")},
        "scheduler": name,
        "prediction": schedule.prediction,
    }
    divisor = 2 ** (len(network.config["block_out_channels"]) - 1)
    adapted = AdaptedNetwork(network, schedule, divisor, True, described).eval()
    intensities = settle(adapted, centered, **stated)
    how = {
        "schedule": f"{name} of {scheduler_file.name}, the time between its entries linear in the log-SNR",
        "prediction": f"{schedule.prediction}, as {scheduler_file.name} says",
        "centered": intensities,
    }
    info = {"step": None, "plane": None, "image_size": side, "voxel_mm": None, "margin": None, "inferred": how}
    return adapted.eval().requires_grad_(False), info


def _schedule_in(config: dict[str, Any], file: Path) -> tuple[Schedule, str]:
    import diffusers

    name = str(config.get("_class_name"))
    try:
        return schedule_of(getattr(diffusers, name).from_config(config)), name
    except Exception as error:  # an unknown class, a setting out of range, a package that it needs
        raise CheckpointError(
            "ckpt", "a schedule that diffusers can make", f"'{file}' ({error})", "give the scheduler of the training"
        ) from error


def _fill(network: Any, weights: dict[str, Tensor], file: Path) -> None:
    """Load the weights, which have to be exactly the network's."""
    expected = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    if expected.keys() != weights.keys():
        # Attention had other names before 2023, which diffusers knows how to translate.
        network._fix_state_dict_keys_on_load(weights)
    wrong = sorted(expected.keys() ^ weights.keys())
    wrong += [name for name in expected.keys() & weights.keys() if expected[name] != tuple(weights[name].shape)]
    if wrong:
        raise CheckpointError(
            "ckpt",
            f"the weights of the {len(expected)} tensors that its {CONFIG} describes",
            f"{len(wrong)} others or missing, such as '{wrong[0]}', in '{file}'",
            "give weights and configuration of the same model",
        )
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
