"""Compiles a bundle's graphs with TensorRT, or with TensorRT for RTX, which needs no GPU for that."""

from __future__ import annotations

import ast
import ctypes
import hashlib
import importlib
import json
import logging
import operator
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from onnx import ModelProto, TensorProto
from tqdm import tqdm

from engine.bundle import GRAPHS, Bundle
from engine.compiled import (
    ANY_PLATFORM,
    FOLDER,
    FORMAT,
    LIBRARIES,
    PRECISIONS,
    RECORD,
    REQUIRED,
    Compiled,
    identity_of,
    name_of,
)
from engine.errors import InputError
from export.folders import check_replaceable, written_whole
from export.guided import INPUTS, compose
from export.reduced import Reduced, reduce

log = logging.getLogger("export")

#: Everything that can be compiled, and what is unless asked otherwise: the adjoint is for other programs than ours.
ALL_GRAPHS = (*GRAPHS, *INPUTS)
DEFAULT_GRAPHS = tuple(name for name in ALL_GRAPHS if name != "adjoint")
#: Slices in one run: smallest, the one to be fastest for, largest. One slice of 256² of the published network takes
#: about 1 GB of half-precision activations.
DEFAULT_BATCH = (1, 4, 8)
_PIP = "`pip install tensorrt-rtx-cu13` (Linux, x86-64), or NVIDIA's tensorrt"
#: The sources whose change makes compiled graphs stale, beside those of the bundle itself.
_SOURCES = ("emulation", "guided", "precision", "reduced", "tensorrt")
_WHAT = "compiled graphs"

Sizes = tuple[int, int, int]


@dataclass(frozen=True)
class Settings:
    """What graphs are compiled for.

    Parameters
    ----------
    precision : str
        One of `engine.compiled.PRECISIONS`.
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
        if precision not in PRECISIONS:
            raise InputError(f"precision: expected {', '.join(PRECISIONS)}, got '{precision}'; choose one")
        sizes = _sizes("batch", batch, DEFAULT_BATCH)
        if static:
            sizes = (sizes[1],) * 3
        sides = []
        for name, text in (("height", height), ("width", width)):
            if text is None and bundle.trained_size is None:
                raise InputError(
                    f"{name}: expected the size of the slices, '{bundle.folder}' does not know that of its training; "
                    f"state it with --{name}"
                )
            side = _sizes(name, text, (bundle.trained_size or 0,) * 3)
            if any(n % bundle.divisor for n in side):
                raise InputError(
                    f"{name}: expected multiples of {bundle.divisor} for the network of '{bundle.folder}', got {text}; "
                    "round them up"
                )
            if static and side[0] != side[2]:
                raise InputError(f"{name}: expected one size with --static, got {text}; drop one of the two")
            sides.append(side)
        names = (
            DEFAULT_GRAPHS if graphs is None else tuple(n for n in ALL_GRAPHS if n in {*graphs.split(","), *REQUIRED})
        )
        unknown = [] if graphs is None else sorted(set(graphs.split(",")) - set(ALL_GRAPHS))
        if unknown:
            raise InputError(
                f"graphs: expected some of {', '.join(ALL_GRAPHS)}, got {', '.join(unknown)}; choose those"
            )
        return cls(precision, sizes, sides[0], sides[1], platform, refit, names)

    @property
    def profile(self) -> dict[str, list[int]]:
        return {"batch": list(self.batch), "height": list(self.height), "width": list(self.width)}


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
        raise InputError(f"{name}: expected a size, or smallest,fastest,largest, at least 1, got '{text}'; try 1,4,8")
    return numbers[0], numbers[1], numbers[2]


def library() -> ModuleType:
    """Return the installed library, TensorRT before TensorRT for RTX.

    Raises
    ------
    InputError
        There is none.
    """
    failures = []
    for name in LIBRARIES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            failures.append(error)
        except OSError as error:
            # The package is there, its shared libraries cannot be loaded.
            raise InputError(f"backend: expected a working {name}, got '{error}'; install it again") from error
    raise InputError(f"backend: expected TensorRT, found neither {' nor '.join(LIBRARIES)}; install one: {_PIP}")


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
            engine = build(name, model, shapes, settings, trt)
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
            "versions": {p: metadata.version(p) for p in ("tpdm-engine", "onnx", "onnxruntime")},
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
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    chosen = {**asdict(settings), "platform": platform_of(settings.platform, trt)}
    digest.update(json.dumps([chosen, trt.__name__, trt.__version__, metadata.version("onnx")]).encode())
    return digest.hexdigest()


def platform_of(asked: str | None, trt: ModuleType) -> str:
    """The platform as a record names it.

    Raises
    ------
    InputError
        TensorRT compiles for the card at hand only; TensorRT for RTX for those that it names.
    """
    if trt.__name__ == "tensorrt":
        card = _card()
        if asked not in (None, card):
            raise InputError(
                f"platform: expected {card}, the card at hand, for which alone TensorRT compiles, got '{asked}'; "
                "compile on such a card, or with TensorRT for RTX"
            )
        return card
    known = [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    if asked in (None, ANY_PLATFORM):
        return ANY_PLATFORM
    if asked not in known:
        raise InputError(
            f"platform: expected {ANY_PLATFORM}, {', '.join(known)}, which this TensorRT for RTX names, got '{asked}'; "
            f"choose one, or {ANY_PLATFORM}"
        )
    return asked


def _card() -> str:
    """Compute capability of the first GPU, as "sm90"."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        # 75 and 76: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
        failed = driver.cuInit(0) or any(
            driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0)
            for value, attribute in ((major, 75), (minor, 76))
        )
    except OSError:
        failed = True
    if failed:
        raise InputError(
            "backend: expected an NVIDIA GPU, without which TensorRT compiles nothing, found none; compile where "
            "there is one, or use TensorRT for RTX (`pip uninstall tensorrt && pip install tensorrt-rtx-cu13`)"
        )
    return f"sm{major.value}{minor.value}"


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
            f"bundle: expected sizes that follow from those of the image, got '{expression}'; build the bundle again"
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


# --- the library


class _Messages:
    """Collects a library's errors; `of` makes the logger that it takes."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def of(self, trt: ModuleType) -> Any:
        messages, severity = self, trt.ILogger.Severity

        class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, level: Any, text: str) -> None:
                if level in (severity.ERROR, severity.INTERNAL_ERROR):
                    messages.errors.append(text)
                else:
                    log.debug("%s: %s", trt.__name__, text)

        return Logger()

    @property
    def first(self) -> str:
        return " ".join(self.errors[0].split()) if self.errors else "no reason given"


def build(
    name: str,
    model: ModelProto,
    shapes: Mapping[str, list[tuple[int, ...]]],
    settings: Settings,
    trt: ModuleType,
    detailed: bool = False,
) -> bytes:
    """Compile one graph.

    Parameters
    ----------
    name : str
        For messages.
    model, shapes
        As `graph_of` returns them.
    settings : Settings
    trt : module
    detailed : bool
        Keep what the library's inspector shows of every layer.

    Returns
    -------
    bytes
        Serialized engine.

    Raises
    ------
    InputError
        The library's own message in it.
    KeyboardInterrupt
    """
    messages = _Messages()
    logger = messages.of(trt)
    builder = _builder(trt, logger, messages)
    network, parser = parse(name, model, builder, trt, logger)
    config = builder.create_builder_config()
    # TF32 is on unless switched off; then float32 is float32.
    (config.set_flag if settings.precision == "tf32" else config.clear_flag)(trt.BuilderFlag.TF32)
    if settings.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    platform = platform_of(settings.platform, trt)
    if trt.__name__ != "tensorrt" and platform != ANY_PLATFORM:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, platform.upper()), 0)
    profile = builder.create_optimization_profile()
    for value, (low, best, high) in shapes.items():
        profile.set_shape(value, low, best, high)
    config.add_optimization_profile(profile)
    with _timing_cache(config, trt), _watched(name, config, trt) as watch:
        content = builder.build_serialized_network(network, config)
    del parser
    if watch.interrupted:
        raise KeyboardInterrupt
    if content is None:
        raise InputError(
            f"backend: expected {trt.__name__} to compile '{name}' in {settings.precision}, got its refusal "
            f"({messages.first}); try a smaller --batch or another --precision"
        )
    return bytes(content)


def parse(name: str, model: ModelProto, builder: Any, trt: ModuleType, logger: Any) -> tuple[Any, Any]:
    """Return a graph as the library's network, whose types are those written in the graph, and the parser, which has to
    live as long."""
    # Since TensorRT 11 all networks are; the flag may be gone.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        reasons = [" ".join(parser.get_error(i).desc().split()) for i in range(parser.num_errors)]
        raise InputError(
            f"bundle: expected a graph that {trt.__name__} {trt.__version__} can read, got '{name}', of which its "
            f"parser says: {reasons[0] if reasons else 'no reason given'}; build the bundle again with --force"
        )
    return network, parser


def _builder(trt: ModuleType, logger: Any, messages: _Messages) -> Any:
    try:
        return trt.Builder(logger)
    except TypeError as error:
        # How the binding says that there is no builder.
        raise InputError(
            f"backend: expected a working {trt.__name__} {trt.__version__}, got its refusal ({messages.first}); check "
            "the NVIDIA driver, or install it again"
        ) from error


@contextmanager
def _timing_cache(config: Any, trt: ModuleType) -> Iterator[None]:
    """Keep what the library measured of kernels for the next build; TensorRT for RTX measures when it runs."""
    if trt.__name__ != "tensorrt":
        yield
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tpdm-engine"
    file = folder / f"timing-{trt.__version__}-{_card()}.cache"
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_bytes(bytes(config.get_timing_cache().serialize()))
        os.replace(part, file)
    except OSError as error:
        log.info("timing cache not kept in '%s' (%s)", folder, error.strerror)


class _Watch:
    interrupted = False


@contextmanager
def _watched(name: str, config: Any, trt: ModuleType) -> Iterator[_Watch]:
    """Show a build's progress on a terminal, and let an interrupt end it.

    An exception cannot cross the library: the interrupt is noted, and the library told at its next step.
    """
    watch = _Watch()
    bar = tqdm(desc=name, unit="step", disable=None, leave=False)

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, n_steps: int) -> None:
            if parent is None:
                bar.reset(n_steps)

        def step_complete(self, phase: str, step: int) -> bool:
            bar.update()
            return not watch.interrupted

        def phase_finish(self, phase: str) -> None:
            pass

    def interrupt(*_: object) -> None:
        watch.interrupted = True

    config.progress_monitor = Monitor()
    here = threading.current_thread() is threading.main_thread()
    earlier = signal.signal(signal.SIGINT, interrupt) if here else None
    started = time.monotonic()
    try:
        yield watch
    finally:
        if here:
            signal.signal(signal.SIGINT, earlier)
        bar.close()
    if not watch.interrupted:
        log.info("  %s: %.1f s", name, time.monotonic() - started)
