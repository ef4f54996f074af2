"""The options of ``python -m engine.run``, and the settings that they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.backends.select import BACKENDS
from engine.cli import HelpFormatter
from engine.compiled import PRECISIONS
from engine.errors import InputError
from engine.methods import METHODS
from engine.operators.thick_slices import PROFILES
from engine.reconstruct import GUIDANCE, MIXES, NOISE_SCALE, SAMPLERS, START_LEVEL, Settings
from engine.tasks import TASKS

ROLES = ("primary", "auxiliary", "tertiary")
#: Named settings.
PRESETS: dict[str, dict[str, Any]] = {
    "reference": {"sampler": "pc", "guidance": "dps", "n_steps": 2000, "stable": False},
    "balanced": {"sampler": "ddim", "guidance": "proximal", "n_steps": 100, "noise_scale": 1.0},
    "fast": {"sampler": "ddim", "guidance": "proximal", "n_steps": 20},
}
#: What a sampler runs with where no preset says otherwise.
_OF_SAMPLER: dict[str, dict[str, Any]] = {
    "pc": {"guidance": "dps", "n_steps": 200},
    "ddim": {"guidance": "proximal", "n_steps": 20},
    "heun": {"guidance": "proximal", "n_steps": 20},
}
#: Published ratio of the two networks' turns.
_PUBLISHED_K: dict[str, int | float] = {"csmri": 2, "mrzsr": 2, "svct": 2.7, "uncond": 2}
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


def _steps_help() -> str:
    named = [f"{name} {fields['n_steps']}" for name, fields in PRESETS.items()]
    named += [f"{name} {_OF_SAMPLER[name]['n_steps']}" for name in ("pc", "heun")]
    return ", ".join(named + [f"{name} {method.n_steps}" for name, method in METHODS.items() if method.n_steps])


def number(text: str) -> int | float:
    """An integer without, a float with a point: K means different things for the two."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _word_or_number(text: str) -> float | str:
    """A number as such; anything else is for `engine.noise_level` to judge."""
    try:
        return float(text)
    except ValueError:
        return text


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engine.run",
        description="Reconstruct a volume with two perpendicular 2D diffusion priors.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--task", choices=TASKS, required=True, help="what is measured: k-space, thick slices, few CT views, or nothing"
    )
    parser.add_argument("--out", type=Path, default=None, help="folder for the results (default: runs/<task>)")
    parser.add_argument("--dry-run", action="store_true", help="check everything and show the plan, but do not sample")

    data = parser.add_argument_group("volume and measurement")
    data.add_argument(
        "--volume",
        type=Path,
        help="volume to measure: .nii, .nii.gz, .npy, or a folder of .npy slices (default: the demonstration's head)",
    )
    data.add_argument(
        "--stack-axis",
        type=int,
        choices=(0, 1, 2),
        default=2,
        help="volume axis along which a folder's slices are stacked",
    )
    data.add_argument("--acceleration", type=float, default=4.0, help="csmri: all k-space samples over those taken")
    data.add_argument("--factor", type=int, default=4, help="mrzsr: thin slices from one thick one to the next")
    data.add_argument(
        "--slice-profile", choices=PROFILES, default="box", help="mrzsr: what a thick slice sees across it"
    )
    data.add_argument(
        "--gap",
        type=float,
        default=0.0,
        help="mrzsr: thin slices between thick ones; the rest of the factor is thickness",
    )
    data.add_argument(
        "--thick-axis", type=int, choices=(0, 1, 2), default=2, help="mrzsr: volume axis along which slices are thick"
    )
    data.add_argument(
        "--views",
        type=int,
        default=None,
        help="svct: angles over 180 degrees (default: 36 for 256 pixels, in proportion)",
    )

    data.add_argument(
        "--noise",
        type=float,
        default=0.0,
        help="noise added to the measurement, as a part of the root mean square of its samples",
    )
    data.add_argument(
        "--noise-level",
        type=_word_or_number,
        default="known",
        metavar="LEVEL",
        help="noise that proximal guidance, or dps with an adaptive λ, expects: known (what --noise added), estimate "
        "(from the measurement), or a number in the unit of --noise",
    )

    priors = parser.add_argument_group("priors")
    priors.add_argument(
        "--planes",
        type=lambda text: tuple(text.split(",")),
        help="shipped priors to use, the primary one first, such as coronal,axial,sagittal (default: axial,coronal; "
        "mrzsr coronal,axial)",
    )
    for role in ROLES:
        shipped = "none" if role == "tertiary" else "a shipped one"
        priors.add_argument(f"--{role}", type=Path, help=f"engine bundle of the {role} plane (default: {shipped})")
        priors.add_argument(
            f"--{role}-plane", help="its plane, if the bundle does not know: axial, coronal, sagittal, or axes as 2,0,1"
        )

    sampler = parser.add_argument_group("sampler")
    sampler.add_argument(
        "--method",
        choices=tuple(METHODS),
        default="tpdm",
        help="tpdm: the product of perpendicular priors; single: the primary prior alone, slice by slice; dds, "
        "diffusionmbir: that with total variation across slices; tv, wavelet: total variation or sparse wavelets, "
        "without a network; classical: what the task's classical reconstruction is",
    )
    sampler.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        help="reference: the published sampler, as slow as published; fast: the mean of what is likely, in few steps; "
        "balanced: samples of it "
        "(default: fast, or what --sampler names)",
    )
    sampler.add_argument(
        "--sampler",
        choices=SAMPLERS,
        help="pc: the published predictor-corrector; ddim, heun: first and second order (default: ddim; uncond pc)",
    )
    sampler.add_argument(
        "--guidance",
        choices=GUIDANCE,
        help="proximal: estimates are moved to the measurement; dps: gradients through the network, as published "
        "(default: proximal; pc dps)",
    )
    sampler.add_argument("--mix", choices=MIXES, help=f"one prior a step, or the sum of all (default: {Settings.mix})")
    sampler.add_argument("--alpha", type=float, help="sum: share of the primary prior, 0 to 1 (default: 0.5)")
    sampler.add_argument(
        "--K",
        type=number,
        default=None,
        help="integer: every K-th step is the auxiliary's; with a point: each step with probability 1/K "
        "(default: 2; svct with pc 2.7)",
    )
    sampler.add_argument("--steps", type=int, help=f"noise levels (default: {_steps_help()})")
    sampler.add_argument(
        "--eta",
        type=float,
        help="ddim, heun, dds: part of each step's noise that is new, 0 to 1 (default: ddim 1, heun 0, dds 0.85)",
    )
    sampler.add_argument(
        "--noise-scale",
        type=float,
        help="ddim, heun: how much of that noise is added, 0 to 1, while the network is told all of it: 1 gives "
        f"samples, less their mean (default: ddim {NOISE_SCALE} with proximal guidance, else 1)",
    )
    sampler.add_argument(
        "--rho",
        type=float,
        help="proximal: weight of the estimate against the measurement, in units of the operator's squared norm "
        "(default: from the measurement's noise; 0 without)",
    )
    sampler.add_argument(
        "--sparsity-weight",
        type=float,
        help="tv, wavelet, dds, diffusionmbir: weight of total variation or wavelet coefficients against the "
        "measurement, without unit (default: one for each method and task)",
    )
    sampler.add_argument(
        "--dps-weight",
        type=float,
        help="dps: step size λ of data consistency (default: adaptive, from residual, operator and noise; with "
        "--unlimited-steps or --preset reference the published one, carried over to size and steps)",
    )
    sampler.add_argument(
        "--unlimited-steps",
        action="store_true",
        help="dps: let data consistency overshoot, as the published method may; for runs of thousands of steps",
    )
    sampler.add_argument(
        "--group",
        type=int,
        help="pc, dps with a fixed λ, diffusionmbir: slices over which norms are taken; changes the result "
        "(default: 6)",
    )
    sampler.add_argument(
        "--snr", type=float, help="pc, diffusionmbir: signal-to-noise ratio of the corrector (default: 0.16)"
    )
    sampler.add_argument("--sigma-min", type=float, help="last noise level (default: the trained one)")
    sampler.add_argument(
        "--sigma-max",
        type=float,
        help="first noise level (default: 0.3 for ddim and heun with a measurement, else the largest trained one)",
    )
    sampler.add_argument("--seed", type=int, default=Settings.seed, help="seed of noise and sampling mask")

    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="what runs the networks; auto: the fastest that runs here, the plan says which and why",
    )
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda, or cuda:N for the N-th GPU")
    machine.add_argument(
        "--precision", choices=PRECISIONS, help="arithmetic of the networks (default: the most exact one that is built)"
    )
    machine.add_argument(
        "--batch-size",
        type=int,
        default=None,
        help="slices that go through a network together; does not change the result (default: 1 or 2 on a CPU; on a "
        "GPU what the graphs were optimised for)",
    )
    machine.add_argument("--threads", type=int, default=None, help="worker threads on a CPU (default: all cores)")
    machine.add_argument("--quiet", action="store_true", help="no progress bar, errors only")
    return parser


def settings_of(args: argparse.Namespace, sigma_min: float, sigma_max: float) -> Settings:
    """The settings that the options ask for.

    Parameters
    ----------
    args : Namespace
        Of `build_parser`.
    sigma_min, sigma_max : float
        Ends of the range on which the networks were trained.

    Raises
    ------
    InputError
        A value out of range, or an option that would have no effect.
    """
    method = METHODS[args.method]
    _check_read(args)
    if args.preset and args.sampler and PRESETS[args.preset]["sampler"] != args.sampler:
        raise InputError(
            f"preset: expected one of the sampler {args.sampler}, got {args.preset}, which runs "
            f"{PRESETS[args.preset]['sampler']}; drop --preset or --sampler"
        )
    if args.preset:
        fields = dict(PRESETS[args.preset])
    else:
        # Without a measurement the corrector is what makes two planes agree.
        sampler = args.sampler or ("pc" if args.task == "uncond" else PRESETS["fast"]["sampler"])
        fields = {"sampler": sampler, **_OF_SAMPLER[sampler]}
    if method.n_steps is not None:
        fields["n_steps"] = method.n_steps
    given = {"n_steps": args.steps, **{name: getattr(args, name) for name in _SAME}}
    fields |= {name: value for name, value in given.items() if value is not None}
    if args.unlimited_steps:
        fields["stable"] = False
    fields.setdefault("mix", Settings.mix)
    if "sampler" in method.reads:
        _check_effect(args, fields)
    if args.noise_level != "known":
        _check_noise_level(args, fields)
    is_published = fields["sampler"] == "pc"
    fields.setdefault("K", _PUBLISHED_K[args.task] if is_published else Settings.K)
    fields.setdefault("sigma_min", sigma_min)
    is_full = is_published or args.task == "uncond"
    fields.setdefault("sigma_max", sigma_max if is_full else min(START_LEVEL, sigma_max))
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
        raise InputError(f"noise-level: expected {expected}, got {got}, on which it has no effect; drop --noise-level")


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
            f"{option}: expected a method that reads it ({_readers(name)}), got {args.method}, on which it has no "
            f"effect; drop --{option} or change --method"
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
                f"{option}: expected {other} {' or '.join(values)}, got {fields[other]}, on which it has no effect; "
                f"drop --{option} or change --{other}"
            )
    if args.group is not None and fields["sampler"] != "pc" and (fields["guidance"] != "dps" or _is_adaptive(fields)):
        raise InputError(
            "group: expected the sampler pc, or the guidance dps with a fixed λ, got neither, so that it has no "
            "effect; drop --group"
        )
