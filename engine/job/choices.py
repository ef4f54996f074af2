"""The settings that the options of a run ask for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from engine.errors import InputError
from engine.methods import METHODS
from engine.options import Options, declared, option, read, stated
from engine.sampling.settings import Settings

#: Named settings.
PRESETS: dict[str, dict[str, Any]] = {
    "reference": {"sampler": "pc", "guidance": "dps", "n_steps": 2000, "stable": False},
    "balanced": {"sampler": "ddim", "guidance": "proximal", "n_steps": 100, "noise_scale": 1.0},
    "fast": {"sampler": "ddim", "guidance": "proximal", "n_steps": 20},
}
#: Settings of a sampler where no preset says otherwise.
OF_SAMPLER: dict[str, dict[str, Any]] = {
    "pc": {"guidance": "dps", "n_steps": 200},
    "ddim": {"guidance": "proximal", "n_steps": 20},
    "heun": {"guidance": "proximal", "n_steps": 20},
}


@dataclass(frozen=True)
class Choice(Options):
    """A method, and named settings of it."""

    method: str = option(
        "tpdm",
        choices=tuple(METHODS),
        help="tpdm: the product of perpendicular priors; single: the primary prior alone, slice by slice; dds, "
        "diffusionmbir: that with total variation across slices; tv, wavelet: total variation or sparse wavelets, "
        "without a network; classical: the task's classical reconstruction",
    )
    preset: str | None = option(
        None,
        choices=tuple(PRESETS),
        default_words="fast, or that of --sampler",
        help="reference: the published sampler, as slow as published; fast: the posterior's mean, in few steps; "
        "balanced: samples of the posterior",
    )


def default_steps() -> str:
    """The numbers of steps in words."""
    named = [f"{name} {settings['n_steps']}" for name, settings in PRESETS.items()]
    named += [f"{name} {OF_SAMPLER[name]['n_steps']}" for name in ("pc", "heun")]
    return ", ".join(named + [f"{name} {method.n_steps}" for name, method in METHODS.items() if method.n_steps])


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that the options ask for.

    Parameters
    ----------
    args : Namespace
        Of `engine.job.configuration.parse`.

    Raises
    ------
    InputError
        A value out of range, or an option without effect.
    """
    choice = read(Choice, args)
    method = METHODS[choice.method]
    # The seed is the simulation's as well.
    given = {name: value for name, value in stated(Settings, args).items() if name != "seed"}
    names = {one.name: one.field for one in declared(Settings) if one.field in given}
    _check_method(choice.method, {**({"preset": "sampler"} if choice.preset else {}), **names})
    if choice.preset and args.sampler not in (None, PRESETS[choice.preset]["sampler"]):
        raise InputError(
            "preset",
            f"one of the sampler {args.sampler}",
            f"{choice.preset}, which runs {PRESETS[choice.preset]['sampler']}",
            "drop --preset or --sampler",
        )
    if choice.preset:
        chosen = dict(PRESETS[choice.preset])
    else:
        # Without a measurement the corrector is what makes two planes agree.
        sampler = args.sampler or ("pc" if args.task == "uncond" else PRESETS["fast"]["sampler"])
        chosen = {"sampler": sampler, **OF_SAMPLER[sampler]}
    if method.n_steps is not None:
        chosen["n_steps"] = method.n_steps
    settings = Settings(**{**chosen, **given, "seed": args.seed})
    if "sampler" in method.reads:
        _check_effect(settings, given)
    if args.noise_level not in (None, "known"):
        _check_noise_level(args, settings)
    return settings


def _check_method(method: str, asked: Mapping[str, str]) -> None:
    """Refuse options, by their names the settings that they set, which the method does not read."""
    for name, setting in asked.items():
        if setting not in METHODS[method].reads:
            raise InputError(
                name,
                f"a method that reads it ({_readers(setting)})",
                f"{method}, on which it has no effect",
                f"drop --{name} or change --method",
            )


def _readers(setting: str) -> str:
    """The methods that read a setting."""
    return ", ".join(name for name, method in METHODS.items() if setting in method.reads)


def _check_effect(settings: Settings, given: Mapping[str, Any]) -> None:
    """Refuse settings that have no effect beside the others."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    for one in declared(Settings):
        if one.field in given:
            one.check_read(values)
    if "group" in given and settings.sampler != "pc" and (settings.guidance != "dps" or _is_adaptive(settings)):
        raise InputError(
            "group",
            "the sampler pc, or the guidance dps with a fixed λ",
            "neither, so that it has no effect",
            "drop --group",
        )


def _is_adaptive(settings: Settings) -> bool:
    """Whether guidance is dps with an adaptive λ."""
    return settings.guidance == "dps" and settings.dps_weight is None and settings.stable


def _check_noise_level(args: argparse.Namespace, settings: Settings) -> None:
    """Refuse a noise level that nothing would read."""
    without = None
    if args.task == "uncond":
        without = "a task with a measurement", args.task
    elif "rho" not in METHODS[args.method].reads:
        without = f"a method that reads it ({_readers('rho')})", args.method
    elif settings.guidance == "dps" and not _is_adaptive(settings):
        without = "guidance proximal, or dps with an adaptive λ", "dps with a fixed one"
    elif args.rho is not None:
        without = "no --rho beside it", f"{args.rho:g}"
    if without:
        expected, got = without
        raise InputError("noise-level", expected, f"{got}, on which it has no effect", "drop --noise-level")
