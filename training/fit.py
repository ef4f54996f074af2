"""Fit a 2D diffusion prior to heads: ``python -m training.fit --volumes FOLDER --validate FOLDER --out prior.pt``.

Denoising score matching for the VE SDE with continuous noise levels, as in score_sde: the loss is the mean of
‖σ s(x + σ z, σ) + z‖², over random patches of random slices. The checkpoint has score_sde's format.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import fields
from pathlib import Path

try:
    import torch
except ModuleNotFoundError as error:
    # Of the command, in an installation for runs alone; whoever imports this module gets the exception.
    if __name__ != "__main__" or error.name != "torch":
        raise
    print(
        "training.fit: installation: expected the packages of the extra `train`, got no torch; "
        "`pip install -c constraints.txt -e '.[train]'`",
        file=sys.stderr,
    )
    sys.exit(2)

from engine.cli import HelpFormatter, exit_code
from engine.errors import InputError
from engine.volume import ALL_PLANES, Plane
from networks import Architecture, CheckpointError, NCSNpp, load_checkpoint
from training.loop import Schedule, Training
from training.patches import PatchSampler, load_folder

log = logging.getLogger("training")


def _new(architecture: Architecture) -> NCSNpp:
    """A network with random weights."""
    try:
        return NCSNpp(architecture)
    except ValueError as error:  # group normalisation cannot divide the channels
        raise InputError(
            "nf", "channels that group normalisation can divide", f"others ({error})", "make --nf a power of 2"
        ) from error


def _started_from(path: Path, architecture: Architecture) -> NCSNpp:
    """A network with the averaged weights of another checkpoint, of whatever plane and size."""
    try:
        network, _ = load_checkpoint(path)
    except CheckpointError as error:
        # What was expected and found, but not its remedy, which may name an option of the exporter.
        remedy = "give the checkpoint of another prior, or drop --init"
        raise InputError("init", error.expected, error.got, remedy) from error
    theirs, mine = network.architecture.to_dict(), architecture.to_dict()
    if different := [name for name in mine if theirs[name] != mine[name]]:
        name = different[0]
        raise InputError(
            "init",
            f"the architecture that the options state ({name} {mine[name]})",
            f"{name} {theirs[name]} in '{path}'",
            "repeat the options of its training",
        )
    return network


def _check(args: argparse.Namespace) -> None:
    """Refuse what the options' types let through."""
    for name in (
        *("size", "steps", "batch_size", "learning_rate", "clip", "sigma_min", "res_blocks", "save_every"),
        *("minutes", "threads"),
    ):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise InputError(name, "more than 0", value, f"change --{name.replace('_', '-')}")
    low, high = args.voxel_mm
    if not 0 < low <= high < float("inf"):
        raise InputError("voxel_mm", "two sizes, the smaller first", f"{low:g} and {high:g}", "change --voxel-mm")
    if args.warmup < 0:
        raise InputError("warmup", "0 or more steps", args.warmup, "change --warmup")
    if not args.sigma_max > args.sigma_min:
        raise InputError(
            "sigma_max", f"more than sigma_min ({args.sigma_min:g})", f"{args.sigma_max:g}", "raise --sigma-max"
        )
    if not 0 <= args.ema < 1:
        raise InputError("ema", "a decay in [0, 1)", f"{args.ema:g}", "change --ema")
    if not 0 <= args.contrast <= 1:
        raise InputError("contrast", "a probability in [0, 1]", f"{args.contrast:g}", "change --contrast")
    if args.nf < 4 or min(args.ch_mult) < 1:
        raise InputError(
            "nf",
            "at least 4 channels, and multiples of at least 1",
            f"{args.nf} and {args.ch_mult}",
            "change --nf or --ch-mult",
        )
    if wrong := [level for level in args.attention_levels if not 0 <= level < len(args.ch_mult)]:
        raise InputError(
            "attention_levels", f"levels from 0 to {len(args.ch_mult) - 1}", f"{wrong[0]}", "change --attention-levels"
        )
    if args.shares and (len(args.shares) != len(args.volumes) or not all(0 < s < float("inf") for s in args.shares)):
        raise InputError(
            "shares",
            f"{len(args.volumes)} positive numbers, one for every path of --volumes",
            " ".join(f"{share:g}" for share in args.shares),
            "change --shares",
        )
    if args.init and args.resume:
        raise InputError(
            "init", "a new run with it", "--resume, which takes its weights from --out", "drop one of them"
        )
    if args.out.is_dir():
        raise InputError("out", "a file to write", f"the folder '{args.out}'", "name a file in it")
    if args.device not in ("cpu", "cuda") or (args.device == "cuda" and not torch.cuda.is_available()):
        raise InputError("device", "cpu, or cuda where a GPU is usable", f"'{args.device}'", "change --device")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.fit",
        description="Fit a 2D diffusion prior to heads.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("--volumes", nargs="+", required=True, metavar="PATH", help="volumes to learn from: files, or folders of NIfTI")
    add(
        "--shares", type=float, nargs="+", metavar="PART",
        help="part of the patches from every path of --volumes, in any unit (by tissue if not given)",
    )  # fmt: skip
    add("--validate", nargs="+", metavar="PATH", help="volumes of other people, for the validation loss")
    add("--out", type=Path, required=True, help="checkpoint to write; its name with .csv holds the loss curves")
    add("--plane", default="all", help="all, axial, coronal, sagittal, or axes slice,row,column such as 2,0,1")
    add("--size", type=int, default=64, help="side of the patches, in pixels")
    add(
        "--voxel-mm", type=float, nargs=2, default=[0.7, 1.4], metavar=("LOW", "HIGH"),
        help="smallest and largest pixel to resample half the patches to, in mm; the others keep their voxels",
    )  # fmt: skip
    add("--contrast", type=float, default=0.2, help="probability of another contrast than the volume's")
    add("--steps", type=int, default=20000, help="optimiser steps")
    add("--minutes", type=float, help="end earlier, after this many minutes, a resumed run's included")
    add("--batch-size", type=int, default=12, help="patches a step")
    add("--learning-rate", type=float, default=1.5e-3, help="AdamW's rate after warm-up")
    add("--warmup", type=int, default=100, help="steps over which the rate rises")
    add("--ema", type=float, default=0.999, help="decay of the weights' moving average")
    add("--clip", type=float, default=1.0, help="largest gradient norm")
    add("--sigma-min", type=float, default=0.005, help="smallest noise level; white is 1")
    add("--sigma-max", type=float, default=1.0, help="largest noise level")
    add("--nf", type=int, default=16, help="channels of the finest level")
    add("--ch-mult", type=int, nargs="+", default=[1, 2, 4], help="channels of each level, in units of nf")
    add("--res-blocks", type=int, default=1, help="residual blocks a level")
    add("--attention-levels", type=int, nargs="*", default=[], help="levels with attention, 0 the finest")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    add("--threads", type=int, help="CPU threads (all cores if not given)")
    add("--seed", type=int, default=0, help="seed of weights, patches and noise")
    add("--save-every", type=int, default=500, help="steps between checkpoints, and between rows of the loss curves")
    add("--resume", action="store_true", help="go on from the checkpoint at --out")
    add("--init", type=Path, help="checkpoint of another prior whose averaged weights to start from")
    return parser


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = build_parser().parse_args(argv)
    resume = f"go on with --resume if '{args.out}' was written"
    return exit_code("training.fit", lambda: _fit(args), interrupted=resume)


def _fit(args: argparse.Namespace) -> None:
    _check(args)
    plane = None if args.plane == ALL_PLANES else Plane.parse(args.plane)
    architecture = Architecture(
        nf=args.nf, ch_mult=tuple(args.ch_mult), n_res_blocks=args.res_blocks,
        attention_levels=tuple(args.attention_levels), progressive_input="residual",
        sigma_min=args.sigma_min, sigma_max=args.sigma_max,
    )  # fmt: skip
    if args.size % architecture.divisor or args.size < 8 * architecture.divisor:
        raise InputError(
            "size",
            f"a multiple of {architecture.divisor}, at least {8 * architecture.divisor}",
            args.size,
            "change --size or drop a level of --ch-mult",
        )
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    network = (_started_from(args.init, architecture) if args.init else _new(architecture)).to(args.device)
    log.info("%s, %d parameters", architecture, sum(p.numel() for p in network.parameters()))

    def sampler(argument: str, contrast: float, shares: list[float] | None = None) -> PatchSampler:
        by_path = [load_folder([path], argument) for path in getattr(args, argument)]
        volumes = [volume for found in by_path for volume in found]
        log.info("%s: %d volumes", argument, len(volumes))
        parts = [s / len(found) for s, found in zip(shares, by_path, strict=True) for _ in found] if shares else None
        return PatchSampler(volumes, plane, args.size, tuple(args.voxel_mm), contrast, argument, shares=parts)

    schedule = Schedule(**{field.name: getattr(args, field.name) for field in fields(Schedule)})
    validation = sampler("validate", 0.0) if args.validate else None
    training = Training(
        network, sampler("volumes", args.contrast, args.shares), args.out, schedule, validation, args.seed
    )
    if args.resume:
        training.resume()
    loss = training.run()
    log.info("loss %.4f, written to %s", loss, args.out)


if __name__ == "__main__":
    sys.exit(main())
