"""The settings that options of the command line ask for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from engine.errors import InputError
from engine.methods import METHODS
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
#: Settings that do nothing without another one: (name, the setting that it needs, its values).
_NEEDS = (
    ("eta", "sampler", ("ddim", "heun")),
    ("noise_scale", "sampler", ("ddim", "heun")),
    ("snr", "sampler", ("pc",)),
    ("rho", "guidance", ("proximal",)),
    ("dps_weight", "guidance", ("dps",)),
    ("unlimited_steps", "guidance", ("dps",)),
    ("alpha", "mix", ("sum",)),
)
#: Options that are settings of the same name.
_SAME = (
    *("guidance", "mix", "alpha", "K", "eta", "noise_scale", "rho", "sparsity_weight", "dps_weight", "group", "snr"),
    *("sigma_min", "sigma_max"),
)
#: Options that some method does not read, and the settings by which `engine.methods` knows them.
_SETS = {
    **{"preset": "sampler", "sampler": "sampler", "steps": "n_steps", "unlimited_steps": "stable"},
    **{name: name for name in _SAME},
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
    _check_read(args)
    if args.preset and args.sampler and PRESETS[args.preset]["sampler"] != args.sampler:
        raise InputError(
            "preset",
            f"one of the sampler {args.sampler}",
            f"{args.preset}, which runs {PRESETS[args.preset]['sampler']}",
            "drop --preset or --sampler",
        )
    if args.preset:
        fields = dict(PRESETS[args.preset])
    else:
        # Without a measurement the corrector is what makes two planes agree.
        sampler = args.sampler or ("pc" if args.task == "uncond" else PRESETS["fast"]["sampler"])
        fields = {"sampler": sampler, **OF_SAMPLER[sampler]}
    if method.n_steps is not None:
        fields["n_steps"] = method.n_steps
    given = {"n_steps": args.steps, **{name: getattr(args, name) for name in _SAME}}
    fields |= {name: value for name, value in given.items() if value is not None}
    if args.unlimited_steps:
        fields["stable"] = False
    fields.setdefault("mix", Settings.mix)
    if "sampler" in method.reads:
        _check_effect(args, fields)
    if args.noise_level not in (None, "known"):
        _check_noise_level(args, fields)
    return Settings(seed=args.seed, **fields)


def _is_adaptive(fields: Mapping[str, Any]) -> bool:
    """Whether guidance is dps with an adaptive λ."""
    return fields["guidance"] == "dps" and "dps_weight" not in fields and fields.get("stable", Settings.stable)


def _check_noise_level(args: argparse.Namespace, fields: dict[str, Any]) -> None:
    """Refuse a noise level that nothing would read."""
    without = None
    if args.task == "uncond":
        without = "a task with a measurement", args.task
    elif "rho" not in METHODS[args.method].reads:
        without = f"a method that reads it ({_readers('rho')})", args.method
    elif fields["guidance"] == "dps" and not _is_adaptive(fields):
        without = "guidance proximal, or dps with an adaptive λ", "dps with a fixed one"
    elif args.rho is not None:
        without = "no --rho beside it", f"{args.rho:g}"
    if without:
        expected, got = without
        raise InputError("noise-level", expected, f"{got}, on which it has no effect", "drop --noise-level")


def _is_given(args: argparse.Namespace, option: str) -> bool:
    """Whether an option was: a number of zero is one, though it equals False."""
    value = getattr(args, option)
    return value is not None and value is not False


def _readers(setting: str) -> str:
    """The methods that read a setting."""
    return ", ".join(name for name, method in METHODS.items() if setting in method.reads)


def _check_read(args: argparse.Namespace) -> None:
    """Refuse options of the sampler that the method does not read.

    Raises
    ------
    InputError
    """
    for option, name in _SETS.items():
        if not _is_given(args, option) or name in METHODS[args.method].reads:
            continue
        option = option.replace("_", "-")
        raise InputError(
            option,
            f"a method that reads it ({_readers(name)})",
            f"{args.method}, on which it has no effect",
            f"drop --{option} or change --method",
        )


def _check_effect(args: argparse.Namespace, fields: Mapping[str, Any]) -> None:
    """Refuse options of samplers that have no effect beside the others.

    Raises
    ------
    InputError
    """
    for name, other, values in _NEEDS:
        if _is_given(args, name) and fields[other] not in values:
            option = name.replace("_", "-")
            raise InputError(
                option,
                f"{other} {' or '.join(values)}",
                f"{fields[other]}, on which it has no effect",
                f"drop --{option} or change --{other}",
            )
    if args.group is not None and fields["sampler"] != "pc" and (fields["guidance"] != "dps" or _is_adaptive(fields)):
        raise InputError(
            "group",
            "the sampler pc, or the guidance dps with a fixed λ",
            "neither, so that it has no effect",
            "drop --group",
        )
