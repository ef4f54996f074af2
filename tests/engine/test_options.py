"""A new option is one field: parser, help, keys of files, range, choices and refusals follow from it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.job.configuration import options_of, parse
from engine.options import MISSING, Options, add_options, declared, documented, option, read
from tests.refusals import one_sentence


@documented
@dataclass(frozen=True)
class Heating(Options):
    """How a house is heated."""

    fuel: str = option(choices=("gas", "wood"), help="burnt thing")
    room_temperature: float = option(20.0, name="warmth", low=5, below=40, help="of the room", remedy="dress")
    n_logs: int | None = option(None, above=0, needs={"fuel": ("wood",)}, default_words="many", help="to 100 %")
    pilot: bool = option(True, name="no-pilot", needs={"fuel": ("gas",)}, help="let the flame go out")
    rooms: tuple[str, ...] = option((), help="by name")
    share: int | float | None = option(None, help="of all")
    limit: float | str | None = option(None, high=3, low=1, help="a word or a number")
    chimney: Path | None = option(None, needs={"source": ("--fire",)}, help="of bricks")
    seed: int = 3


def parsed(*words: str, base: dict | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="heat", allow_abbrev=False)
    add_options(parser, Heating)
    return parse(parser, [*words], base)


def heating(*words: str, source: str = "--fire") -> Heating:
    return read(Heating, parsed(*words), source=source)


def test_the_parser_follows():
    assert heating("--fuel", "gas") == Heating("gas")
    wood = heating("--fuel", "wood", "--warmth", "18.5", "--n-logs", "3", "--rooms", "a,b", "--chimney", "c")
    assert wood == Heating("wood", 18.5, 3, rooms=("a", "b"), chimney=Path("c"))
    assert heating("--fuel", "gas", "--no-pilot") == Heating("gas", pilot=False)
    for text, share in (("2", 2), ("2.0", 2.0)):
        assert type(heating("--fuel", "gas", "--share", text).share) is type(share)
    assert [heating("--fuel", "gas", "--limit", text).limit for text in ("2", "none")] == [2.0, "none"]
    assert [one.name for one in declared(Heating) if one.default is MISSING] == ["fuel"]


def test_help_and_docstring_follow(capsys):
    with pytest.raises(SystemExit) as left:
        parsed("--help")
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--fuel {gas,wood} burnt thing" in shown
    assert "--n-logs N_LOGS wood: to 100 % (default: many)" in shown
    assert "n_logs : int | None\n        wood: to 100 % (default: many)\n" in str(Heating.__doc__)


@pytest.mark.parametrize("words", [(), ("--fuel", "oil"), ("--fuel", "gas", "--war", "3"), ("--fuel", "gas", "-x")])
def test_words_that_are_none_end_with_2(capsys, words):
    with pytest.raises(SystemExit) as left:
        parsed(*words)
    assert left.value.code == 2
    assert "heat: error: " in capsys.readouterr().err


def test_keys_of_files_follow_and_repeat_a_call():
    args = parsed("--warmth", "7", base={"fuel": "wood", "n-logs": 2, "rooms": ["a", "b"], "warmth": 9})
    assert read(Heating, args, source="") == Heating("wood", 7.0, 2, rooms=("a", "b"))
    assert options_of(args) == {"fuel": "wood", "n-logs": 2, "rooms": "a,b", "warmth": 7.0}
    with one_sentence("config", "int for 'n-logs'", "many"):
        parsed(base={"fuel": "wood", "n-logs": "many"})
    with one_sentence("config", "one of gas, wood for 'fuel'"):
        parsed(base={"fuel": "oil"})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--warmth", "4"), ("warmth", "at least 5 and less than 40", "4.0", "dress")),
        (("--warmth", "40"), ("warmth", "less than 40")),
        (("--warmth", "nan"), ("warmth", "a finite number")),
        (("--limit", "4"), ("limit", "1 to 3, got 4.0")),
    ],
)
def test_ranges_are_refused(words, expected):
    with one_sentence(*expected):
        heating("--fuel", "gas", *words)


def test_values_from_python_are_refused_alike():
    with one_sentence("fuel", "one of gas, wood", "'oil'"):
        Heating("oil")
    with one_sentence("n-logs", "more than 0"):
        Heating("wood", n_logs=0)


def test_options_without_effect_are_refused_where_they_are_given():
    with one_sentence("n-logs", "--fuel wood, got gas, on which it has no effect", "drop --n-logs or change --fuel"):
        heating("--fuel", "gas", "--n-logs", "1")
    with one_sentence("no-pilot", "--fuel gas"):
        heating("--fuel", "wood", "--no-pilot")
    with one_sentence("chimney", "expected --fire, got --sun, on which it has no effect; drop --chimney"):
        heating("--fuel", "gas", "--chimney", "c", source="--sun")
