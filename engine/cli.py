"""What the command lines share: their help, their exit codes, their signals."""

from __future__ import annotations

import argparse
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import FrameType

from engine.errors import InputError, in_one_line

#: Exit code where the user has to change something.
REFUSED = 2


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except those that say nothing: None, False and ()."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == ():
            return action.help
        return super()._get_help_string(action)


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
    body: Callable[[], int | None],
    *,
    told: Callable[[str], None] = lambda sentence: None,
    interrupted: str = "",
) -> int:
    """Run the body of a command; a refusal becomes one sentence on standard error.

    A full disk is refused as well, for which `writing_to` names the folder, and so is a lack of memory. Everything else
    is a defect, and keeps its traceback.

    Parameters
    ----------
    program : str
        For messages, such as "engine.run".
    body : function
        Its exit code; None stands for 0.
    told : function
        Also hears the sentence, before it is printed.
    interrupted : str
        Advice for a user who interrupted the command.

    Returns
    -------
    int
        That of the body; 2 for a refusal, 128 and the signal's number for an interruption.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        # Names of files may hold what is no letter in any encoding.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return body() or 0
    except InputError as error:
        sentence = in_one_line(error)
    except OSError as error:
        sentence = in_one_line(no_room(error.filename, error))
    except MemoryError:
        sentence = str(no_memory())
    except KeyboardInterrupt as error:
        print(f"{program}: interrupted" + (f"; {interrupted}" if interrupted else ""), file=sys.stderr)
        return 128 + (error.signal_number if isinstance(error, Stopped) else signal.SIGINT)
    told(sentence)
    print(f"{program}: {sentence}", file=sys.stderr)
    return REFUSED


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Turn the system's complaints about writing into a refusal that names the results' place.

    Raises
    ------
    InputError
    """
    try:
        yield
    except OSError as error:
        raise no_room(out, error) from error


def no_room(out: Path | str | None, error: OSError) -> InputError:
    """The system's complaint about writing as a refusal."""
    where = "for the results" if out is None else f"in '{out}'"
    return InputError(
        "out",
        f"room and permission to write {where}",
        f"'{error.strerror or error}'",
        "make room or choose another with --out",
    )


def no_memory() -> InputError:
    """A lack of memory as a refusal."""
    return InputError(
        "memory",
        "room for the volume and its measurement",
        "none",
        "give a smaller volume, start fewer at a time, or choose a machine with more",
    )


@contextmanager
def stopped_by_signals(at_once: bool = True) -> Iterator[Callable[[], int]]:
    """Let SIGINT and SIGTERM raise `Stopped` once, and be ignored from then on, so that a save is not cut short.

    Only a program's main thread may handle signals; elsewhere nothing changes.

    Parameters
    ----------
    at_once : bool
        False: raise nothing, for whoever asks. Ranks have to stop after the same step.

    Yields
    ------
    function
        Returns the signal that came, 0 for none.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    came = [0]

    def stop(number: int, frame: FrameType | None) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        came[0] = number
        if at_once:
            raise Stopped(number)

    try:
        before = [signal.signal(number, stop) for number in numbers]
    except ValueError:
        yield lambda: 0
        return
    try:
        yield lambda: came[0]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def memory_mb() -> float:
    """Resident memory of this process, in MB of 2^20 bytes; where the system does not tell, the largest so far."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return peak_memory_mb()
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20


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
