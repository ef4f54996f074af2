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
    "networks": ("engine.errors",),
    "kernels": (),
    "engine": ("kernels",),
    "export": (
        "networks",
        "kernels.network",
        "engine.backends.bundle",
        "engine.backends.compiled",
        "engine.errors",
        "engine.versions",
        "engine.volume",
    ),
    "training": ("networks", "engine.cli", "engine.errors", "engine.io", "engine.volume"),
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
