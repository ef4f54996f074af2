"""What the command lines share: how they end, and how they show their help."""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import InputError, in_one_line

#: The user's input cannot be used.
REFUSED = 2


class Stopped(KeyboardInterrupt):
    """The process was asked to end.

    Parameters
    ----------
    signal_number : int
    """

    def __init__(self, signal_number: int):
        super().__init__()
        self.signal_number = signal_number


def exit_code(
    program: str,
    body: Callable[[], int],
    *,
    refused: Callable[[InputError], None] = lambda error: None,
    interrupted: str = "interrupted",
) -> int:
    """Run a command and return its exit code: its own, or that of what ended it. A defect shows its traceback.

    Parameters
    ----------
    program : str
        Begins the sentence on standard error.
    body : function
    refused : function
        Told of a refusal as well.
    interrupted : str
        What to say of an interrupt.
    """
    try:
        return body()
    except InputError as error:
        return refuse(program, error, refused)
    except MemoryError:
        remedy = "give a smaller volume, or start it where there is more"
        return refuse(program, InputError("memory", "room for volume and measurement", "none", remedy), refused)
    except KeyboardInterrupt as stop:
        print(f"{program}: {interrupted}", file=sys.stderr)
        return 128 + (stop.signal_number if isinstance(stop, Stopped) else 2)


def refuse(program: str, error: InputError, refused: Callable[[InputError], None] = lambda error: None) -> int:
    """Say why an input cannot be used; return the exit code."""
    refused(error)
    print(f"{program}: {in_one_line(error)}", file=sys.stderr)
    return REFUSED


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Turn what the system says against writing into one sentence.

    Raises
    ------
    InputError
        Instead of an OSError of the block.
    """
    try:
        yield
    except OSError as error:
        raise no_room(out, error) from error


def no_room(out: Path, error: OSError) -> InputError:
    """What the system says against writing, as one sentence."""
    return InputError(
        "out",
        f"room and permission to write in '{out}'",
        f"'{error.strerror or error}'",
        "make room or choose another with --out",
    )


@contextmanager
def removing_if_empty(out: Path) -> Iterator[None]:
    """Leave no empty folder behind, of those that do not exist yet."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except those that say nothing, None, False and empty ones, and those that the text names."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, ()) or "(default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB of 2^20 bytes.

    Where the system tells (Linux), of this program alone: what getrusage says begins with the memory of the process
    that started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
