"""Fit a 2D diffusion prior to the slices of a few volumes.

``python -m training.fit --volumes … --plane axial --out xy.pt``
Denoising score matching for the VE SDE with continuous noise levels, as in score_sde: the loss is the mean of
‖σ s(x + σ z, σ) + z‖². The checkpoint has score_sde's format.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from torch import Tensor, nn
from tqdm import tqdm

from engine.cli import HelpFormatter
from engine.errors import InputError
from engine.io.volumes import load_volume
from engine.volume import Plane
from networks import Architecture, CheckpointError, NCSNpp, load_checkpoint, save_checkpoint
from networks.checkpoint import read_stored
from training.slices import Augmentation, SliceSampler, log_uniform_sigma

log = logging.getLogger("training")


def score_matching_loss(
    network: Callable[[Tensor, Tensor], Tensor], clean: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """σ²-weighted denoising score matching loss, per pixel.

    Parameters
    ----------
    network : callable
        ``network(x, sigma)`` returns the score.
    clean, noise : float (n, 1, h, w)
    sigma : float (n,)

    Returns
    -------
    scalar
        1 for a network that returns zero.
    """
    s = sigma[:, None, None, None]
    return (s * network(clean + s * noise, sigma) + noise).square().mean()


def fit(
    network: NCSNpp,
    sampler: SliceSampler,
    out: Path,
    *,
    n_steps: int,
    minutes: float | None = None,
    batch_size: int = 16,
    learning_rate: float = 5e-4,
    warmup: int = 500,
    ema_decay: float = 0.999,
    clip: float = 1.0,
    seed: int = 0,
    save_every: int = 1000,
    resume: bool = False,
    progress: bool = True,
) -> float:
    """Train `network` in place and write checkpoints to `out`.

    The learning rate rises over `warmup` steps and falls to zero by a half cosine over the whole run, which ends (and
    the cosine with it) when the first of two limits is reached: `n_steps` or `minutes`. Both include what was done
    before a resumed run, so that the rate of an interrupted run goes on as if it had never stopped.

    Whatever ends the training early, Ctrl-C included, the steps done are saved first.

    Parameters
    ----------
    network : NCSNpp
        On the sampler's device.
    sampler : SliceSampler
    out : path
        Checkpoint; the loss curve goes beside it, with the suffix ``.loss.csv``.
    n_steps : int
    minutes : float, optional
        Wall time.
    batch_size : int
        Slices a step.
    learning_rate : float
        Adam's, after warm-up.
    warmup : int
        Steps.
    ema_decay : float
        Of the weights' moving average, in [0, 1); shorter at the start.
    clip : float
        Largest norm of the gradient.
    seed : int
        Of slices and noise; a resumed run draws others than an uninterrupted one.
    save_every : int
        Steps between checkpoints.
    resume : bool
        Go on from the checkpoint at `out`.
    progress : bool
        Show a bar.

    Returns
    -------
    float
        Mean loss of the last 100 steps of this call.

    Raises
    ------
    InputError
        Limits that the resumed run has reached already, a loss that is not finite, or nothing to resume.
    networks.CheckpointError
        The checkpoint to resume cannot be read.
    """
    device = sampler.device
    network.train().requires_grad_(True)
    network.all_modules[0].requires_grad_(False)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    shadow = [p.detach().clone() for p in trained]
    curve_path = out.with_suffix(".loss.csv")
    curve: list[tuple[int, float]] = []
    first, minutes_before = 0, 0.0
    if resume:
        first, minutes_before = _restore(out, network, sampler, optimizer, shadow)
        curve = _read_curve(curve_path, first)
    if first >= n_steps:
        raise InputError("steps", f"more than the {first} done so far", n_steps, "raise --steps")
    if minutes is not None and minutes_before >= minutes:
        raise InputError(
            "minutes", f"more than the {minutes_before:.1f} spent so far", f"{minutes:g}", "raise --minutes"
        )
    generator = torch.Generator().manual_seed(seed + first)
    started = time.monotonic()
    losses: list[float] = []
    bar = tqdm(range(first, n_steps), initial=first, total=n_steps, unit="step", disable=not progress, mininterval=5)
    a = network.architecture
    n_done = first

    def minutes_spent() -> float:
        return minutes_before + (time.monotonic() - started) / 60

    def save() -> None:
        save_checkpoint(
            out, network, shadow, step=n_done, optimizer=optimizer.state_dict(), ema_decay=ema_decay,
            minutes=minutes_spent(), **_slices_of(sampler),
        )  # fmt: skip
        with curve_path.open("w", newline="") as stream:
            csv.writer(stream).writerows([("step", "loss"), *curve])

    try:
        for step in bar:
            spent = minutes_spent() / minutes if minutes else 0.0
            if spent >= 1 and n_done > first:
                break
            done = max(step / n_steps, spent)
            rate = learning_rate * min(1.0, (step + 1) / max(1, warmup)) * (0.5 + 0.5 * math.cos(math.pi * done))
            for group in optimizer.param_groups:
                group["lr"] = rate
            clean = sampler.draw(batch_size, generator)
            sigma = log_uniform_sigma(batch_size, a.sigma_min, a.sigma_max, generator).to(device)
            noise = torch.randn(clean.shape, generator=generator).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = score_matching_loss(network, clean, sigma, noise)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = float(nn.utils.clip_grad_norm_(trained, clip))
            # Both, and before the weights change: they are saved on the way out.
            if not (math.isfinite(loss.item()) and math.isfinite(norm)):
                raise InputError(
                    "learning_rate",
                    "a finite loss and gradient",
                    f"{loss.item():g} and {norm:g} at step {step}",
                    "lower --learning-rate",
                )
            losses.append(loss.item())
            optimizer.step()
            # The average starts short and lengthens, so that it does not remember the random start.
            decay = min(ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(shadow, [p.detach() for p in trained], 1 - decay)
            n_done = step + 1
            if n_done % 100 == 0:
                recent = sum(losses[-100:]) / len(losses[-100:])
                curve.append((n_done, round(recent, 6)))
                bar.set_postfix(loss=f"{recent:.4f}", refresh=False)
            if n_done % save_every == 0:
                save()
    finally:
        bar.close()
        if n_done > first:
            save()
    return sum(losses[-100:]) / len(losses[-100:])


def _slices_of(sampler: SliceSampler) -> dict[str, Any]:
    """What the checkpoint says of the slices that it was trained on."""
    return {"plane": list(sampler.plane.axes), "image_size": sampler.size, "voxel_mm": sampler.voxel_mm}


def _read_curve(path: Path, n_steps: int) -> list[tuple[int, float]]:
    """Rows of an earlier run's loss curve, up to the step of its checkpoint."""
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(stream)]
    return [row for row in rows if row[0] <= n_steps]


def _restore(
    out: Path, network: NCSNpp, sampler: SliceSampler, optimizer: torch.optim.Optimizer, shadow: list[Tensor]
) -> tuple[int, float]:
    """Fill network, optimiser and average from a checkpoint; return its steps and minutes."""
    if not out.is_file():
        raise InputError(
            "resume", f"the checkpoint of an earlier run at '{out}'", "nothing", "drop --resume to start anew"
        )
    stored = read_stored(out)
    for name, mine in {"architecture": network.architecture.to_dict(), **_slices_of(sampler)}.items():
        if stored.get(name) != mine:
            raise InputError(
                "resume", f"{name} as stored in '{out}' ({stored.get(name)})", mine, "repeat the first run's options"
            )
    if not stored.get("optimizer"):
        raise InputError("resume", f"the optimiser's state in '{out}'", "none", "drop --resume to start anew")
    network.load_state_dict({k.removeprefix("module."): v for k, v in stored["model"].items()})
    optimizer.load_state_dict(stored["optimizer"])
    for mine, theirs in zip(shadow, stored["ema"]["shadow_params"], strict=True):
        mine.copy_(theirs)
    return int(stored["step"]), float(stored.get("minutes", 0.0))


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
        "size",
        "voxel_mm",
        "steps",
        "batch_size",
        "learning_rate",
        "clip",
        "sigma_min",
        "res_blocks",
        "save_every",
    ):
        if not getattr(args, name) > 0:
            raise InputError(name, "more than 0", f"{getattr(args, name)}", f"change --{name.replace('_', '-')}")
    for name in ("minutes", "threads"):
        if getattr(args, name) is not None and not getattr(args, name) > 0:
            raise InputError(name, "more than 0", f"{getattr(args, name)}", f"leave --{name} out for no limit")
    if args.warmup < 0:
        raise InputError("warmup", "0 or more steps", args.warmup, "change --warmup")
    if not args.sigma_max > args.sigma_min:
        raise InputError(
            "sigma_max", f"more than sigma_min ({args.sigma_min:g})", f"{args.sigma_max:g}", "raise --sigma-max"
        )
    if not 0 <= args.ema < 1:
        raise InputError("ema", "a decay in [0, 1)", f"{args.ema:g}", "change --ema")
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
        description=__doc__.split("\n")[0],
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--volumes", nargs="+", required=True, metavar="FILE", help="NIfTI or .npy volumes to learn from"
    )
    parser.add_argument(
        "--plane", required=True, help="axial, coronal, sagittal, or axes slice,row,column such as 2,0,1"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="checkpoint to write; <out>.loss.csv holds the loss curve"
    )
    parser.add_argument("--size", type=int, default=64, help="side of the training slices, in pixels")
    parser.add_argument("--voxel-mm", type=float, default=3.0, help="side of a pixel, in mm")
    parser.add_argument("--steps", type=int, default=20000, help="optimiser steps")
    parser.add_argument(
        "--minutes", type=float, default=None, help="end earlier, after this many minutes, a resumed run's included"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="slices a step")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="Adam's rate after warm-up")
    parser.add_argument("--warmup", type=int, default=500, help="steps over which the rate rises")
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the weights' moving average")
    parser.add_argument("--clip", type=float, default=1.0, help="largest gradient norm")
    parser.add_argument("--sigma-min", type=float, default=0.01, help="smallest noise level")
    parser.add_argument("--sigma-max", type=float, default=50.0, help="largest noise level")
    parser.add_argument("--nf", type=int, default=16, help="channels of the finest level")
    parser.add_argument(
        "--ch-mult", type=int, nargs="+", default=[1, 2, 4], help="channels of each level, in units of nf"
    )
    parser.add_argument("--res-blocks", type=int, default=1, help="residual blocks a level")
    parser.add_argument(
        "--attention-levels", type=int, nargs="*", default=[2], help="levels with attention, 0 the finest"
    )
    parser.add_argument("--no-elastic", action="store_true", help="leave out the elastic deformation")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (all cores if not given)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, slices and noise")
    parser.add_argument("--save-every", type=int, default=1000, help="steps between checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint at --out")
    parser.add_argument(
        "--init", type=Path, help="checkpoint of another prior, of whatever plane, whose averaged weights to start from"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = build_parser().parse_args(argv)
    try:
        _check(args)
        plane = Plane.parse(args.plane)
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
        volumes = [load_volume(path) for path in args.volumes]
        if args.threads:
            torch.set_num_threads(args.threads)
        torch.manual_seed(args.seed)
        device = torch.device(args.device)
        network = (_started_from(args.init, architecture) if args.init else _new(architecture)).to(device)
        log.info("%s, %d parameters", architecture, sum(p.numel() for p in network.parameters()))
        augmentation = Augmentation(elastic_mm=0.0) if args.no_elastic else Augmentation()
        sampler = SliceSampler(volumes, plane, args.size, args.voxel_mm, augmentation, device)
        loss = fit(
            network, sampler, args.out, n_steps=args.steps, minutes=args.minutes, batch_size=args.batch_size,
            learning_rate=args.learning_rate, warmup=args.warmup, ema_decay=args.ema, clip=args.clip, seed=args.seed,
            save_every=args.save_every, resume=args.resume,
        )  # fmt: skip
    except InputError as error:
        print(f"training.fit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"training.fit: interrupted; go on with --resume if '{args.out}' was written", file=sys.stderr)
        return 130
    log.info("loss %.4f, written to %s", loss, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
