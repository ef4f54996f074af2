"""Compiles a graph with TensorRT, or with TensorRT for RTX, which needs no GPU for that."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from onnx import ModelProto
from tqdm import tqdm

from engine.backends.compiled import ANY_PLATFORM, LIBRARIES
from engine.backends.tensorrt_graphs import first_of, made, messages_of
from engine.errors import InputError
from engine.io.files import replacing

log = logging.getLogger("export")

_PIP = "`pip install tensorrt-rtx-cu13` (Linux, x86-64), or NVIDIA's tensorrt"


def library() -> ModuleType:
    """Return the installed library, TensorRT before TensorRT for RTX.

    Raises
    ------
    InputError
        There is none.
    """
    for name in LIBRARIES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                continue
            raise _broken(name, error) from error
        except (ImportError, OSError) as error:
            raise _broken(name, error) from error
    raise InputError("backend", "TensorRT", f"neither {' nor '.join(LIBRARIES)}", f"install one: {_PIP}")


def _broken(name: str, error: Exception) -> InputError:
    """The package is there, something that it needs is not."""
    return InputError("backend", f"a working {name}", f"'{error}'", "install it again")


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
                "platform",
                f"{card}, the card at hand, for which alone TensorRT compiles",
                f"'{asked}'",
                "compile on such a card, or with TensorRT for RTX",
            )
        return card
    known = [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    if asked in (None, ANY_PLATFORM):
        return ANY_PLATFORM
    if asked not in known:
        raise InputError(
            "platform",
            f"{ANY_PLATFORM}, {', '.join(known)}, which this TensorRT for RTX names",
            f"'{asked}'",
            f"choose one, or {ANY_PLATFORM}",
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
            "backend",
            "an NVIDIA GPU, without which TensorRT compiles nothing",
            "none",
            (
                "compile where there is one, or use TensorRT for RTX (`pip uninstall tensorrt && pip "
                "install tensorrt-rtx-cu13`)"
            ),
        )
    return f"sm{major.value}{minor.value}"


def build(
    name: str,
    model: ModelProto,
    shapes: Mapping[str, list[tuple[int, ...]]],
    trt: ModuleType,
    *,
    precision: str,
    platform: str | None = None,
    refit: bool = False,
    detailed: bool = False,
) -> bytes:
    """Compile one graph.

    Parameters
    ----------
    name : str
        For messages.
    model : ModelProto
        With its weights.
    shapes : dict of str to list of tuple
        Smallest, fastest and largest shape of every input.
    trt : module
        tensorrt or tensorrt_rtx.
    precision : str
        One of `engine.backends.compiled.PRECISIONS`; the graph holds fp16 and bf16 already.
    platform : str, optional
        See `platform_of`.
    refit : bool
        Leave room for other weights; TensorRT for RTX needs a GPU for that.
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
    logger = messages_of(trt)
    builder = made(lambda: trt.Builder(logger))
    if builder is None:
        raise InputError(
            "backend",
            f"a working {trt.__name__} {trt.__version__}",
            f"its refusal ({first_of(logger)})",
            "check the NVIDIA driver, or install it again",
        )
    network, parser = parse(name, model, builder, trt, logger)
    config = builder.create_builder_config()
    # TensorRT for RTX only lets a CUDA graph record engines that ask for no memory of their own.
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    # TF32 is on unless switched off; then float32 is float32.
    (config.set_flag if precision == "tf32" else config.clear_flag)(trt.BuilderFlag.TF32)
    if refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    platform = platform_of(platform, trt)
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
        remedy = "compile without --refit, or where there is a GPU" if refit else "try a smaller --batch"
        raise InputError(
            "backend",
            f"{trt.__name__} to compile '{name}' in {precision}",
            f"its refusal ({first_of(logger)})",
            f"{remedy} or another --precision",
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
        error = parser.get_error(0) if parser.num_errors else None
        reason = f"{' '.join(error.desc().split())}, operator {error.node_operator()}" if error else "no reason given"
        raise InputError(
            "bundle",
            f"a graph that {trt.__name__} {trt.__version__} can read",
            f"'{name}', of which its parser says: {reason}",
            "build the bundle again with --force",
        )
    return network, parser


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
        with replacing(file) as part:
            part.write_bytes(bytes(config.get_timing_cache().serialize()))
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
