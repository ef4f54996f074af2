"""Imports point one way, and the runtime loads nothing of the exporter's."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("benchmarks", "engine", "export", "kernels", "networks", "training")
#: What each package may import of the project beside itself, as prefixes of module names.
ALLOWED = {
    "networks": ("engine.errors", "engine.io.files"),
    "kernels": (),
    "engine": ("kernels",),
    "export": (
        "networks",
        "kernels.network",
        "engine.backends.bundle",
        "engine.backends.compiled",
        "engine.backends.tensorrt_graphs",
        "engine.cli",
        "engine.errors",
        "engine.io.files",
        "engine.versions",
        "engine.volume",
    ),
    "training": (
        "networks",
        "export.bundle",
        "export.restore",
        "engine.backends.bundle",
        "engine.cli",
        "engine.errors",
        "engine.io",
        "engine.volume",
    ),
}
#: The rooms of `engine`, each with those below it that it may import; command lines stand on top.
BASE = ("errors", "volume", "device", "options")
ROOMS: dict[str, tuple[str, ...]] = {
    "errors": (),
    "options": ("errors",),
    "versions": (),
    "cli": ("errors",),
    "device": ("errors",),
    "volume": ("errors",),
    "operators": BASE,
    "parallel": BASE,
    "sampling": (*BASE, "operators", "parallel"),
    "backends": (*BASE, "operators", "sampling"),
    "methods": (*BASE, "operators", "parallel", "sampling"),
    "io": (*BASE, "operators"),
    "problems": (*BASE, "io", "operators", "sampling"),
    "report": (*BASE, "io", "versions"),
    "demo": (*BASE, "backends", "io", "report", "sampling"),
    "job": (
        *(*BASE, "cli", "versions", "operators", "parallel", "sampling", "backends", "methods", "io", "problems"),
        *("report", "demo"),
    ),
    "study": (*BASE, "cli", "versions", "parallel", "sampling", "backends", "io", "report", "job"),
    "run": (*BASE, "cli", "parallel", "backends", "job"),
    "simulate": (*BASE, "cli", "operators", "sampling", "io", "problems", "demo", "job"),
    "batch": (*BASE, "cli", "job", "study"),
}
#: Libraries that no file of a package may import, not even inside a function.
FORBIDDEN = {
    "networks": ("onnx", "onnxruntime", "tensorrt", "cupy"),
    "kernels": ("torch", "onnx", "onnxruntime", "tensorrt", "cupy"),
    "engine": ("torch", "onnx"),
}


def modules_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports_of(file: Path) -> set[str]:
    """Dotted names of everything that a file imports, also inside functions: `from a.b import c` is a.b.c."""
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_lies_below_them(package):
    files = modules_of(package)
    assert len(files) > 1
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in sorted(imports_of(file))
        if within(name, PROJECT) and not within(name, (package, *ALLOWED[package]))
    ]
    assert wrong == []


def room_of(name: str) -> str:
    return name.split(".")[1]


def test_every_module_of_the_engine_has_a_room():
    rooms = {file.relative_to(ROOT / "engine").with_suffix("").parts[0] for file in modules_of("engine")} - {"__init__"}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_those_below_them(room):
    folder, file = ROOT / "engine" / room, ROOT / "engine" / f"{room}.py"
    wrong = [
        f"{module.relative_to(ROOT)} imports {name}"
        for module in (sorted(folder.rglob("*.py")) if folder.is_dir() else [file])
        for name in sorted(imports_of(module))
        if within(name, ("engine",)) and room_of(name) not in (room, *ROOMS[room])
    ]
    assert wrong == []


def test_no_room_is_above_itself():
    """The rules themselves leave no way for a circle."""
    below: dict[str, set[str]] = {}
    while len(below) < len(ROOMS):
        ready = [room for room, others in ROOMS.items() if room not in below and set(others) <= set(below)]
        assert ready, "a circle"
        below |= {room: set(ROOMS[room]) for room in ready}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_leave_foreign_libraries_alone(package):
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in modules_of(package)
        for name in sorted(imports_of(file))
        if within(name, FORBIDDEN[package])
    ]
    assert wrong == []


def test_the_parser_sees_every_form_of_import(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "engine" / "io").mkdir(parents=True)
    file = tmp_path / "engine" / "io" / "module.py"
    file.write_text("import a.b\nfrom c import d\ndef f():\n    from . import e\n    from ..g import h as i\n")
    assert imports_of(file) == {"a.b", "c.d", "engine.io.e", "engine.g.h"}


@pytest.mark.parametrize(
    "module", ["engine.run", "engine.sampling.sampler", "engine.backends.onnx", "engine.backends.tensorrt"]
)
def test_the_runtime_loads_neither_torch_nor_tensorrt_nor_cupy_nor_onnx(module):
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "engine" in loaded
    assert loaded.isdisjoint({"torch", "tensorrt", "tensorrt_rtx", "cupy", "onnx", "networks", "export", "training"})
