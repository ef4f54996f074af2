"""Adapt a prior to one scan: ``python -m training.adapt --bundle BUNDLE --thick scan.nii.gz --minutes 5 --out FOLDER``.

The slices of a scan with thick ones are sharp in their own plane: pictures of this person, contrast and scanner, on
which the prior trains on for a few minutes. The result is a bundle like the one that it came from.

Source: Zhao et al., SMORE: a self-supervised anti-aliasing and super-resolution algorithm for MRI, IEEE TMI 2021, for
super-resolution networks.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from engine.backends.bundle import Bundle
from engine.cli import HelpFormatter, exit_code
from engine.errors import InputError
from engine.io.volumes import load_volume
from engine.volume import NAMED_PLANES, Plane

log = logging.getLogger("training")

#: Pixels of a patch's side, in units of what the network halves; patches a step.
_SIDE, _BATCH = 8, 8
#: A third of training's own, shortly averaged: minutes, not hours.
_RATE, _WARMUP, _EMA = 5e-4, 50, 0.995
#: Steps between checkpoints.
_SAVE_EVERY = 100
#: More than any number of minutes takes.
_MOST_STEPS = 10**9


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.adapt",
        description="Adapt a prior to one scan: train it on the scan's own slices.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="engine bundle of the prior to start from")
    add("--thick", type=Path, required=True, help="scan with thick slices: NIfTI, or what engine.run takes")
    add("--thick-axis", type=int, choices=(0, 1, 2), help="axis across the thick slices, else that of largest spacing")
    add("--minutes", type=float, required=True, help="of training, those before an interruption included")
    add(
        "--out",
        type=Path,
        required=True,
        help="folder of the adapted bundle; beside it lies a checkpoint until that is written",
    )
    add("--threads", type=int, help="CPU threads (all cores if not given)")
    add("--seed", type=int, default=0, help="seed of patches and noise")
    return parser


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = build_parser().parse_args(argv)
    return exit_code("training.adapt", lambda: _main(args), interrupted="the same command goes on where it stopped")


def _main(args: argparse.Namespace) -> None:
    try:
        _adapt(args)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "onnx"):
            raise
        raise InputError(
            "installation",
            "the packages of the extras `train` and `export`",
            f"no {error.name}",
            "`pip install -c constraints.txt -e '.[train,export]'`",
        ) from error


def _adapt(args: argparse.Namespace) -> None:
    # PyTorch takes seconds to import, and may be missing: `--help` needs none of it.
    import torch

    from export.bundle import build_engine
    from export.restore import network_of
    from networks.checkpoint import read_stored
    from training.loop import Schedule, Training
    from training.patches import PatchSampler

    if not 0 < args.minutes < float("inf"):
        raise InputError("minutes", "more than 0, and finite", args.minutes, "change --minutes")
    if args.threads is not None:
        if args.threads < 1:
            raise InputError("threads", "at least 1", args.threads, "change --threads")
        torch.set_num_threads(args.threads)
    bundle, scan = Bundle.open(args.bundle), load_volume(args.thick, argument="thick")
    if not bundle.serves_all_planes:
        raise InputError(
            "bundle", "a prior that serves all planes", f"'{args.bundle}', which serves one", "use the 1 mm prior"
        )
    axis = int(scan.voxel_mm.argmax()) if args.thick_axis is None else args.thick_axis
    plane = next(Plane(axes) for axes in NAMED_PLANES.values() if axes[0] == axis)
    sampler = PatchSampler(
        [scan], plane, _SIDE * bundle.divisor, bundle.voxel_mm or (0.0, 0.0), 0.0, "thick", serves_all=True
    )
    torch.manual_seed(args.seed)
    try:
        network = network_of(bundle)
    except ValueError as error:
        raise InputError(
            "bundle", "a small network, written by this exporter", f"'{args.bundle}' ({error})", "use another prior"
        ) from error
    # A name that no training of the user's has: it is gone in the end.
    checkpoint = args.out.with_name(f"{args.out.name}.adapting.pt")
    schedule = Schedule(
        steps=_MOST_STEPS, minutes=args.minutes, batch_size=_BATCH, learning_rate=_RATE, warmup=_WARMUP, ema=_EMA,
        save_every=_SAVE_EVERY,
    )  # fmt: skip
    training = Training(network, sampler, checkpoint, schedule, None, args.seed)
    # An interruption may have come after the last step.
    if not checkpoint.is_file() or read_stored(checkpoint)["minutes"] < args.minutes:
        if checkpoint.is_file():
            training.resume()
        log.info("loss %.4f after %d steps", training.run(), training.step)
    build_engine(checkpoint, args.out)
    checkpoint.unlink()
    checkpoint.with_suffix(".csv").unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
