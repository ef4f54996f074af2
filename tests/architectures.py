"""The architectures that every test of the networks sweeps, and networks of random weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from networks import Architecture, NCSNpp

_SMALL = Architecture(nf=8, ch_mult=(1, 2), n_res_blocks=1, sigma_max=50.0, n_scales=20)


def _sweep() -> dict[str, Architecture]:
    found = {}
    pyramids = itertools.product(
        ("none", "output_skip", "residual"),
        (("none", "sum"), ("input_skip", "sum"), ("input_skip", "cat"), ("residual", "sum")),
    )
    for progressive, (progressive_input, combine) in pyramids:
        for resblock, fir in itertools.product(("biggan", "ddpm"), (True, False)):
            name = f"{resblock}-out_{progressive}-in_{progressive_input}_{combine}-{'fir' if fir else 'naive'}"
            settings: dict[str, Any] = {
                "resblock": resblock,
                "progressive": progressive,
                "progressive_input": progressive_input,
                "progressive_combine": combine,
                "fir": fir,
            }
            found[name] = replace(_SMALL, **settings)
    residual = replace(_SMALL, progressive_input="residual")
    found |= {
        "ddpm-without_conv-fir": replace(_SMALL, resblock="ddpm", resample_with_conv=False),
        "ddpm-without_conv-naive": replace(_SMALL, resblock="ddpm", resample_with_conv=False, fir=False),
        "ddpm-without_conv-residual": replace(residual, resblock="ddpm", resample_with_conv=False),
        "one_level": replace(_SMALL, ch_mult=(1,)),
        "one_level-attention": replace(_SMALL, ch_mult=(2,), attention_levels=(0,), n_res_blocks=2),
        "attention_finest": replace(residual, attention_levels=(0,)),
        "attention_everywhere": replace(residual, ch_mult=(1, 2, 2), attention_levels=(0, 1, 2)),
        "ddpm-attention": replace(_SMALL, ch_mult=(1, 1, 2), resblock="ddpm", attention_levels=(1,), n_res_blocks=2),
        "four_levels": replace(residual, ch_mult=(1, 2, 2, 2), attention_levels=(3,)),
        "without_rescale": replace(residual, skip_rescale=False),
        "ddpm-without_rescale": replace(residual, resblock="ddpm", progressive="residual", skip_rescale=False),
        "without_scale_by_sigma": replace(residual, scale_by_sigma=False),
        "centered": replace(residual, centered=True),
        "positional": replace(_SMALL, embedding="positional", progressive="output_skip", progressive_input="residual"),
    }
    return found


_SWEEP = _sweep()


@pytest.fixture(params=list(_SWEEP.values()), ids=list(_SWEEP))
def architecture(request: pytest.FixtureRequest) -> Architecture:
    """Each architecture of the sweep in turn."""
    return request.param


@pytest.fixture(scope="session")
def small() -> Architecture:
    """A network of two levels without pyramids."""
    return _SMALL


@pytest.fixture(scope="session")
def random_network() -> Callable[..., NCSNpp]:
    """Build a network whose every layer matters: also those that training starts near zero are drawn at random."""

    def build(architecture: Architecture, seed: int = 0) -> NCSNpp:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = NCSNpp(architecture)
            for name, parameter in network.named_parameters():
                if name != "all_modules.0.W":
                    parameter.data += 0.1 * torch.randn(parameter.shape)
        return network.eval().requires_grad_(False)

    return build
