"""What the command lines share."""

from __future__ import annotations

import argparse
import resource
from pathlib import Path


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except those that say nothing: None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB of 2^20 bytes.

    Where the system tells (Linux), of this program alone: what getrusage says begins with the memory of the process
    that started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
