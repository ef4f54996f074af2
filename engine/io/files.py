"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield the name of a temporary file beside `path`, which takes its place at the end.

    Where the block raises, or the machine stops, what was at `path` stays as it was.

    Parameters
    ----------
    path : path
        The temporary file's name ends like this one's, because writers choose a format by it.
    """
    path = Path(path)
    temporary = _beside(path, "part")
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: str | Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """Yield a new, empty folder beside `path`, which takes its place at the end.

    Where the block raises, what was at `path` stays as it was. While one folder replaces another, the earlier one lies
    beside it for a moment under a hidden name (.old...).

    Parameters
    ----------
    path : path
        Its parent exists.
    check : function of a path
        Raises an error where `path` must not be replaced. Called before the block, and again after it, because the
        block may take long.
    """
    # A relative path would follow a change of the working directory.
    path = Path(path).absolute()
    check(path)
    work, old = _beside(path, "part"), _beside(path, "old")
    # Left by a process of the same number that was killed.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
        for file in work.rglob("*"):
            if file.is_file():
                _to_disk(file)
        check(path)
        if not path.exists():
            os.replace(work, path)
            return
        shutil.rmtree(old, ignore_errors=True)
        os.replace(path, old)
        try:
            os.replace(work, path)
        except BaseException:
            os.replace(old, path)
            raise
        # The new folder is in place: what cannot be cleared away does no harm.
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _beside(path: Path, what: str) -> Path:
    # Not a name of `tempfile`: those are readable by their owner alone, and keep that when renamed.
    return path.with_name(f".{what}{os.getpid()}-{path.name}")


def _to_disk(file: Path) -> None:
    """Write a file's content to the disk; else its name may be there first."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
