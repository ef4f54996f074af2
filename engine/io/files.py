"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
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
    # Not a file of `tempfile`: those are readable by their owner alone, and keep that when renamed.
    temporary = path.with_name(f".part{os.getpid()}-{path.name}")
    try:
        yield temporary
        # Else the name may be on the disk before the content is.
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
