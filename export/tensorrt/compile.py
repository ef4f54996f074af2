"""Compiles a bundle: which graphs, for which sizes and precision, and the folder that they go to."""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import operator
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType

from onnx import ModelProto, TensorProto

from engine.backends.bundle import GRAPHS, Bundle
from engine.backends.compiled import FOLDER, FORMAT, PRECISIONS, RECORD, REQUIRED, Compiled, identity_of, name_of
from engine.errors import InputError
from engine.versions import versions
from export.half.reduced import Reduced, reduce
from export.tensorrt.build import build, platform_of
from export.tensorrt.guided import INPUTS, compose
from export.write.folders import check_replaceable, written_whole

log = logging.getLogger("export")

#: Everything that can be compiled, and what is unless asked otherwise: the adjoint is for other programs than ours.
ALL_GRAPHS = (*GRAPHS, *INPUTS)
DEFAULT_GRAPHS = tuple(name for name in ALL_GRAPHS if name != "adjoint")
#: Slices in one run: smallest, the one to be fastest for, largest. Memory grows with the largest.
DEFAULT_BATCH = (1, 4, 8)
#: The sources whose change makes compiled graphs stale, beside those of the bundle itself.
_SOURCES = ("half/emulation", "half/precision", "half/reduced", "tensorrt/build", "tensorrt/compile", "tensorrt/guided")
_WHAT = "compiled graphs"

Sizes = tuple[int, int, int]


@dataclass(frozen=True)
class Settings:
    """What graphs are compiled for.

    Parameters
    ----------
    precision : str
        One of `engine.backends.compiled.PRECISIONS`.
    batch, height, width : (int, int, int)
        Smallest, fastest and largest; equal ones are fixed in the graph.
    platform : str or None
        "sm86" and the like, or "any"; None: for TensorRT for RTX any, for TensorRT the card at hand.
    refit : bool
        Leave room for another network's weights, at some cost in speed.
    graphs : tuple of str
        Some of `ALL_GRAPHS`.
    """

    precision: str
    batch: Sizes
    height: Sizes
    width: Sizes
    platform: str | None = None
    refit: bool = False
    graphs: tuple[str, ...] = DEFAULT_GRAPHS

    @classmethod
    def checked(
        cls,
        bundle: Bundle,
        precision: str,
        *,
        batch: str | None = None,
        height: str | None = None,
        width: str | None = None,
        static: bool = False,
        platform: str | None = None,
        refit: bool = False,
        graphs: str | None = None,
    ) -> Settings:
        """Settings from what a command line says.

        Parameters
        ----------
        batch, height, width : str, optional
            "4", or "1,4,8" for smallest, fastest and largest. Sides are those of the training slices unless stated.
        static : bool
            One batch size only, the fastest.
        graphs : str, optional
            Names with commas.

        Raises
        ------
        InputError
        """
        check_options(precision, graphs, batch, height, width)
        sizes = _sizes("batch", batch, DEFAULT_BATCH)
        if static:
            sizes = (sizes[1],) * 3
        sides = []
        for name, text in (("height", height), ("width", width)):
            if text is None and bundle.trained_size is None:
                raise InputError(
                    name,
                    "the size of the slices",
                    f"none from '{bundle.folder}', which does not know that of its training",
                    f"state it with --{name}",
                )
            side = _sizes(name, text, (bundle.trained_size or 0,) * 3)
            if any(n % bundle.divisor for n in side):
                raise InputError(
                    name, f"multiples of {bundle.divisor} for the network of '{bundle.folder}'", text, "round them up"
                )
            if static and side[0] != side[2]:
                raise InputError(name, "one size with --static", text, "drop one of the two")
            sides.append(side)
        names = (
            DEFAULT_GRAPHS if graphs is None else tuple(n for n in ALL_GRAPHS if n in {*graphs.split(","), *REQUIRED})
        )
        return cls(precision, sizes, sides[0], sides[1], platform, refit, names)

    @property
    def profile(self) -> dict[str, list[int]]:
        return {"batch": list(self.batch), "height": list(self.height), "width": list(self.width)}


def check_options(
    precision: str = "fp32", graphs: str | None = None, batch: str | None = None, height: str | None = None,
    width: str | None = None, **_: object,
) -> None:  # fmt: skip
    """Refuse what `Settings.checked` would, as far as that depends on no bundle.

    Raises
    ------
    InputError
    """
    if precision not in PRECISIONS:
        raise InputError("precision", f"{', '.join(PRECISIONS)}", f"'{precision}'", "choose one")
    for name, text in (("batch", batch), ("height", height), ("width", width)):
        _sizes(name, text, DEFAULT_BATCH)
    unknown = [] if graphs is None else sorted(set(graphs.split(",")) - set(ALL_GRAPHS))
    if unknown:
        raise InputError("graphs", f"some of {', '.join(ALL_GRAPHS)}", f"{', '.join(unknown)}", "choose those")


def _sizes(name: str, text: str | None, default: Sizes) -> Sizes:
    if text is None:
        return default
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2]:
        raise InputError(name, "a size, or smallest,fastest,largest, at least 1", f"'{text}'", "try 1,4,8")
    return numbers[0], numbers[1], numbers[2]


def compile_bundle(bundle: Bundle, settings: Settings, trt: ModuleType, force: bool = False) -> tuple[Compiled, bool]:
    """Compile a bundle's graphs, unless they are there already.

    Parameters
    ----------
    bundle : Bundle
    settings : Settings
    trt : module
        tensorrt or tensorrt_rtx.
    force : bool
        Compile in any case.

    Returns
    -------
    compiled : Compiled
    is_new : bool

    Raises
    ------
    InputError
        The library refuses a graph or its build, the platform is none of its, the folder cannot be written.
    KeyboardInterrupt
        Nothing is left behind.
    """
    platform = platform_of(settings.platform, trt)
    out = place_of(bundle, settings, trt)
    key = key_of(bundle, settings, trt)
    if not force and (found := _current(out, bundle, key)) is not None:
        return found, False
    check_replaceable(out, RECORD, _WHAT)
    started = time.monotonic()
    log.info("putting the graphs of '%s' into %s …", bundle.folder, settings.precision)
    reduced = reduce(bundle, settings.precision)
    if reduced.float32_layers:
        log.info("%d layers stay float32", len(reduced.float32_layers))
    with written_whole(out, RECORD, _WHAT) as work:
        graphs = {}
        for name in settings.graphs:
            model, shapes = graph_of(name, reduced, settings)
            source = model.SerializeToString(deterministic=True)
            engine = build(
                name, model, shapes, trt, precision=settings.precision, platform=platform, refit=settings.refit
            )
            file = work / f"{name}.engine"
            file.write_bytes(engine)
            graphs[name] = {
                "file": file.name,
                "sha256": hashlib.sha256(engine).hexdigest(),
                "source_sha256": hashlib.sha256(source).hexdigest(),
            }
        record = {
            "format": FORMAT,
            "library": trt.__name__,
            "library_version": trt.__version__,
            "precision": settings.precision,
            "platform": platform,
            "bundle": identity_of(bundle),
            "profile": settings.profile,
            "graphs": graphs,
            "float32_layers": reduced.float32_layers,
            "verification": reduced.verification,
            "refit": settings.refit,
            "build_seconds": round(time.monotonic() - started, 1),
            "versions": versions("onnx"),
            "key": key,
        }
        (work / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return Compiled.open(out, bundle), True


def place_of(bundle: Bundle, settings: Settings, trt: ModuleType) -> Path:
    """The folder that compiled graphs go to."""
    platform = platform_of(settings.platform, trt)
    return bundle.folder / FOLDER / name_of(trt.__name__, settings.precision, platform)


def is_current(bundle: Bundle, settings: Settings, trt: ModuleType) -> bool:
    """Whether the graphs have been compiled with these settings, by this version of everything."""
    return _current(place_of(bundle, settings, trt), bundle, key_of(bundle, settings, trt)) is not None


def _current(out: Path, bundle: Bundle, key: str) -> Compiled | None:
    try:
        found = Compiled.open(out, bundle)
        found.check_files()
    except InputError:
        return None
    return found if found.record.get("key") == key else None


def key_of(bundle: Bundle, settings: Settings, trt: ModuleType) -> str:
    """Hash of everything that compiled graphs depend on."""
    digest = hashlib.sha256(identity_of(bundle).encode())
    for name in _SOURCES:
        digest.update((Path(__file__).parents[1] / f"{name}.py").read_bytes())
    chosen = {**asdict(settings), "platform": platform_of(settings.platform, trt)}
    digest.update(json.dumps([chosen, trt.__name__, trt.__version__, metadata.version("onnx")]).encode())
    return digest.hexdigest()


# --- graphs and their sizes


def graph_of(name: str, reduced: Reduced, settings: Settings) -> tuple[ModelProto, dict[str, list[tuple[int, ...]]]]:
    """A graph to compile, and the smallest, fastest and largest shape of each of its inputs.

    Sizes that never change are numbers in it.
    """
    model = ModelProto()
    if name in INPUTS:
        # Products of the measurement operator are float32 whatever the precision; tf32 would change them too.
        exact = settings.precision == "tf32"
        model = compose(name, reduced.models["linearize"], reduced.models["pullback"], split_products=exact)
    else:
        model.CopyFrom(reduced.models[name])
    sizes = [_known_sizes(name, model, reduced, settings, i) for i in range(3)]
    shapes = {}
    for info in model.graph.input:
        dims = info.type.tensor_type.shape.dim
        shapes[info.name] = [
            tuple(_evaluated(d.dim_param, known) if d.dim_param else d.dim_value for d in dims) for known in sizes
        ]
        for dim, low, _, high in zip(dims, *shapes[info.name], strict=True):
            if low == high:
                dim.Clear()
                dim.dim_value = low
    if settings.refit:
        _name_by_position(model)
    return model, shapes


def _known_sizes(name: str, model: ModelProto, reduced: Reduced, settings: Settings, which: int) -> dict[str, int]:
    """What the symbols of a graph's sizes stand for; those of the tape are expressions of the image's."""
    image = {"batch": settings.batch[which], "height": settings.height[which], "width": settings.width[which]}
    known = dict(image)
    side = image["height" if name == "guided_thick_rows" else "width"]
    # From one thick slice, or from none in four thin ones as usual, to no thick slices at all.
    known["blocks"] = (1, max(1, side // 4), side)[which]
    for graph, value in ((model, "x"), (model, "cotangent"), (reduced.models["linearize"], "x")):
        for info in graph.graph.input:
            if info.name == value:
                n, _, h, w = (d.dim_param for d in info.type.tensor_type.shape.dim)
                known |= {n: image["batch"], h: image["height"], w: image["width"]}
    return known


_ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}


def _evaluated(expression: str, known: Mapping[str, int]) -> int:
    """A size that the exporter wrote as integer arithmetic on symbols."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name) and node.id in known:
            return known[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return int(_ARITHMETIC[type(node.op)](value(node.left), value(node.right)))
        raise InputError(
            "bundle", "sizes that follow from those of the image", f"'{expression}'", "build the bundle again"
        )

    return value(ast.parse(expression, mode="eval").body)


def _name_by_position(model: ModelProto) -> None:
    """Name weights by their place in the graph, as they are called alike in every network of this architecture."""
    names: dict[str, str] = {}
    weights = {t.name: t for t in model.graph.initializer if t.data_type != TensorProto.INT64}
    for node in model.graph.node:
        for i, value in enumerate(node.input):
            if value in weights:
                names.setdefault(value, f"weight_{len(names)}")
                node.input[i] = names[value]
    for name, tensor in weights.items():
        tensor.name = names.get(name, name)
