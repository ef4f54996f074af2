"""Compiles a bundle: which graphs, for which sizes and precision, and the folder that they go to."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType

from engine.backends.bundle import Bundle
from engine.backends.compiled import FOLDER, FORMAT, RECORD, Compiled, identity_of, name_of
from engine.errors import InputError
from engine.io.files import replacing_folder
from engine.versions import versions
from export.half.reduced import reduce
from export.tensorrt.build import build, platform_of
from export.tensorrt.settings import Settings
from export.tensorrt.shapes import graph_of
from export.write.place import check_free

log = logging.getLogger("export")

#: The sources whose change makes compiled graphs stale, beside those of the bundle itself.
_SOURCES = ("half", "tensorrt")
_WHAT = "compiled graphs"


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
    check_free(out, RECORD, _WHAT)
    started = time.monotonic()
    log.info("putting the graphs of '%s' into %s …", bundle.folder, settings.precision)
    reduced = reduce(bundle, settings.precision)
    if reduced.float32_layers:
        log.info("%d layers stay float32", len(reduced.float32_layers))
    out.parent.mkdir(exist_ok=True)
    with replacing_folder(out, partial(check_free, record=RECORD, what=_WHAT)) as work:
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
    for folder in _SOURCES:
        for file in sorted((Path(__file__).parents[1] / folder).glob("*.py")):
            digest.update(file.read_bytes())
    chosen = {**asdict(settings), "platform": platform_of(settings.platform, trt)}
    digest.update(json.dumps([chosen, trt.__name__, trt.__version__, metadata.version("onnx")]).encode())
    return digest.hexdigest()
