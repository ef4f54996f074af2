"""Where the exporter may write."""

from __future__ import annotations

from pathlib import Path

from engine.errors import InputError


def check_free(out: Path, record: str, what: str) -> None:
    """Refuse to write where something other than an earlier folder of the same kind is.

    Parameters
    ----------
    out : Path
    record : str
        Name of the file that tells such a folder.
    what : str
        Name of this kind of folder, for the message.

    Raises
    ------
    InputError
    """
    if out.exists() and not (out / record).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("out", f"a new folder or {what}", f"something else at '{out}'", "choose another place")
