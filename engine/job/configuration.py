"""Options from files: YAML with options as keys, or the record of an earlier run."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from engine.errors import InputError
from engine.options import Repeated, is_given

#: Of a file with options; a longer one is something else.
_MAX_BYTES = 1 << 20
#: Options that belong to a call, not to the result that it describes.
_OF_CALL = frozenset({"config", "resume", "overwrite", "dry_run", "out", "quiet", "progress", "log_level"})


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None, base: Mapping[str, Any] | None = None) -> Any:
    """Parse a command line, on top of the options of its ``--config`` file, on top of `base`.

    Parameters
    ----------
    parser : ArgumentParser
        Used up: its defaults change.
    argv : sequence of str or None
        None: that of the process.
    base : mapping, optional
        Options by name, as `options_of` gives them.

    Returns
    -------
    Namespace
        With all options, and in `given` the names of those that did not keep their default, as a dict with the values.

    Raises
    ------
    InputError
        A file that cannot be read, an unknown option in it, or a value that the option does not take.
    """
    required = [action for action in parser._actions if action.required]
    for action in required:
        action.required = False
    # Defaults are set where nothing stands yet: what still stands afterwards was not given.
    nothing = object()
    blank = argparse.Namespace(**{action.dest: nothing for action in parser._actions})
    given = {name: value for name, value in vars(parser.parse_args(argv, blank)).items() if value is not nothing}
    file = given.get("config")
    options = {} if file is None else _checked(parser, read(file), str(file))
    options = {**_checked(parser, base or {}, "the saved run"), **options, **given}
    for action in required:
        action.required = action.dest not in options
    # What the line says it says again; a list of files would be there twice.
    parser.set_defaults(**{name: value for name, value in options.items() if name not in given})
    args = parser.parse_args(argv)
    args.given = options
    return args


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options that a repetition needs, in types of JSON: those that were given and shape the result."""
    return {
        name.replace("_", "-"): _plain(value)
        for name, value in args.given.items()
        if name not in _OF_CALL and is_given(value)
    }


def read(path: Path) -> dict[str, Any]:
    """Read a file with options.

    Raises
    ------
    InputError
        Not there, not YAML or JSON, or no mapping of options.
    """
    if not path.is_file():
        raise InputError("config", "a YAML file or a run.json", f"nothing at '{path}'", "check the path")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(
            "config",
            f"at most {_MAX_BYTES} bytes of options",
            f"{path.stat().st_size} in '{path}'",
            "give a file of options",
        )
    try:
        # JSON is YAML; no tags, and so no code, are read. From bytes, whose encoding YAML fixes, not the locale.
        content = yaml.load(path.read_bytes(), _Loader)
    except (yaml.YAMLError, OSError, RecursionError, ValueError, LookupError, AttributeError, TypeError) as error:
        problem = getattr(error, "problem", None) or str(error).split("\n")[0] or type(error).__name__
        raise InputError("config", "YAML", f"'{path}', which cannot be read ({problem})", "mend it") from error
    if isinstance(content, dict) and "options" in content and "settings" in content:
        content = content["options"]
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(
            "config",
            "options as keys, such as 'task: csmri'",
            f"{type(content).__name__} in '{path}'",
            "write one option a line",
        )
    return content


class _Loader(yaml.SafeLoader):
    """YAML without aliases, which can make a few lines into a billion values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def _checked(parser: argparse.ArgumentParser, content: Mapping[str, Any], source: str) -> dict[str, Any]:
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    options = {}
    for key, value in content.items():
        name = key.removeprefix("--").replace("-", "_")
        if name not in actions or name in ("config", "resume"):
            near = difflib.get_close_matches(name, actions, 1)
            remedy = f"did you mean '{near[0].replace('_', '-')}'?" if near else "see --help"
            raise InputError("config", "options as keys", f"'{key}' in '{source}'", remedy)
        # None, YAML's ~, leaves an option at its default.
        if value is not None:
            options[name] = _value(actions[name], key, value, source)
    return options


def _value(action: argparse.Action, key: str, value: Any, source: str) -> Any:
    """A value as the command line would have it."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError("config", f"true or false for '{key}'", f"{value!r} in '{source}'", "write one of them")
        return value
    if isinstance(action, Repeated):
        return tuple(Path(one) for one in (value if isinstance(value, (list, tuple)) else [value]))
    if isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    if isinstance(value, (dict, bool)):
        raise InputError("config", f"one value for '{key}'", f"{value!r} in '{source}'", "write it as on the line")
    try:
        parsed = action.type(str(value)) if callable(action.type) else str(value)
    except (ValueError, TypeError) as error:
        kind = getattr(action.type, "__name__", "value")
        raise InputError("config", f"{kind} for '{key}'", f"{value!r} in '{source}'", "see --help") from error
    if action.choices is not None and parsed not in action.choices:
        choices = ", ".join(map(str, action.choices))
        raise InputError("config", f"one of {choices} for '{key}'", f"{value!r} in '{source}'", "choose one")
    return parsed


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple) and value and isinstance(value[0], Path):
        return str(value[0]) if len(value) == 1 else [str(path) for path in value]
    return ",".join(value) if isinstance(value, tuple) else value
