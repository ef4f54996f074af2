"""The file that an argument names, and the errors that it causes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InputError


@dataclass(frozen=True)
class Origin:
    """A file, and the argument that named it: what a refusal has to say.

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

    def unreadable(self, expected: str, error: Exception) -> InputError:
        """Return the error for what a library could not read."""
        # Libraries put pages into their messages; the first sentence says what is wrong.
        reason = re.split(r"\n|\.\s", str(error).strip())[0].rstrip(" .")
        reason = "".join(c if c.isprintable() else "?" for c in reason[:200])
        return InputError(
            self.argument,
            expected,
            f"'{self.path}', which cannot be read ({type(error).__name__}: {reason})",
            "save it again",
        )

    @contextmanager
    def reading(self, expected: str) -> Iterator[None]:
        """Turn whatever a library raises in the block into `unreadable`; let refusals through."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError
            raise self.unreadable(expected, error) from error
