"""The file that an argument names, and the errors that it causes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InputError


@dataclass(frozen=True)
class Source:
    """A file or folder, and the argument that named it: what an error has to say.

    Parameters
    ----------
    path : Path
    argument : str
    """

    path: Path
    argument: str

    def refusal(self, expected: str, got: str, remedy: str) -> InputError:
        """Return the error: expected this, got that in the file; do this."""
        return InputError(self.argument, expected, f"{got} in '{self.path}'", remedy)

    def unreadable(self, expected: str, reason: Exception | str) -> InputError:
        """Return the error for a file that a library could not read."""
        text = reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
        # Libraries put pages into their messages; the first sentence says what is wrong.
        text = re.split(r"\n|\.\s", text.strip())[0].rstrip(" .:")[:200]
        text = "".join(c if c.isprintable() else "?" for c in text)
        return InputError(self.argument, expected, f"'{self.path}', which cannot be read ({text})", "save it again")

    @contextmanager
    def reading(self, expected: str) -> Iterator[None]:
        """Turn whatever a library raises in the block into `unreadable`; let refusals through."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # libraries raise what they like: struct's, zlib's, OSError, KeyError, MemoryError
            raise self.unreadable(expected, error) from error


def listed(names: list[str]) -> str:
    """The first names of a file's parts in one line that is no end of a sentence, and how many more there are."""
    words = ", ".join(re.sub(r"\.(?!\w)|[^\w/. -]", "?", name[:40]) for name in names[:8])
    return f"{words} and {len(names) - 8} more" if len(names) > 8 else words or "nothing"
