"""Compile a score network into an engine bundle: ``python -m export.build_engine --ckpt xy.pt``.

The bundle holds ONNX graphs of the denoiser and of its adjoint, the network as a program for the native kernels, and a
manifest; all is verified against PyTorch. With ``--backend tensorrt`` its graphs are compiled for NVIDIA GPUs too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.backends.bundle import FORMAT, MANIFEST, Bundle, sha256_of
from engine.backends.compiled import folders_of
from engine.errors import InputError
from engine.versions import versions
from engine.volume import Plane
from export.write.folders import written_whole

log = logging.getLogger("export")

_WHAT = "an engine bundle"
#: Packages of the extra `export`.
_EXTRA = ("onnx", "torch")

#: The sources whose change makes an existing bundle stale.
_SOURCES = tuple(
    f"export/{n}.py" for n in ("trace/adjoint", "trace/lowering", "write/graphs", "write/native", "write/onnx")
) + tuple(f"networks/{n}.py" for n in ("architecture", "checkpoint", "infer", "layers", "ncsnpp"))


def content_key(ckpt: Path, options: dict[str, Any]) -> str:
    """Hash of everything that a bundle depends on: the checkpoint, the options, the exporter and its libraries."""
    digest = hashlib.sha256(sha256_of(ckpt).encode())
    digest.update(json.dumps(options, sort_keys=True).encode())
    for name in _SOURCES:
        digest.update((Path(__file__).parent.parent / name).read_bytes())
    for package in ("torch", "onnx"):
        digest.update(metadata.version(package).encode())
    return digest.hexdigest()


def is_current(folder: Path, key: str) -> bool:
    """Whether `folder` holds a whole bundle with this key."""
    try:
        return Bundle.open(folder).manifest.get("key") == key
    except InputError:
        return False


def is_bundle(folder: Path) -> bool:
    """Whether a whole bundle is there, of whatever network."""
    try:
        Bundle.open(folder)
    except InputError:
        return False
    return True


def build_engine(
    ckpt: Path, out: Path, *, plane: Plane | None = None, ema: bool = True, key: str | None = None, **known: Any
) -> dict[str, Any]:
    """Export, verify and write a bundle; `out` appears whole or not at all.

    Parameters
    ----------
    ckpt : Path
        score_sde or TPDM checkpoint.
    out : Path
        Folder of the bundle; replaced if it is one.
    plane : Plane, optional
        The plane of the training slices, where the checkpoint does not say.
    ema : bool
        Use the moving average of the weights.
    key : str, optional
        Content key to store.
    **known
        Fields of `networks.Architecture` that the tensors do not tell.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    networks.CheckpointError, InputError
        The checkpoint cannot be used, the output cannot be written, or verification failed.
    """
    # PyTorch takes seconds to import: `--help`, an up-to-date bundle and a wrong path need not wait for it.
    import torch

    from export import verify
    from export.write.graphs import write_graphs
    from networks import load_checkpoint

    started = time.monotonic()
    network, info = load_checkpoint(ckpt, ema=ema, **known)
    a = network.architecture
    stored = info.get("plane")
    if stored is not None and plane is not None and tuple(stored) != plane.axes:
        raise InputError(
            "plane", f"{Plane(tuple(stored))}, which the checkpoint '{ckpt}' was trained on", plane, "drop --plane"
        )
    axes = list(plane.axes) if plane else stored
    n_parameters = sum(p.numel() for p in network.parameters())
    log.info("network: %.2f million parameters, %s", n_parameters / 1e6, a)
    for name, how in info["inferred"].items():
        log.info("  %s: %s", name, how)
    if axes is None:
        log.info("  plane: not stored in the checkpoint; state it with --plane here or when the engine runs")

    with written_whole(out, MANIFEST, _WHAT) as work:
        log.info("tracing the denoiser and its adjoint …")
        with torch.no_grad():
            write_graphs(network, work)
        log.info("verifying against float64 autograd …")
        rows = verify.verify(network, work)
        print(verify.table(rows))
        if not all(r.passes for r in rows):
            raise InputError(
                "ckpt",
                (
                    f"relative errors of at most {verify.BOUNDS['x0']:g} (x0) and {verify.BOUNDS['pullback']:g} "
                    "(pullback)"
                ),
                f"more for '{ckpt}', as the table above shows",
                "the weights may be beyond float32's reach: check the training",
            )
        manifest = {
            "format": FORMAT,
            "name": out.name,
            "architecture": a.to_dict(),
            "inferred": info["inferred"],
            "n_parameters": n_parameters,
            "plane": axes,
            "trained_size": info["image_size"],
            "divisor": a.divisor,
            "precision": "float32",
            "opset": _opset(),
            "checkpoint": {"file": ckpt.name, "sha256": sha256_of(ckpt), "ema": ema, "step": info["step"]},
            "versions": versions("torch", "onnx"),
            "verification": {"bounds": verify.BOUNDS, "rows": [r.to_dict() for r in rows]},
            "build_seconds": round(time.monotonic() - started, 1),
            "key": key,
            "files": {p.name: sha256_of(p) for p in sorted(work.iterdir())},
        }
        (work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _opset() -> int:
    from export.write.onnx import OPSET

    return OPSET


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export.build_engine", description=(__doc__ or "").split("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--ckpt", type=Path, help="checkpoint of score_sde's or TPDM's format")
    source.add_argument("--bundle", type=Path, help="bundle whose graphs to compile, where there is no checkpoint")
    parser.add_argument("--out", type=Path, help="folder of the bundle (default: engines/<name of the checkpoint>)")
    parser.add_argument(
        "--plane", help="plane of the training slices: axial, coronal, sagittal, or axes slice,row,column such as 2,0,1"
    )
    parser.add_argument("--no-ema", action="store_true", help="use the last weights instead of their moving average")
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
    compiled.add_argument("--graphs", help="names with commas (default: all but adjoint)")
    return parser


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = build_parser().parse_args(argv)
    names = ("fir", "skip_rescale", "scale_by_sigma", "centered", "sigma_min", "sigma_max")
    known = {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    out = args.bundle or args.out or Path("engines") / args.ckpt.stem
    try:
        return _main(args, known, out)
    except InputError as error:
        print(f"build_engine: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        # Of what is not installed for a run alone; anything else of our own missing is a defect.
        if error.name not in _EXTRA:
            raise
        print(
            f"build_engine: installation: expected the packages of the extra `export`, got no {error.name}; "
            "`pip install -c constraints.txt -e '.[export]'`",
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        print(
            f"build_engine: out: expected room and permission to write '{out}', got '{error.strerror or error}'; "
            "make room or choose another with --out",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("build_engine: interrupted; nothing unfinished was left", file=sys.stderr)
        return 130


#: Options that say how graphs are compiled.
_COMPILE = ("precision", "batch", "height", "width", "static", "platform", "refit", "graphs")


def _main(args: argparse.Namespace, known: dict[str, Any], out: Path) -> int:
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
        return _build(args, known, out)
    if args.bundle:
        given = [name for name in ("out", "plane", "no_ema") if getattr(args, name)] + list(known)
        if given:
            raise InputError(
                f"{given[0].replace('_', '-')}",
                "--ckpt with it",
                "--bundle, whose network is what it is",
                "drop the option or give the checkpoint",
            )
    from export.tensorrt.build import library
    from export.tensorrt.compile import check_options

    # Asked for first: a bundle takes minutes, and would end in a refusal.
    check_options(**options)
    trt = library()
    if args.ckpt and (code := _build(args, known, out)):
        return code
    return _compile(args, out, trt, options)


def _compile(args: argparse.Namespace, out: Path, trt: ModuleType, options: dict[str, Any]) -> int:
    from export.tensorrt.compile import Settings, compile_bundle, is_current, place_of

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


def _build(args: argparse.Namespace, known: dict[str, Any], out: Path) -> int:
    plane = Plane.parse(args.plane) if args.plane else None
    if not args.ckpt.is_file():
        raise InputError("ckpt", "a checkpoint file", f"nothing at '{args.ckpt}'", "check the path")
    key = content_key(args.ckpt, {"plane": args.plane, "ema": not args.no_ema, **known})
    if is_current(out, key) and not args.force:
        print(f"{out} is up to date")
        return 0
    if args.dry_run:
        print(f"would build {out} from {args.ckpt}")
        return 0
    compiled = folders_of(Bundle.open(out)) if is_bundle(out) else []
    manifest = build_engine(args.ckpt, out, plane=plane, ema=not args.no_ema, key=key, **known)
    for folder in compiled:
        log.info("%s belonged to the earlier bundle and is gone; compile it again", folder)
    size_mb = sum((out / name).stat().st_size for name in manifest["files"]) / 1e6
    print(f"wrote {out} ({size_mb:.1f} MB) in {manifest['build_seconds']:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
