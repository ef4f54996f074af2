"""How commands end: one sentence and a code, or a traceback for a defect."""

from __future__ import annotations

import os
import signal

import pytest

from engine.cli import Stopped, exit_code, stopped_by_signals, writing_to
from engine.errors import InputError


def raises(error: BaseException):
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("steps", "2 or more", "1\n", "add one"), 2, r"p: steps: expected 2 or more, got 1\n; add one"),
        (OSError(28, "No space left on device", "/a/b"), 2, "p: out: expected room and permission to write in '/a/b',"),
        (OSError("strange"), 2, "p: out: expected room and permission to write for the results, got 'strange'; "),
        (MemoryError(), 2, "p: memory: expected room for the volume and its measurement, got none; "),
        (KeyboardInterrupt(), 130, "p: interrupted; again"),
        (Stopped(signal.SIGTERM), 143, "p: interrupted; again"),
    ],
)
def test_a_command_ends_with_one_sentence(capsys, error, code, said):
    heard: list[str] = []
    assert exit_code("p", raises(error), told=heard.append, interrupted="again") == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(said)
    assert printed.err.count("\n") == 1
    assert [f"p: {sentence}\n" for sentence in heard] == ([printed.err] if code == 2 else [])


def test_codes_of_the_body_pass_and_defects_keep_their_traceback():
    assert [exit_code("p", lambda code=code: code) for code in (None, 0, 1)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        exit_code("p", lambda: 1 // 0)


def test_what_is_written_names_its_place(tmp_path):
    with pytest.raises(InputError, match=r"^out: expected room and permission to write in '.*x', got 'No space"):
        with writing_to(tmp_path / "x"):
            raise OSError(28, "No space left on device")


def test_the_first_signal_stops_and_others_wait():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as caught, stopped_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.signal_number == signal.SIGTERM
    with stopped_by_signals(at_once=False) as came:
        assert came() == 0
        os.kill(os.getpid(), signal.SIGINT)
        assert came() == signal.SIGINT
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is before
