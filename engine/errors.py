"""The error that a user's input can cause."""


class InputError(ValueError):
    """An argument or a file cannot be used.

    The message is one sentence; command lines print it alone and exit with code 2.

    Parameters
    ----------
    argument : str
        The option, argument or column at fault.
    expected : str
        What it takes.
    got : object
        What came, as text; it also stands alone where another choice is made instead.
    remedy : str
        What to do.
    """

    def __init__(self, argument: str, expected: str, got: object, remedy: str):
        # All four are `args`, from which an exception is pickled.
        super().__init__(argument, expected, str(got), remedy)
        self.argument, self.expected, self.got, self.remedy = argument, expected, str(got), remedy

    def __str__(self) -> str:
        return f"{self.argument}: expected {self.expected}, got {self.got}; {self.remedy}"


class Unavailable(InputError):
    """What was asked for cannot run on this machine, or not yet."""


def in_one_line(message: object) -> str:
    """A message for a terminal: names of files may hold line ends, and codes that move its cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(message))
