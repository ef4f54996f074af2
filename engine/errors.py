"""The error that a user's input can cause."""


class InputError(ValueError):
    """An argument or a file cannot be used.

    The message is one sentence: argument, what was expected, what came, what to do. Command lines print it alone and
    exit with code 2.
    """
