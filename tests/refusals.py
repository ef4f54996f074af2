"""How every wrong input ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from engine.errors import InputError


@contextmanager
def one_sentence(argument: str, *words: str) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """Expect an InputError of one sentence that begins with the argument, has a remedy, and holds the words."""
    with pytest.raises(InputError) as caught:
        yield caught
    message = str(caught.value)
    assert message.startswith(f"{argument}: expected ")
    assert not re.search(r"\n|\.\s|\.$", message), message
    assert "; " in message
    for word in words:
        assert word in message, message
