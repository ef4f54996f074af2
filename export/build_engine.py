"""Compile a score network into an engine bundle: ``python -m export.build_engine --ckpt xy.pt``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.backends.bundle import MANIFEST, Bundle, sha256_of
from engine.backends.compiled import folders_of
from engine.cli import exit_code, writing_to
from engine.errors import InputError
from engine.volume import ALL_PLANES, Plane
from export.bundle import build_engine, content_key, is_bundle, is_current
from networks.callable_names import is_callable
from networks.diffusers_files import is_diffusers

log = logging.getLogger("export")

#: What the exporter needs that a run does not, by the extra that brings it.
_EXTRAS = {"export": ("onnx", "torch"), "diffusers": ("diffusers", "safetensors")}
#: Beyond it slices are mostly made of what is mirrored.
_MOST_MARGIN = 64


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export.build_engine", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--ckpt",
        type=Path,
        help="checkpoint of score_sde's or TPDM's format, or diffusers' UNet2DModel: a folder or file of weights; "
        "or module:function of your own, which is run, that returns a network and its scheduler",
    )
    source.add_argument("--bundle", type=Path, help="bundle whose graphs to compile, where there is no checkpoint")
    parser.add_argument("--out", type=Path, help="folder of the bundle (default: engines/<name of the checkpoint>)")
    parser.add_argument(
        "--plane",
        help="plane of the training slices: axial, coronal, sagittal, all, or axes slice,row,column such as 2,0,1",
    )
    parser.add_argument(
        "--voxel-mm", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="smallest and largest side of a training pixel, if the checkpoint does not say",
    )  # fmt: skip
    parser.add_argument(
        "--margin", type=int, metavar="PIXELS",
        help="pixels to mirror where tissue reaches the border of a slice, for a network that was trained on whole "
        "slices with black around them, if the checkpoint does not say (default: 0)",
    )  # fmt: skip
    parser.add_argument("--card", type=Path, help="text on data, validation and limits, to go into the bundle")
    parser.add_argument(
        "--to-checkpoint",
        type=Path,
        metavar="FILE",
        help="write a checkpoint of --bundle, to train on from, and no more",
    )
    parser.add_argument("--no-ema", action="store_true", help="use the last weights instead of their moving average")
    parser.add_argument(
        "--with-adjoint", action="store_true", help="also write adjoint.onnx, for other programs: no run opens it"
    )
    parser.add_argument("--force", action="store_true", help="build even if the bundle is up to date")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    known = parser.add_argument_group(
        "architecture", "asked for only where the tensors do not tell; a stated value overrides what would be inferred"
    )
    for name, text in (
        ("fir", "resampling by the (1, 3, 3, 1) filter"),
        ("skip-rescale", "residual sums divided by √2"),
        ("scale-by-sigma", "output divided by σ"),
        ("centered", "input taken as it is, not mapped from [0, 1] to [-1, 1]"),
    ):
        known.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=None, help=text)
    known.add_argument("--sigma-min", type=float, help="smallest trained noise level, if the checkpoint has no sigmas")
    known.add_argument("--sigma-max", type=float, help="largest trained noise level, if the checkpoint has no sigmas")
    compiled = parser.add_argument_group("compiled graphs", "sizes are one number, or smallest,fastest,largest")
    compiled.add_argument(
        "--backend",
        choices=("onnx", "tensorrt"),
        default="onnx",
        help="onnx: the bundle alone (default); tensorrt: its graphs compiled too, by TensorRT or TensorRT for RTX",
    )
    # Without defaults, so that one that would have no effect can be refused.
    compiled.add_argument("--precision", help="fp32 (default), tf32, fp16, bf16")
    compiled.add_argument("--batch", help="slices in one run (default: 1,4,8)")
    compiled.add_argument("--height", help="rows of a slice (default: those of the training slices)")
    compiled.add_argument("--width", help="columns of a slice (default: those of the training slices)")
    compiled.add_argument("--static", action="store_true", help="one batch size only, the fastest")
    compiled.add_argument("--platform", help="compute capability such as sm86, or any (default, TensorRT for RTX only)")
    compiled.add_argument("--refit", action="store_true", help="leave room for the weights of another network")
    compiled.add_argument("--graphs", help="names with commas (default: all)")
    return parser


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = build_parser().parse_args(argv)
    names = ("fir", "skip_rescale", "scale_by_sigma", "centered", "sigma_min", "sigma_max")
    known = {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    out = args.bundle or args.out
    if out is None:
        # A function's module may have dots, which are no ending.
        name = str(args.ckpt).replace(":", ".") if is_callable(args.ckpt) else args.ckpt.stem
        out = Path("engines") / name
    return exit_code("build_engine", lambda: _main(args, known, out), interrupted="nothing unfinished was left")


#: Options that say how graphs are compiled.
_COMPILE = ("precision", "batch", "height", "width", "static", "platform", "refit", "graphs")


def _main(args: argparse.Namespace, known: dict[str, Any], out: Path) -> int:
    try:
        with writing_to(args.to_checkpoint or out):
            return _carry_out(args, known, out)
    except ModuleNotFoundError as error:
        # Of what is not installed for a run alone; anything else of our own missing is a defect.
        extra = next((extra for extra, packages in _EXTRAS.items() if error.name in packages), None)
        if extra is None:
            raise
        raise InputError(
            "installation",
            f"the packages of the extra `{extra}`",
            f"no {error.name}",
            f"`pip install -c constraints.txt -e '.[{extra}]'`",
        ) from error


def _restore(args: argparse.Namespace) -> int:
    """Write the checkpoint of a bundle."""
    if not args.bundle:
        raise InputError("to-checkpoint", "--bundle with it", "none", "name the bundle")
    if args.to_checkpoint.is_dir():
        raise InputError("to-checkpoint", "a file to write", f"the folder '{args.to_checkpoint}'", "name a file in it")
    bundle = Bundle.open(args.bundle)
    from export.restore import write_checkpoint

    try:
        write_checkpoint(bundle, args.to_checkpoint)
    except ValueError as error:
        raise InputError(
            "bundle", "a small network, written by this exporter", f"'{args.bundle}' ({error})", "use its checkpoint"
        ) from error
    print(f"wrote {args.to_checkpoint}")
    return 0


def _carry_out(args: argparse.Namespace, known: dict[str, Any], out: Path) -> int:
    if args.to_checkpoint:
        return _restore(args)
    options = {name: getattr(args, name) for name in _COMPILE if getattr(args, name)}
    if args.backend == "onnx":
        if options or args.bundle:
            name = next(iter(options), "bundle")
            raise InputError(
                name,
                "--backend tensorrt with it",
                "--backend onnx, which compiles nothing",
                "add the one or drop the other",
            )
        return _build_bundle(args, known, out)
    if args.bundle:
        given = [
            name
            for name in ("out", "plane", "voxel_mm", "margin", "card", "no_ema", "with_adjoint")
            if getattr(args, name)
        ] + list(known)
        if given:
            raise InputError(
                given[0].replace("_", "-"),
                "--ckpt with it",
                "--bundle, whose network is what it is",
                "drop the option or give the checkpoint",
            )
    from export.tensorrt.build import library
    from export.tensorrt.settings import check_options

    # Asked for first: a bundle takes minutes, and would end in a refusal.
    check_options(**options)
    trt = library()
    if args.ckpt and (code := _build_bundle(args, known, out)):
        return code
    return _compile(args, out, trt, options)


def _compile(args: argparse.Namespace, out: Path, trt: ModuleType, options: dict[str, Any]) -> int:
    from export.tensorrt.compile import compile_bundle, is_current, place_of
    from export.tensorrt.settings import Settings

    if args.ckpt and args.dry_run and not (out / MANIFEST).is_file():
        print(f"would compile {out}")
        return 0
    bundle = Bundle.open(out)
    settings = Settings.checked(bundle, options.pop("precision", "fp32"), **options)
    if args.dry_run:
        current = is_current(bundle, settings, trt) and not args.force
        place = place_of(bundle, settings, trt)
        print(f"{place} is up to date" if current else f"would compile {place}")
        return 0
    compiled, is_new = compile_bundle(bundle, settings, trt, force=args.force)
    if not is_new:
        print(f"{compiled.folder} is up to date")
        return 0
    size_mb = sum(compiled.file_of(graph).stat().st_size for graph in compiled.graphs) / 1e6
    print(f"wrote {compiled.folder} ({size_mb:.1f} MB) in {compiled.record['build_seconds']:.0f} s")
    return 0


def _build_bundle(args: argparse.Namespace, known: dict[str, Any], out: Path) -> int:
    plane = Plane.parse(args.plane) if args.plane not in (None, ALL_PLANES) else args.plane
    if args.voxel_mm and not 0 < args.voxel_mm[0] <= args.voxel_mm[1] < float("inf"):
        low, high = args.voxel_mm
        raise InputError("voxel-mm", "two sizes, the smaller first", f"{low:g} and {high:g}", "change --voxel-mm")
    if args.margin is not None and not 0 <= args.margin <= _MOST_MARGIN:
        raise InputError("margin", f"0 to {_MOST_MARGIN} pixels", args.margin, "4 suits slices of 64 pixels")
    if args.card and not args.card.is_file():
        raise InputError("card", "a text file", f"nothing, or a folder, at '{args.card}'", "check the path")
    by_function = is_callable(args.ckpt)
    if not args.ckpt.is_file() and not is_diffusers(args.ckpt) and not by_function:
        found, remedy = ("a folder", "give the file in it") if args.ckpt.is_dir() else ("nothing", "check the path")
        raise InputError("ckpt", "a checkpoint file", f"{found} at '{args.ckpt}'", remedy)
    chosen = {"ema": not args.no_ema, "with_adjoint": args.with_adjoint}
    try:
        described = {"plane": args.plane, "voxel_mm": args.voxel_mm, "card": args.card and sha256_of(args.card)}
        described |= {} if args.margin is None else {"margin": args.margin}
        # What a function will return, nothing tells beforehand: its bundle is never up to date.
        key = None if by_function else content_key(args.ckpt, {**described, **chosen, **known})
    except OSError as error:
        raise InputError("ckpt", "a file that can be read", f"'{args.ckpt}' ({error.strerror})", "check it") from error
    if key is not None and is_current(out, key) and not args.force:
        print(f"{out} is up to date")
        return 0
    if args.dry_run:
        print(f"would build {out} from {args.ckpt}")
        return 0
    compiled = folders_of(Bundle.open(out)) if is_bundle(out) else []
    manifest = build_engine(
        args.ckpt,
        out,
        plane=plane,
        voxel_mm=args.voxel_mm,
        margin=args.margin,
        card=args.card,
        key=key,
        **chosen,
        **known,
    )
    for folder in compiled:
        log.info("%s belonged to the earlier bundle and is gone; compile it again", folder)
    size_mb = sum((out / name).stat().st_size for name in manifest["files"]) / 1e6
    print(f"wrote {out} ({size_mb:.1f} MB) in {manifest['build_seconds']:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
