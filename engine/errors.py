"""The error that a user's input can cause."""


class InputError(ValueError):
    """An argument or a file cannot be used.

    The message is one sentence: argument, what was expected, what came, what to do. Command lines print it alone and
    exit with code 2.
    """


def in_one_line(message: object) -> str:
    """A message for a terminal: names of files may hold line ends, and codes that move its cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(message))


class Unavailable(InputError):
    """What was asked for cannot run on this machine, or not yet.

    Parameters
    ----------
    argument, expected, why, remedy : str
        The parts of the sentence; `why`, what came, also stands alone where another choice is made instead.
    """

    def __init__(self, argument: str, expected: str, why: str, remedy: str):
        super().__init__(f"{argument}: expected {expected}, got {why}; {remedy}")
        self.why = why
