"""The architecture that a checkpoint's tensors imply."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from engine.errors import InputError
from networks.architecture import TRACELESS, Architecture
from networks.ncsnpp import NCSNpp
from networks.trial import DENOISES, MARGIN, mean_error, noisy_images

#: Settings beside `TRACELESS` that are true or false.
_BOOLEAN = ("fir", "resample_with_conv")


def infer_architecture(
    weights: Mapping[str, Tensor], stored: Mapping[str, Any], known: Mapping[str, Any]
) -> tuple[Architecture, dict[str, str]]:
    """Find the one architecture that a checkpoint was trained with.

    Names and shapes fix most settings. The others (`TRACELESS`, sometimes `fir`) are, in this order: as stated by the
    caller; as stored in the checkpoint; found by trial, if exactly one choice makes the network denoise.

    Parameters
    ----------
    weights : dict of str to tensor
        Without ``module.`` prefix.
    stored, known : dict
        Fields of `Architecture` from the checkpoint and from the caller.

    Returns
    -------
    architecture : Architecture
    how : dict of str to str
        For every setting that shapes do not fix, where its value came from.

    Raises
    ------
    InputError
        No candidate fits, or the open settings cannot be decided; the message names the options that decide.
    """
    names = {f.name for f in fields(Architecture)}
    if unknown := sorted(set(known) - names):
        raise TypeError(f"known: expected fields of Architecture, got {', '.join(unknown)}; check the spelling")
    stated = {k: v for k, v in {**stored, **known}.items() if k in names and v is not None}
    stated = {k: tuple(v) if isinstance(v, list) else v for k, v in stated.items()}
    how = {k: "stated" if known.get(k) is not None else "stored in the checkpoint" for k in stated}

    matching = list(_matching(weights, _sigma_range(weights, stated), stated))
    if not matching:
        raise InputError(
            "ckpt",
            "the tensors of an NCSN++ network of the score_sde family",
            "names and shapes of no architecture" + (f" with {stated}" if stated else ""),
            "drop or change the stated options" if stated else "is it a score_sde or TPDM checkpoint?",
        )
    if matching[0].embedding == "positional":
        _check_numbers(weights, known)
    traceless = [k for k in TRACELESS if k not in stated]
    open_settings = sorted({k for k in names if len({getattr(c, k) for c in matching}) > 1} | set(traceless))
    if not open_settings:
        return matching[0], how
    trials: list[dict[str, Any]] = [
        dict(zip(traceless, values, strict=True)) for values in itertools.product([True, False], repeat=len(traceless))
    ]
    choices = [replace(candidate, **trial) for candidate in matching for trial in trials]
    errors = _score_errors(weights, choices)
    found = min(choices, key=errors.__getitem__)
    best, runner_up = sorted(errors.values())[:2]
    if not (best < DENOISES and runner_up > MARGIN * best):
        raise InputError(
            "ckpt",
            f"tensors that settle {', '.join(open_settings)}",
            f"none and no choice that clearly denoises (errors {best:.2g} and {runner_up:.2g})",
            f"state {' '.join(_option(k) for k in open_settings)}",
        )
    for k in open_settings:
        how[k] = (
            f"{getattr(found, k)}, by trial: σ-weighted score error {best:.2g}, the best other choice {runner_up:.2g}"
        )
    return found, how


def _check_numbers(weights: Mapping[str, Tensor], known: Mapping[str, Any]) -> None:
    """Refuse other ends of the table of noise levels where the network is told a level's number in it."""
    own = _sigma_range(weights, {}) if "sigmas" in weights else {}
    for k in ("sigma_min", "sigma_max"):
        if k in own and known.get(k) not in (None, own[k]):
            option = k.replace("_", "-")
            raise InputError(
                option, f"{own[k]:g}, an end of the table that numbers the noise levels", known[k], "drop the option"
            )


def _option(setting: str) -> str:
    option = "--" + setting.replace("_", "-")
    return f"{option}/{option.replace('--', '--no-')}" if setting in (*TRACELESS, *_BOOLEAN) else option


def _sigma_range(weights: Mapping[str, Tensor], stated: Mapping[str, Any]) -> dict[str, Any]:
    sigmas = weights.get("sigmas")
    found: dict[str, Any] = {}
    if sigmas is not None:
        found["n_scales"] = sigmas.numel()
        if sigmas.numel() > 1:
            # Nine digits: the stored powers miss the round numbers they were made from by their last bits.
            found.update(sigma_min=float(f"{sigmas.min():.9g}"), sigma_max=float(f"{sigmas.max():.9g}"))
    elif "n_scales" in stated:
        found["n_scales"] = stated["n_scales"]
    found.update({k: stated[k] for k in ("sigma_min", "sigma_max") if k in stated})
    missing = [k for k in ("sigma_min", "sigma_max") if k not in found]
    if missing:
        options = " and ".join("--" + k.replace("_", "-") for k in missing)
        raise InputError("ckpt", "a buffer 'sigmas' that tells the trained noise levels", "none", f"state {options}")
    return found


def _matching(
    weights: Mapping[str, Tensor], sigma_range: Mapping[str, Any], stated: Mapping[str, Any]
) -> Iterator[Architecture]:
    """Yield every architecture whose tensors have exactly the names and shapes of `weights`."""
    target = {k: tuple(v.shape) for k, v in weights.items() if k != "sigmas"}
    traces = _Traces(target)
    flags: dict[str, list[Any]] = {
        "embedding": ["fourier" if "all_modules.0.W" in target else "positional"],
        "progressive": ["none", "output_skip", "residual"],
        "progressive_input": ["none", "input_skip", "residual"],
        "progressive_combine": ["sum", "cat"],
        "resample_with_conv": [True, False],
        "fir": [True, False],
    }
    for k in flags:
        if k in stated:
            flags[k] = [stated[k]] if k != "embedding" or stated[k] in flags[k] else []
    extra = {k: stated[k] for k in TRACELESS if k in stated}
    for body in _bodies(target):
        if any(k in stated and stated[k] != v for k, v in body.items()):
            continue
        for values in itertools.product(*flags.values()):
            candidate = Architecture(**body, **dict(zip(flags, values, strict=True)), **extra, **sigma_range)
            # Settings that a candidate does not use take one value, so that they never count as open.
            if any(getattr(candidate, k) != flags[k][0] for k in _unused(candidate)):
                continue
            # Names alone leave a few of the dozens of candidates; only those are worth building.
            if traces.could_be_of(candidate) and _tensor_shapes(candidate) == target:
                yield candidate


def _unused(candidate: Architecture) -> list[str]:
    """Settings that change nothing in this candidate's network."""
    if candidate.n_levels == 1:
        unused = ["progressive_input", "progressive_combine", "resample_with_conv", "fir"]
        return unused if candidate.progressive == "residual" else [*unused, "progressive"]
    unused = [] if candidate.progressive_input == "input_skip" else ["progressive_combine"]
    return unused if candidate.resblock == "ddpm" else [*unused, "resample_with_conv"]


class _Traces:
    """What the tensors' names alone say about an architecture: necessary conditions, quick to check."""

    def __init__(self, target: Mapping[str, tuple[int, ...]]):
        layers = {k.removesuffix(".weight") for k in target if k.endswith(".weight")}
        self.n_modules = 1 + max(int(k.split(".")[1]) for k in target)
        self.fir_convolutions = any(k.endswith(".Conv2d_0") for k in layers)
        # A residual block has a Conv_0 too, but never without the embedding's Dense_0. The pyramid's is 1×1.
        alone = [k for k in layers if k.endswith(".Conv_0") and k.replace("Conv_0", "Dense_0") not in layers]
        pointwise = [k for k in alone if target[f"{k}.weight"][2:] == (1, 1)]
        self.combines, self.plain_convolutions = bool(pointwise), len(alone) > len(pointwise)

    def could_be_of(self, a: Architecture) -> bool:
        """Whether the number of modules and the kinds of resampling layers are those of the architecture."""
        halvings, n_attention = a.n_levels - 1, len(a.attention_levels)
        n_modules = (
            (4 if a.embedding == "fourier" else 3)
            + a.n_levels * a.n_res_blocks
            + n_attention * a.n_res_blocks
            + halvings
        )
        n_modules += halvings * {"none": 0, "input_skip": 1, "residual": 1}[a.progressive_input]
        n_modules += 3 + a.n_levels * (a.n_res_blocks + 1) + n_attention + halvings
        n_modules += {"none": 2, "output_skip": 2 * a.n_levels, "residual": halvings + 4}[a.progressive]
        resampling_convolutions = halvings > 0 and (
            "residual" in (a.progressive, a.progressive_input) or (a.resblock == "ddpm" and a.resample_with_conv)
        )
        return (
            n_modules == self.n_modules
            and (halvings > 0 and a.progressive_input == "input_skip") == self.combines
            and (resampling_convolutions and a.fir) == self.fir_convolutions
            and (resampling_convolutions and not a.fir) == self.plain_convolutions
        )


def _tensor_shapes(candidate: Architecture) -> dict[str, tuple[int, ...]]:
    try:
        with torch.device("meta"):
            network = NCSNpp(candidate)
    except ValueError:  # widths that group normalisation cannot divide: no such network exists
        return {}
    return {k: tuple(v.shape) for k, v in network.state_dict().items() if k != "sigmas"}


def _bodies(target: Mapping[str, tuple[int, ...]]) -> Iterator[dict[str, Any]]:
    """Yield depth, widths and attention for every way to read the sequence of residual blocks."""
    nf = target["all_modules.0.W"][0] if "all_modules.0.W" in target else target["all_modules.0.weight"][-1]
    blocks = sorted(int(k.split(".")[1]) for k in target if k.endswith(".Dense_0.weight"))
    for resblock, n_levels in itertools.product(("biggan", "ddpm"), range(1, 9)):
        n_resampling = 2 * (n_levels - 1) if resblock == "biggan" else 0
        # Down: L·n, middle: 2, up: L·(n + 1).
        n_plain = len(blocks) - 2 - n_levels - n_resampling
        if n_plain <= 0 or n_plain % (2 * n_levels):
            continue
        n_res_blocks = n_plain // (2 * n_levels)
        stride = n_res_blocks + (resblock == "biggan")
        first = [blocks[level * stride] for level in range(n_levels)]
        widths = [target[f"all_modules.{i}.Dense_0.weight"][0] for i in first]
        if any(w % nf for w in widths):
            continue
        yield {
            "nf": nf,
            "ch_mult": tuple(w // nf for w in widths),
            "n_res_blocks": n_res_blocks,
            "attention_levels": tuple(
                level for level, i in enumerate(first) if f"all_modules.{i + 1}.NIN_3.W" in target
            ),
            "resblock": resblock,
        }


@torch.no_grad()
def _score_errors(weights: Mapping[str, Tensor], choices: list[Architecture]) -> dict[Architecture, float]:
    """Mean of ‖σ·score + noise‖² / ‖noise‖² of each choice on smooth synthetic images, over the trained noise levels.

    A trained network is well below 1 at every level where the images are smoother than the noise; a network read with
    the wrong conventions is not.
    """
    first = choices[0]
    x, noise, sigma = noisy_images(first.divisor, (first.sigma_min, first.sigma_max))
    s = sigma[:, None, None, None]

    raw: dict[Architecture, Tensor] = {}
    errors = {}
    for choice in choices:
        # The division by σ comes last: one pass through the network serves both values of scale_by_sigma.
        key = replace(choice, scale_by_sigma=True)
        if key not in raw:
            raw[key] = NCSNpp.of_weights(choice, weights).eval().forward_raw(x, sigma)
        weighted_score = raw[key] if choice.scale_by_sigma else s * raw[key]
        errors[choice] = mean_error(weighted_score, noise)
    return errors
