"""The command lines by one name: ``tpdm run``, ``tpdm build`` and so on."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

#: What each command does, and the module whose `main` does it; loaded only when it is asked for.
COMMANDS = {
    "run": ("engine.run", "reconstruct a volume from a measurement"),
    "batch": ("engine.batch", "reconstruct many volumes over a cluster"),
    "simulate": ("engine.simulate", "turn a volume into a file with a measurement"),
    "build": ("export.build_engine", "turn a checkpoint into an engine"),
    "train": ("training.fit", "fit a prior to volumes"),
    "bench": ("benchmarks.latency", "measure latency and memory"),
}
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
