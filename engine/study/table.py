"""The table of a study: one row an input, as CSV and as Parquet."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.backends.bundle import sha256_of
from engine.io.files import replacing
from engine.job.results import classical_name
from engine.study.study import CSV, PARQUET, recon_of
from engine.volume import NAMED_PLANES

log = logging.getLogger("engine")

DONE, FAILED, STOPPED = "done", "failed", "stopped"
Value = str | int | float | None

_COMPARED = {
    f"{of}{figure}": float
    for of in ("", "classical_")
    for figure in ("psnr_db", *(f"{name}_{plane}" for name in ("psnr_db", "ssim") for plane in NAMED_PLANES))
}
#: What the files of a finished run say. Peak memory in MB of 2^20 bytes; the residual is that of the last step; PSNR
#: and SSIM, where a truth is known, as in metrics.json.
FIGURES: dict[str, type] = {
    "peak_memory_mb": float,
    **_COMPARED,
    "residual": float,
    "seed": int,
    "recon_sha256": str,
}
#: Names of files may hold what is no letter in any encoding, and are to be found again.
_TEXT: Any = {"encoding": "utf-8", "errors": "surrogateescape"}
#: What a study adds. `seconds` is the time that a volume kept workers, all attempts together.
_OF_STUDY: dict[str, type] = {
    "input": str,
    "status": str,
    "message": str,
    "attempts": int,
    "host": str,
    "node": str,
    "worker": int,
    "seconds": float,
}
COLUMNS = {**_OF_STUDY, **FIGURES}


@dataclass(frozen=True)
class Row:
    """What became of an input.

    Parameters
    ----------
    input : str
        Absolute path.
    status : str
        "done", also where an earlier call did it, or "failed".
    message : str
        Why it failed.
    attempts : int
        How often it was begun.
    host, node : str
        Where it ended; `node` is Ray's name.
    worker : int or None
        The process.
    seconds : float or None
    figures : mapping of str to str, int, float or None
        With the keys of `FIGURES`.
    """

    input: str
    status: str
    message: str = ""
    attempts: int = 0
    host: str = ""
    node: str = ""
    worker: int | None = None
    seconds: float | None = None
    figures: Mapping[str, Value] = field(default_factory=dict)

    def cells(self) -> dict[str, Value]:
        """By the names of `COLUMNS`."""
        return {name: getattr(self, name) for name in _OF_STUDY} | {name: self.figures.get(name) for name in FIGURES}


def figures_of(folder: Path, record: dict[str, Any]) -> dict[str, Value]:
    """What a finished run left, with the keys of `FIGURES`.

    Parameters
    ----------
    folder : Path
    record : dict
        Its run.json.

    Raises
    ------
    OSError
        The reconstruction is gone.
    """
    figures: dict[str, Value] = {
        "peak_memory_mb": record["peak_memory_mb"],
        "residual": record["residuals"][-1] if record["residuals"] else None,
        "seed": record["settings"]["seed"],
        "recon_sha256": digest_of(recon_of(folder, record)),
    }
    metrics = folder / "metrics.json"
    # Without a truth there are none, but an earlier run in the same folder may have left some.
    if (record["volume"] or {}).get("sha256") is None or not metrics.is_file():
        return figures
    compared = json.loads(metrics.read_text())
    task = record["task"]
    for prefix, name in (("", "reconstruction"), ("classical_", classical_name(task["name"], task))):
        if name not in compared:
            continue
        figures[f"{prefix}psnr_db"] = compared[name]["psnr_db"]
        for plane in NAMED_PLANES:
            for figure in ("psnr_db", "ssim"):
                figures[f"{prefix}{figure}_{plane}"] = compared[name][plane][figure]
    return figures


def digest_of(path: Path) -> str:
    """SHA-256 of a file; of a folder that of its files' names and contents, in order."""
    if path.is_file():
        return sha256_of(path)
    whole = hashlib.sha256()
    for file in sorted(path.iterdir()):
        whole.update(f"{file.name}\0{digest_of(file)}\n".encode())
    return whole.hexdigest()


class Table:
    """The rows of a study so far, on disk after each one.

    Parameters
    ----------
    out : Path
    rows : list of Row
        Of volumes that an earlier call finished.
    """

    def __init__(self, out: Path, rows: Iterable[Row]):
        self._out = out
        self._rows = {row.input: row for row in rows}

    def add(self, row: Row) -> None:
        self._rows[row.input] = row
        try:
            write_csv(self._out / CSV, self._rows.values())
        except OSError as error:
            # The volumes are worth more than the table, which is written again.
            log.warning("the table could not be written (%s)", error.strerror or error)

    def finish(self) -> None:
        """Write both files.

        Raises
        ------
        OSError
        """
        write_csv(self._out / CSV, self._rows.values())
        write_parquet(self._out / PARQUET, self._rows.values())

    def n(self, status: str) -> int:
        return sum(row.status == status for row in self._rows.values())


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write rows, sorted by input, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="", **_TEXT) as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.cells() for row in sorted(rows, key=lambda row: row.input))


def write_parquet(path: Path, rows: Iterable[Row]) -> None:
    """The same with types."""
    import pyarrow
    from pyarrow import parquet

    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    cells = [
        {name: _readable(value) for name, value in row.cells().items()}
        for row in sorted(rows, key=lambda row: row.input)
    ]
    with replacing(path) as temporary:
        parquet.write_table(pyarrow.Table.from_pylist(cells, schema), temporary)


def _readable(value: Value) -> Value:
    """Bytes of a file's name that are no letters as escapes, because Parquet's texts are UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def read_csv(path: Path) -> dict[str, Row]:
    """The rows of an earlier call, by input; none where there is no table that can be read."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", **_TEXT) as stream:
            lines = list(csv.DictReader(stream))
        cells = [{name: _value(line[name], kind) for name, kind in COLUMNS.items()} for line in lines]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        log.warning("the earlier table '%s' cannot be read (%r): who did what is lost", path, error)
        return {}
    rows = [Row(**{name: c[name] for name in _OF_STUDY}, figures={name: c[name] for name in FIGURES}) for c in cells]  # type: ignore[arg-type]
    return {row.input: row for row in rows}


def _value(text: str, kind: type) -> Value:
    if kind is str:
        return text
    value: Value = kind(text) if text else None
    return value
