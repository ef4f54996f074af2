"""The record of a bundle's graphs compiled for GPUs, and the checks before they run.

Compiled graphs live below their bundle, in `compiled/<library>-<precision>-<platform>/`: one `<graph>.engine` each, and
the record `engine.json`. A run reads of it:

- `format`: `FORMAT`; `library` and `library_version`; `precision`; `platform`
- `bundle`: `identity_of` the bundle
- `profile`: smallest, best and largest `batch`, `height` and `width`
- `graphs`: for each its `file` and the `sha256` of that

What else there is tells how the graphs were made. `denoise`, `linearize` and `pullback` are those of the bundle;
`guided_fourier`, `guided_thick_rows` and `guided_thick_columns` hold a measurement operator too, see
`engine.backends.fused`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.backends.bundle import Bundle, sha256_of
from engine.errors import InputError

FORMAT = 1
#: Of the folder of all compiled graphs, in a bundle; of the record, in each of its folders.
FOLDER, RECORD = "compiled", "engine.json"
#: Importable modules that compile and run such graphs.
LIBRARIES = ("tensorrt", "tensorrt_rtx")
#: From the slowest and most exact. "tf32": float32 whose products keep 10 bits of the fraction.
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
#: For graphs that run on every GPU which the library supports, see the library's own documentation.
ANY_PLATFORM = "any"
#: What a folder has to hold: fused graphs are there or not.
REQUIRED = ("denoise", "linearize", "pullback")

_PLATFORM = re.compile(r"any|sm[1-9][0-9]+")


def name_of(library: str, precision: str, platform: str) -> str:
    """Name of the folder of compiled graphs."""
    return f"{library}-{precision}-{platform}"


def precision_of(folder: Path) -> str:
    """The precision that such a name states."""
    return folder.name.split("-")[1]


def identity_of(bundle: Bundle) -> str:
    """What compiled graphs remember of the bundle that they were made from.

    SHA-256, in hexadecimal, of the lines `<file's SHA-256>  <file name>\\n` of its manifest, sorted by name.
    """
    files = sorted(bundle.manifest["files"].items())
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in files).encode()).hexdigest()


@dataclass(frozen=True)
class Range:
    """Sizes that compiled graphs take; `opt` is the one that they are fastest for."""

    min: int
    opt: int
    max: int

    def __contains__(self, size: object) -> bool:
        return isinstance(size, int) and self.min <= size <= self.max

    def __str__(self) -> str:
        return str(self.min) if self.min == self.max else f"{self.min} to {self.max}"


@dataclass(frozen=True)
class Compiled:
    """A folder of compiled graphs and its record.

    Parameters
    ----------
    folder : Path
    record : dict
        As written by the exporter.
    """

    folder: Path
    record: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path, bundle: Bundle) -> Compiled:
        """Read a record and check that it is whole and of this bundle; `read` checks the graphs themselves.

        Raises
        ------
        InputError
            No record, a damaged one, another format or bundle, or a file that is missing.
        """
        folder = Path(folder)
        path = folder / RECORD
        if not path.is_file():
            raise InputError(
                "compiled", f"a folder with the record {RECORD}", f"none in '{folder}'", f"{_build(bundle)}"
            )
        try:
            record = json.loads(path.read_text())
            version = record["format"]
            compiled = cls(folder, record)
            if version == FORMAT:
                compiled._check_fields()
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise InputError(
                "compiled", "a readable record", f"'{path}', which is damaged ({error!r})", f"{_build(bundle)}"
            ) from error
        if version != FORMAT:
            raise InputError("compiled", f"format {FORMAT}", f"{version} in '{folder}'", f"{_build(bundle, compiled)}")
        if compiled.bundle_identity != identity_of(bundle):
            raise InputError(
                "compiled",
                f"graphs of the network in '{bundle.folder}'",
                f"those of another one in '{folder}'",
                f"{_build(bundle, compiled)}",
            )
        if folder.name != compiled.name:
            raise InputError(
                "compiled",
                f"a folder with the name '{compiled.name}', which its record says",
                f"'{folder}'",
                "rename it back",
            )
        missing = [graph for graph in REQUIRED if graph not in compiled.graphs]
        if missing:
            raise InputError(
                "compiled",
                f"the graphs {', '.join(REQUIRED)}",
                f"'{folder}' without {', '.join(missing)}",
                f"{_build(bundle, compiled)}",
            )
        for graph in compiled.graphs:
            if not compiled.file_of(graph).is_file():
                raise InputError(
                    "compiled",
                    f"the file '{compiled.file_of(graph).name}' in '{folder}'",
                    "none",
                    f"{_build(bundle, compiled)}",
                )
        return compiled

    def _check_fields(self) -> None:
        """Read every field that a run takes, raising whatever their damage leads to."""
        choices = ((self.library, LIBRARIES), (self.precision, PRECISIONS))
        if any(value not in known for value, known in choices) or not _PLATFORM.fullmatch(self.platform):
            raise ValueError("unknown library, precision or platform")
        if not all(isinstance(text, str) for text in (self.library_version, self.bundle_identity)):
            raise TypeError("library_version or bundle of another type")
        for sizes in (self.batch, self.height, self.width):
            if not 1 <= sizes.min <= sizes.opt <= sizes.max:
                raise ValueError(f"a profile of {sizes}")
        for graph in self.graphs:
            entry = self.record["graphs"][graph]
            if not isinstance(entry["sha256"], str) or Path(entry["file"]).name != entry["file"]:
                raise ValueError(f"file or hash of {graph}")

    @property
    def name(self) -> str:
        return name_of(self.library, self.precision, self.platform)

    @property
    def library(self) -> str:
        """One of `LIBRARIES`."""
        return self.record["library"]  # type: ignore[no-any-return]

    @property
    def library_version(self) -> str:
        return self.record["library_version"]  # type: ignore[no-any-return]

    @property
    def precision(self) -> str:
        """One of `PRECISIONS`."""
        return self.record["precision"]  # type: ignore[no-any-return]

    @property
    def platform(self) -> str:
        """Compute capability as "sm90", or `ANY_PLATFORM`."""
        return self.record["platform"]  # type: ignore[no-any-return]

    @property
    def bundle_identity(self) -> str:
        """`identity_of` the bundle that the graphs were compiled from."""
        return self.record["bundle"]  # type: ignore[no-any-return]

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs that there are."""
        return tuple(self.record["graphs"])

    @property
    def batch(self) -> Range:
        """Slices in one run of a graph."""
        return self._range("batch")

    @property
    def height(self) -> Range:
        return self._range("height")

    @property
    def width(self) -> Range:
        return self._range("width")

    def _range(self, name: str) -> Range:
        low, best, high = self.record["profile"][name]
        return Range(int(low), int(best), int(high))

    def file_of(self, graph: str) -> Path:
        """Path of one graph's file."""
        return self.folder / str(self.record["graphs"][graph]["file"])

    def read(self, graph: str) -> bytes:
        """Return one compiled graph, checked against the hash in the record.

        Raises
        ------
        InputError
            There is none of this name, or its file is not the one that was written.
        """
        if graph not in self.graphs:
            raise InputError(
                "compiled",
                f"the graph '{graph}' in '{self.folder}'",
                f"{', '.join(self.graphs)}",
                "compile it again with --force",
            )
        path = self.file_of(graph)
        expected = str(self.record["graphs"][graph]["sha256"])
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(
                "compiled", "a file that can be read", f"'{path}' ({error.strerror})", "compile it again with --force"
            ) from error
        if hashlib.sha256(content).hexdigest() != expected:
            raise InputError(
                "compiled",
                f"'{path}' as it was compiled (sha256 {expected[:12]}…)",
                "another content",
                "compile it again with --force",
            )
        return content

    def check_files(self) -> None:
        """Check every graph's file.

        Raises
        ------
        InputError
            One is missing, or not the one that was written.
        """
        for graph in self.graphs:
            path, expected = self.file_of(graph), str(self.record["graphs"][graph]["sha256"])
            if not path.is_file() or sha256_of(path) != expected:
                raise InputError(
                    "compiled",
                    f"'{path}' as it was compiled (sha256 {expected[:12]}…)",
                    "another content or no file",
                    "compile it again with --force",
                )


def folders_of(bundle: Bundle) -> list[Path]:
    """Folders of compiled graphs below a bundle, sorted by name; one that is still being written has another name."""
    below = bundle.folder / FOLDER
    if not below.is_dir():
        return []
    known = re.compile(f"({'|'.join(LIBRARIES)})-({'|'.join(PRECISIONS)})-({_PLATFORM.pattern})")
    return sorted(folder for folder in below.iterdir() if folder.is_dir() and known.fullmatch(folder.name))


def build_command(bundle: Bundle, precision: str = "fp32", more: str = "") -> str:
    """The command that compiles a bundle's graphs, as remedies name it."""
    return f"`python -m export.build_engine --bundle {bundle.folder} --backend tensorrt --precision {precision}{more}`"


def _build(bundle: Bundle, compiled: Compiled | None = None) -> str:
    precision = None if compiled is None else compiled.record.get("precision")
    return f"compile it again with {build_command(bundle, precision if precision in PRECISIONS else PRECISIONS[0])}"
