"""The architecture that a checkpoint's tensors imply."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from networks.architecture import TRACELESS, Architecture
from networks.ncsnpp import NCSNpp

#: A setting found by trial must denoise at least this much better than its best rival.
_MARGIN = 1.5
#: A network whose σ-weighted score error is above this denoises nothing (predicting no noise at all gives 1).
_DENOISES = 0.5


class InferenceError(ValueError):
    """The tensors fit no architecture, or more than one."""


def infer_architecture(
    weights: Mapping[str, Tensor], stored: Mapping[str, Any], known: Mapping[str, Any]
) -> tuple[Architecture, dict[str, str]]:
    """Find the one architecture that a checkpoint was trained with.

    Names and shapes fix most settings. The others (`TRACELESS`, sometimes `fir`) are, in this order: as stated by the caller;
    as stored in the checkpoint; found by trial, if exactly one choice makes the network denoise.

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
    InferenceError
        No candidate fits, or the open settings cannot be decided; the message names the options that decide.
    """
    names = {f.name for f in fields(Architecture)}
    stated = {k: v for k, v in {**stored, **known}.items() if k in names and v is not None}
    stated = {k: tuple(v) if isinstance(v, list) else v for k, v in stated.items()}
    how = {k: "stated" if known.get(k) is not None else "stored in the checkpoint" for k in stated}

    matching = list(_matching(weights, _sigma_range(weights, stated), stated))
    if not matching:
        raise InferenceError(
            "expected the tensors of an NCSN++ network of the score_sde family, no architecture gives these names and shapes"
            + (f" with {stated}; drop or change the stated options" if stated else "; is it a score_sde or TPDM checkpoint?")
        )
    open_settings = {k: _values(matching, k) for k in names if len(_values(matching, k)) > 1}
    open_settings.update({k: [True, False] for k in TRACELESS if k not in stated})
    if not open_settings:
        return matching[0], how
    choices = [
        replace(matching[0], **dict(zip(open_settings, values, strict=True)))
        for values in itertools.product(*open_settings.values())
    ]
    errors = sorted(((_score_error(weights, c), i) for i, c in enumerate(choices)))
    (best, index), (runner_up, _) = errors[0], errors[1]
    if not (best < _DENOISES and runner_up > _MARGIN * best):
        options = " ".join(sorted(f"--{k.replace('_', '-')}/--no-{k.replace('_', '-')}" for k in open_settings))
        raise InferenceError(
            f"{', '.join(sorted(open_settings))} leave no trace in the tensors and no choice clearly denoises "
            f"(errors {best:.2g} and {runner_up:.2g}); state them: {options}"
        )
    found = choices[index]
    for k in open_settings:
        how[k] = f"{getattr(found, k)}, by trial: σ-weighted score error {best:.2g}, the best other choice {runner_up:.2g}"
    return found, how


def _values(candidates: list[Architecture], name: str) -> list[Any]:
    return sorted({getattr(c, name) for c in candidates}, key=str)


def _sigma_range(weights: Mapping[str, Tensor], stated: Mapping[str, Any]) -> dict[str, Any]:
    sigmas = weights.get("sigmas")
    if sigmas is not None and sigmas.numel() > 1:
        return {"sigma_min": float(sigmas.min()), "sigma_max": float(sigmas.max()), "n_scales": sigmas.numel()}
    missing = [k for k in ("sigma_min", "sigma_max") if k not in stated]
    if missing:
        options = " and ".join("--" + k.replace("_", "-") for k in missing)
        raise InferenceError(f"expected a buffer 'sigmas' that tells the trained noise levels, found none; state {options}")
    return {k: stated[k] for k in ("sigma_min", "sigma_max")}


def _matching(
    weights: Mapping[str, Tensor], sigma_range: Mapping[str, Any], stated: Mapping[str, Any]
) -> Iterator[Architecture]:
    """Yield every architecture whose tensors have exactly the names and shapes of `weights`."""
    target = {k: tuple(v.shape) for k, v in weights.items() if k != "sigmas"}
    nf = target["all_modules.0.W"][0]
    blocks = sorted(int(k.split(".")[1]) for k in target if k.endswith(".GroupNorm_1.weight"))
    flags = {
        "progressive": ["none", "output_skip", "residual"],
        "progressive_input": ["none", "input_skip", "residual"],
        "progressive_combine": ["sum", "cat"],
        "resample_with_conv": [True, False],
        "fir": [True, False],
    }
    for k in flags:
        if k in stated:
            flags[k] = [stated[k]]
    for body in _bodies(target, nf, blocks):
        if any(k in stated and stated[k] != v for k, v in body.items()):
            continue
        for values in itertools.product(*flags.values()):
            f = dict(zip(flags, values, strict=True))
            # Settings that a candidate does not use take one value, so that they never count as open.
            if f["progressive_input"] != "input_skip" and f["progressive_combine"] != flags["progressive_combine"][0]:
                continue
            if body["resblock"] == "biggan" and f["resample_with_conv"] != flags["resample_with_conv"][0]:
                continue
            extra = {k: stated[k] for k in TRACELESS if k in stated}
            candidate = Architecture(**body, **f, **extra, **sigma_range)
            with torch.device("meta"):
                shapes = {k: tuple(v.shape) for k, v in NCSNpp(candidate).state_dict().items() if k != "sigmas"}
            if shapes == target:
                yield candidate


def _bodies(target: Mapping[str, tuple[int, ...]], nf: int, blocks: list[int]) -> Iterator[dict[str, Any]]:
    """Yield depth, widths and attention for every way to read the sequence of residual blocks."""
    for resblock, n_levels in itertools.product(("biggan", "ddpm"), range(1, 9)):
        n_resampling = 2 * (n_levels - 1) if resblock == "biggan" else 0
        # Down: L·n, middle: 2, up: L·(n + 1).
        n_plain = len(blocks) - 2 - n_levels - n_resampling
        if n_plain <= 0 or n_plain % (2 * n_levels):
            continue
        n_res_blocks = n_plain // (2 * n_levels)
        stride = n_res_blocks + (resblock == "biggan")
        first = [blocks[level * stride] for level in range(n_levels)]
        widths = [target[f"all_modules.{i}.Conv_0.weight"][0] for i in first]
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
def _score_error(weights: Mapping[str, Tensor], candidate: Architecture) -> float:
    """Mean of ‖σ·score + noise‖² / ‖noise‖² on smooth synthetic images, over the trained noise levels.

    A trained network is well below 1 at every level where the images are smoother than the noise; a network read with the
    wrong conventions is not.
    """
    network = NCSNpp(candidate)
    network.load_state_dict({**weights, "sigmas": network.sigmas})
    network.eval()
    generator = torch.Generator().manual_seed(0)
    side = max(32, 4 * candidate.divisor)
    grid = torch.linspace(-1, 1, side)
    radius2 = grid[:, None] ** 2 + (1.3 * grid[None, :]) ** 2
    clean = (0.6 * torch.sigmoid((0.6 - radius2) * 12))[None, None]
    sigma = torch.exp(torch.linspace(0.25, 0.95, 8) * torch.log(torch.tensor(candidate.sigma_max / candidate.sigma_min)))
    sigma = (candidate.sigma_min * sigma).float()
    noise = torch.randn(len(sigma), 1, side, side, generator=generator)
    s = sigma[:, None, None, None]
    residual = s * network(clean + s * noise, sigma) + noise
    error = residual.square().mean(dim=(1, 2, 3)) / noise.square().mean(dim=(1, 2, 3))
    # The logarithm keeps one hopeless level from hiding what the others say.
    return float(torch.exp(torch.log(error.clamp(1e-6, 1e6)).mean()))
