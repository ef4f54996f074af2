"""Folders that appear on disk whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import InputError


def check_replaceable(out: Path, record: str, what: str) -> None:
    """Refuse to write where something other than an earlier folder of the same kind is.

    Raises
    ------
    InputError
        `out` exists, is not empty, and has no file `record`.
    """
    if out.exists() and not (out / record).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("out", f"a new folder or {what}", f"something else at '{out}'", "choose another place")


@contextmanager
def written_whole(out: Path, record: str, what: str) -> Iterator[Path]:
    """Give an empty folder to fill, which takes the place of `out` unless an exception leaves the block.

    Parameters
    ----------
    out : Path
        Replaced if it holds a file `record`.
    record : str
    what : str
        Name of this kind of folder, for error messages.

    Raises
    ------
    InputError
        As `check_replaceable`; the folder cannot be written.
    """
    # Asked again when the folder is moved: a build takes a while, and its end is late for a refusal.
    check_replaceable(out, record, what)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.part-"))
    except OSError as error:
        raise InputError(
            "out", "a folder that can be written", f"'{out}' ({error.strerror})", "choose another place"
        ) from error
    try:
        yield work
        work.chmod(0o755)
        replace(work, out, record, what)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def replace(work: Path, out: Path, record: str, what: str) -> None:
    """Move a finished folder into place; only an earlier one of its kind may be in the way."""
    check_replaceable(out, record, what)
    if not out.exists():
        os.replace(work, out)
        return
    old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.old-"))
    os.replace(out, old / out.name)
    try:
        os.replace(work, out)
    except BaseException:
        os.replace(old / out.name, out)
        old.rmdir()
        raise
    # The new folder is in place: what cannot be cleared away does no harm.
    shutil.rmtree(old, ignore_errors=True)
