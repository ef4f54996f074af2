"""Options, each declared once: fields of dataclasses, from which parser, help, checks and refusals follow."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from engine.errors import InputError

Group = TypeVar("Group")


def option(default: Any = MISSING, **details: Any) -> Any:
    """Declare a field of a dataclass as an option: its default, its `help`, and more of `Option`."""
    return field(default=default, metadata={"option": details})


class Options:
    """A dataclass with options among its fields, which refuses values out of range."""

    def __post_init__(self) -> None:
        for one in declared(type(self)):
            one.check(getattr(self, one.field))


@dataclass(frozen=True)
class Option:
    """An option of a dataclass.

    Parameters
    ----------
    field : str
        Its name in the dataclass.
    kinds : frozenset of type
        Of its values, None left out.
    default : object
        MISSING for an option that has to be given.
    help : str
    name : str
        On the command line and in files; else the field's, with dashes.
    default_words : str
        The default where it depends on other options: the command line then has None for it.
    low, high : int or float, optional
        Smallest and largest value.
    above, below : int or float, optional
        Bounds that are no values themselves.
    choices : tuple
    needs : mapping of str to tuple of str
        Other options or settings, and those of their values with which this one has an effect.
    metavar : str, optional
    remedy : str
        For a value out of range.
    """

    field: str
    kinds: frozenset[Any]
    default: Any
    help: str
    name: str = ""
    default_words: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    needs: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    metavar: str | None = None
    remedy: str = "leave it out for the default"

    @property
    def key(self) -> str:
        """Its name among the arguments that were parsed."""
        return self.name.replace("-", "_")

    @property
    def range(self) -> str:
        """The bounds in words; empty without any."""
        if self.low is not None and self.high is not None:
            return f"{self.low} to {self.high}"
        bounds = {"at least": self.low, "more than": self.above, "at most": self.high, "less than": self.below}
        return " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)

    def holds(self, value: float) -> bool:
        """Whether a number is finite and within the bounds."""
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def check(self, value: Any) -> None:
        """Refuse a value out of range, or none of the choices.

        Raises
        ------
        InputError
        """
        if value is None:
            return
        if self.choices and value not in self.choices:
            raise InputError(self.name, f"one of {', '.join(map(str, self.choices))}", f"'{value}'", "choose one")
        if self.range and not isinstance(value, str) and not self.holds(value):
            # A refused value may be infinite.
            finite = "a finite number, " if float in self.kinds and self.high is None else ""
            raise InputError(self.name, finite + self.range, value, self.remedy)

    def check_read(self, values: Mapping[str, Any]) -> None:
        """Refuse the option where it has no effect beside these values of others.

        Raises
        ------
        InputError
        """
        for other, allowed in self.needs.items():
            if values[other] in allowed:
                continue
            # "--kspace" stands for itself, "dps" for a value of --guidance.
            flag = "" if allowed[0].startswith("--") else f"--{other.replace('_', '-')}"
            expected = f"{flag} {' or '.join(allowed)}".lstrip()
            remedy = f"drop --{self.name}" + (f" or change {flag}" if flag else "")
            raise InputError(self.name, expected, f"{values[other]}, on which it has no effect", remedy)

    def described(self, default_words: str = "") -> str:
        """The help, after the names of its readers and before the default in words."""
        readers = next(iter(self.needs.values()), ())
        about = ", ".join(value.removeprefix("--") for value in readers) + ": " if readers else ""
        default_words = default_words or self.default_words
        return about + self.help + (f" (default: {default_words})" if default_words else "")

    def add_to(self, parser: argparse._ActionsContainer, default_words: str = "") -> None:
        """Add the option to a parser, or to a group of one."""
        words: dict[str, Any] = {"help": self.described(default_words).replace("%", "%%")}
        if bool in self.kinds:
            parser.add_argument(f"--{self.name}", action="store_true", **words)
            return
        is_required = self.default is MISSING
        if self.kinds == _PATHS:
            words["action"] = Repeated
        parser.add_argument(
            f"--{self.name}",
            type=_PARSED[self.kinds],
            choices=self.choices or None,
            default=None if self.default_words or default_words or is_required else self.default,
            required=is_required,
            metavar=self.metavar,
            **words,
        )


def number(text: str) -> int | float:
    """An integer without, a float with a point: K means different things for the two."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def word_or_number(text: str) -> float | str:
    """A number as such; a word is for the reader of the option to judge."""
    try:
        return float(text)
    except ValueError:
        return text


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


class Repeated(argparse.Action):
    """An option that may be given several times: the tuple of its values."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, (*(before if isinstance(before, tuple) else ()), values))


#: The kinds of an option of several files.
_PATHS = frozenset({tuple, Path})
_PARSED: dict[frozenset[Any], Any] = {
    _PATHS: Path,
    **{frozenset({kind}): kind for kind in (int, float, str, Path)},
    frozenset({int, float}): number,
    frozenset({float, str}): word_or_number,
    frozenset({tuple}): words,
}


def declared(group: type) -> tuple[Option, ...]:
    """The options among a dataclass's fields, in order."""
    return _declared(cast(Hashable, group))


@cache
def _declared(group: Any) -> tuple[Option, ...]:
    hints, options = get_type_hints(group), []
    for one in dataclasses.fields(group):
        if "option" in one.metadata:
            hint = hints[one.name]
            kinds = {*get_args(hint)} or {hint}
            if get_origin(hint) is tuple:
                kinds = {tuple, Path} if Path in kinds else {tuple}
            named = {"name": one.name.replace("_", "-"), **one.metadata["option"]}
            options.append(Option(one.name, frozenset(kinds - {type(None)}), one.default, **named))
    return tuple(options)


def documented(group: type[Group]) -> type[Group]:
    """Write the help of a dataclass's options into its docstring."""
    entries = [
        f"    {one.field} : {group.__annotations__[one.field]}\n        {one.described()}" for one in declared(group)
    ]
    group.__doc__ = "\n".join([f"{group.__doc__}\n\n    Parameters\n    ----------", *entries, "    "])
    return group


def add_options(
    parser: argparse._ActionsContainer, *groups: type, default_words: Mapping[str, str] | None = None
) -> None:
    """Add all options of dataclasses to a parser, or to a group of one.

    Parameters
    ----------
    parser : ArgumentParser or group
    groups : dataclasses
    default_words : mapping of str to str, optional
        Defaults in words by field, where more is known of them here than the declaration says.
    """
    for group in groups:
        for one in declared(group):
            one.add_to(parser, (default_words or {}).get(one.field, ""))


def is_given(value: Any) -> bool:
    """Whether an option was: a number of zero is one, though it equals False."""
    return value is not None and value is not False


def stated(group: type, args: argparse.Namespace) -> dict[str, Any]:
    """The arguments for the fields of a dataclass, without those that were left at None or False."""
    keys = {one.field: one.key for one in declared(group)}
    values = {one: getattr(args, keys.get(one.name, one.name), None) for one in dataclasses.fields(group)}
    # The flag of a field that is true by default turns it off.
    return {one.name: not value if one.default is True else value for one, value in values.items() if is_given(value)}


def read(group: type[Group], args: argparse.Namespace, **more: Any) -> Group:
    """A dataclass with the values that were parsed.

    Parameters
    ----------
    group : dataclass
    args : Namespace
        Of `engine.job.configuration.parse`.
    more : object
        Values that `needs` refer to, beside those of `args`.

    Raises
    ------
    InputError
        A value out of range, or an option without effect.
    """
    values = {**vars(args), **more}
    for one in declared(group):
        if is_given(args.given.get(one.key)):
            one.check_read(values)
    return group(**stated(group, args))
