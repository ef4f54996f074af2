"""An option, declared once: a dataclass field from which parser, help, configuration key and checks follow."""

from __future__ import annotations

import argparse
import math
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from engine.errors import InputError

_KEY = "option"


@dataclass(frozen=True)
class Option:
    """What there is to know of an option beside its name, type and default.

    Parameters
    ----------
    help : str
    low, high : float or None
        Ends of its range.
    above, below : float or None
        The same, but left out of the range.
    choices : tuple
    remedy : str
        End of the sentence that refuses a value out of range.
    needs : (str, tuple of str) or None
        Another setting, and its values without which this one has no effect.
    name : str or None
        The option's, where it is not the field's with dashes.
    parse : function or None
        From text, where the field's type does not do.
    metavar : str or None
    is_negated : bool
        A flag that sets the field to False.
    """

    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    remedy: str = "choose another"
    needs: tuple[str, tuple[str, ...]] | None = None
    name: str | None = None
    parse: Callable[[str], Any] | None = None
    metavar: str | None = None
    is_negated: bool = False

    @property
    def has_range(self) -> bool:
        return any(end is not None for end in (self.low, self.high, self.above, self.below))

    @property
    def range(self) -> str:
        """For a sentence: "0 to 1", "more than 0 and less than 1", "at least 1"."""
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        ends = (("at least", self.low), ("more than", self.above), ("at most", self.high), ("less than", self.below))
        return " and ".join(f"{word} {end:g}" for word, end in ends if end is not None)

    def allows(self, value: float) -> bool:
        """Whether a number is finite and within the range."""
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def option(default: Any, help: str, **details: Any) -> Any:
    """A field of a dataclass that is an option; see `Option`."""
    return field(default=default, metadata={_KEY: Option(help, **details)})


@dataclass(frozen=True)
class Declared:
    """An option with its field: the attribute, its name on a command line, type and default."""

    attribute: str
    name: str
    type: Any
    default: Any
    option: Option

    @property
    def destination(self) -> str:
        """Its attribute in parsed arguments."""
        return self.name.replace("-", "_")


def declared(cls: type) -> Iterator[Declared]:
    """The options of a dataclass, in order."""
    hints = typing.get_type_hints(cls)
    for one in fields(cls):
        if _KEY in one.metadata:
            details: Option = one.metadata[_KEY]
            name = details.name or one.name.replace("_", "-")
            yield Declared(one.name, name, hints[one.name], None if one.default is MISSING else one.default, details)


def check(value: Any) -> None:
    """Refuse a dataclass one of whose options is out of range, or no choice; None is for the defaults.

    Raises
    ------
    InputError
        Names the option.
    """
    for one in declared(type(value)):
        check_value(one, getattr(value, one.attribute))


def check_value(one: Declared, value: Any) -> None:
    """The same for a single value."""
    details = one.option
    if value is None:
        return
    if details.choices and value not in details.choices:
        raise InputError(one.name, f"one of {', '.join(details.choices)}", f"'{value}'", details.remedy)
    if details.has_range and isinstance(value, (int, float)) and not details.allows(value):
        raise InputError(one.name, details.range, value, details.remedy)


def add_to(group: argparse._ActionsContainer, cls: type, *, unset: bool = False, **defaults: Any) -> None:
    """Add the options of a dataclass to a command line.

    Parameters
    ----------
    group : argument group
    cls : type
    unset : bool
        Whether options that are not given become None instead of the field's default, which is for others to fill in.
    defaults
        By attribute, instead of the field's.
    """
    for one in declared(cls):
        details = one.option
        default = defaults.get(one.attribute, None if unset else one.default)
        if _plain_type(one.type) is bool:
            group.add_argument(f"--{one.name}", action="store_true", help=details.help)
            continue
        group.add_argument(
            f"--{one.name}",
            default=default,
            type=details.parse or _plain_type(one.type),
            choices=details.choices or None,
            metavar=details.metavar,
            help=details.help,
        )


def values_of(cls: type, args: argparse.Namespace) -> dict[str, Any]:
    """What was given for a dataclass, by attribute: neither None nor a flag that is not set."""
    given = {}
    for one in declared(cls):
        value = getattr(args, one.destination)
        if value is not None and value is not False:
            given[one.attribute] = not value if one.option.is_negated else value
    return given


def _plain_type(hint: Any) -> Any:
    """The type of an option's text: that of `X | None` is X."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint
