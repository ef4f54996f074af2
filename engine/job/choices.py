"""From the options of the sampler to its settings: presets, and refusals of what would have no effect."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from engine.errors import InputError
from engine.methods import METHODS
from engine.options import declared, values_of
from engine.sampling.settings import Settings

#: Named settings.
PRESETS: dict[str, dict[str, Any]] = {
    "reference": {"sampler": "pc", "guidance": "dps", "n_steps": 2000, "stable": False},
    "balanced": {"sampler": "ddim", "guidance": "proximal", "n_steps": 100, "noise_scale": 1.0},
    "fast": {"sampler": "ddim", "guidance": "proximal", "n_steps": 20},
}
#: What a sampler runs with where no preset says otherwise.
OF_SAMPLER: dict[str, dict[str, Any]] = {
    "pc": {"guidance": "dps", "n_steps": 200},
    "ddim": {"guidance": "proximal", "n_steps": 20},
    "heun": {"guidance": "proximal", "n_steps": 20},
}


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that the options ask for.

    Parameters
    ----------
    args : Namespace
        Of `engine.job.parser.build_parser`.

    Raises
    ------
    InputError
        A value out of range, or an option that would have no effect.
    """
    method = METHODS[args.method]
    given = values_of(Settings, args)
    _check_read(args, given)
    if args.preset and args.sampler and PRESETS[args.preset]["sampler"] != args.sampler:
        raise InputError(
            "preset",
            f"one of the sampler {args.sampler}",
            f"{args.preset}, which runs {PRESETS[args.preset]['sampler']}",
            "drop --preset or --sampler",
        )
    if args.preset:
        chosen = dict(PRESETS[args.preset])
    else:
        # Without a measurement the corrector is what makes two planes agree.
        sampler = args.sampler or ("pc" if args.task == "uncond" else Settings.sampler)
        chosen = {"sampler": sampler, **OF_SAMPLER[sampler]}
    if method.n_steps is not None:
        chosen["n_steps"] = method.n_steps
    settings = Settings(**{**chosen, **given})
    if "sampler" in method.reads:
        _check_effect(given, settings)
    if args.noise_level not in (None, "known"):
        _check_noise_level(args, settings)
    return settings


def _is_adaptive(settings: Settings) -> bool:
    """Whether guidance is dps with an adaptive λ."""
    return settings.guidance == "dps" and settings.dps_weight is None and settings.stable


def _readers(setting: str) -> str:
    """The methods that read a setting."""
    return ", ".join(name for name, method in METHODS.items() if setting in method.reads)


def _check_read(args: argparse.Namespace, given: Mapping[str, Any]) -> None:
    """Refuse settings that the method does not read."""
    asked = {one.attribute: one.name for one in declared(Settings) if one.attribute in given and one.name != "seed"}
    if args.preset:
        asked = {"sampler": "preset", **asked}
    for attribute, name in asked.items():
        if attribute not in METHODS[args.method].reads:
            expected = f"a method that reads it ({_readers(attribute)})"
            raise InputError(
                name, expected, f"{args.method}, on which it has no effect", f"drop --{name} or change --method"
            )


def _check_effect(given: Mapping[str, Any], settings: Settings) -> None:
    """Refuse settings that have no effect beside the others."""
    for one in declared(Settings):
        if one.attribute not in given or one.option.needs is None:
            continue
        other, values = one.option.needs
        if getattr(settings, other) not in values:
            raise InputError(
                one.name,
                f"{other} {' or '.join(values)}",
                f"{getattr(settings, other)}, on which it has no effect",
                f"drop --{one.name} or change --{other}",
            )
    if "group" in given and settings.sampler != "pc" and (settings.guidance != "dps" or _is_adaptive(settings)):
        expected = "the sampler pc, or the guidance dps with a fixed λ"
        raise InputError("group", expected, "neither, so that it has no effect", "drop --group")


def _check_noise_level(args: argparse.Namespace, settings: Settings) -> None:
    """Refuse a noise level that nothing would read."""
    reads = METHODS[args.method].reads
    refusals = (
        (args.task == "uncond", "a task with a measurement", args.task),
        ("rho" not in reads, f"a method that reads it ({_readers('rho')})", args.method),
        (
            settings.guidance == "dps" and not _is_adaptive(settings),
            "guidance proximal, or dps with an adaptive λ",
            "dps with a fixed one",
        ),
        (settings.rho is not None, "no --rho beside it", settings.rho),
    )
    for applies, expected, got in refusals:
        if applies:
            raise InputError("noise-level", expected, f"{got}, on which it has no effect", "drop --noise-level")
