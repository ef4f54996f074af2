"""The command lines by one name: ``tpdm run``, ``tpdm build`` and so on."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

#: What each command does, and the module whose `main` does it; loaded only when it is asked for.
COMMANDS = {
    "run": ("engine.run", "reconstruct a volume from a measurement"),
    "batch": ("engine.batch", "reconstruct many volumes over a cluster"),
    "simulate": ("engine.simulate", "turn a volume into a file with a measurement"),
    "build": ("export.build_engine", "turn a checkpoint into an engine"),
    "train": ("training.fit", "fit a prior to volumes"),
    "bench": ("benchmarks.latency", "measure latency and memory"),
}
#: Packages that no installation has, with what runs their commands in a checkout.
_OF_A_CHECKOUT = {"benchmarks": "python benchmarks/latency.py"}
#: Libraries that some commands need and others do without, and how they are installed.
_EXTRAS = {"torch": "export", "onnx": "export"}


def usage() -> str:
    lines = [f"  {name:10}{what}; python -m {module}" for name, (module, what) in COMMANDS.items()]
    return "usage: tpdm COMMAND [OPTIONS]\n\n" + "\n".join([*lines, "", "tpdm COMMAND --help lists its options."])


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(f"tpdm {version('tpdm-engine')}")
        return 0
    if not words or words[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    name, *rest = words
    if name not in COMMANDS:
        print(f"tpdm: command: expected one of {', '.join(COMMANDS)}, got '{name}'; see tpdm --help", file=sys.stderr)
        return 2
    module, _ = COMMANDS[name]
    if in_checkout := _OF_A_CHECKOUT.get(module.split(".")[0]):
        checkout = Path(__file__).resolve().parent
        if not checkout.joinpath(*module.split(".")).with_suffix(".py").is_file():
            print(
                f"tpdm: {name}: expected a checkout of the repository, which it is used from, got an installation; "
                f"clone the repository and run `{in_checkout}` in it",
                file=sys.stderr,
            )
            return 2
        sys.path.insert(0, str(checkout))
    try:
        command = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        print(
            f"tpdm: {name}: expected {error.name}, which it needs, got none; "
            f"`pip install -c constraints.txt -e '.[{_EXTRAS[error.name]}]'`",
            file=sys.stderr,
        )
        return 2
    return int(command.main(rest))


if __name__ == "__main__":
    sys.exit(main())
