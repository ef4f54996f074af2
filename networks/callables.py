"""Networks that a Python function returns: `module:function` of the user's own code, which is run."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.errors import InputError
from networks.adapted import AdaptedNetwork, settle
from networks.callable_names import is_callable
from networks.schedule import schedule_of

_EXPECTED = "module:function that returns (network, scheduler)"
#: Sides that networks ask for a multiple of.
_DIVISORS = (1, 2, 4, 8, 16, 32, 64, 128)


def load_callable(spec: Path, *, centered: bool | None = None, **limits: Any) -> tuple[AdaptedNetwork, dict[str, Any]]:
    """Run a function and adapt the network that it returns.

    Parameters
    ----------
    spec : Path
        ``module:function``; the module is looked for in the working folder as well. The function takes nothing and
        returns a pair: a Module called as ``network(images, times)``, and the scheduler of its training, of diffusers
        or MONAI.
    centered, limits
        As of `networks.diffusers_folder.load_diffusers`.

    Returns
    -------
    network, info
        As there; ``info["sha256"]`` is the hash of the weights, for which there may be no file.

    Raises
    ------
    InputError
        No such function; it fails, or returns something else; the network takes other images than those of one channel.
    """
    assert is_callable(spec)
    name, _, function = str(spec).partition(":")
    try:
        sys.path.insert(0, str(Path.cwd()))
        returned = getattr(importlib.import_module(name), function)()
    except Exception as error:  # whatever the user's code raises
        first = next(iter(str(error).splitlines()), "")
        found = f"'{spec}' ({type(error).__name__}: {first})"
        raise InputError("ckpt", _EXPECTED, found, "mend the function") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    pair = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    network, scheduler = pair
    if not isinstance(network, nn.Module) or scheduler is None:
        found = type(returned).__name__ if not isinstance(network, nn.Module) else "a network without its scheduler"
        raise InputError("ckpt", _EXPECTED, f"{found} from '{spec}'", "return both")
    try:
        schedule = schedule_of(scheduler)
    except ValueError as error:
        raise InputError(
            "ckpt", "a scheduler of diffusers or MONAI", f"{error} from '{spec}'", "return another"
        ) from error
    network = network.float().cpu().eval()
    described = {
        "family": f"{type(network).__name__} of {type(network).__module__.split('.')[0]}, by a function",
        "scheduler": type(scheduler).__name__,
        "prediction": schedule.prediction,
    }
    adapted = AdaptedNetwork(network, schedule, _divisor_of(network, schedule, spec), True, described).eval()
    intensities = settle(adapted, centered, **limits)
    how = {
        "network": f"returned by {spec}, code that was run",
        "schedule": f"{type(scheduler).__name__}, the time between its entries linear in the log-SNR",
        "prediction": schedule.prediction,
        "divisor": f"{adapted.divisor}, by trial",
        "centered": intensities,
    }
    digest = hashlib.sha256()
    for key, tensor in network.state_dict().items():
        digest.update(key.encode() + tensor.numpy().tobytes())
    info = {"step": None, "plane": None, "image_size": None, "voxel_mm": None, "margin": None, "inferred": how}
    return adapted.requires_grad_(False).eval(), {**info, "sha256": digest.hexdigest()}


@torch.no_grad()
def _divisor_of(network: nn.Module, schedule: Any, spec: Path) -> int:
    """The smallest power of two of which the network takes an odd multiple as its images' sides."""
    time = schedule.time(torch.tensor([schedule.sigma_range[0]]))
    reason = ""
    for divisor in _DIVISORS:
        side = (5 if divisor > 4 else 9) * divisor
        x = torch.zeros(1, 1, side, side)
        try:
            output = network(x, time)
        except Exception as error:  # a side that it cannot halve, or anything that it does not take
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        output = getattr(output, "sample", output)
        output = output[0] if isinstance(output, tuple) else output
        if output.shape[-2:] == x.shape[-2:] and output.shape[1] == 1:
            return divisor
        reason = f"an output of shape {tuple(output.shape)} for {tuple(x.shape)}"
    raise InputError(
        "ckpt",
        "an unconditional network of images of one channel, called with images and times",
        f"{reason} from '{spec}'",
        "return a network of grey slices",
    )
