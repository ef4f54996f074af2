"""Measurements: a command a file, on what they share (`lib`, `peers`), with what shows their figures (`reports`)."""

from pathlib import Path

#: Of the checkout, which these commands need: no installation has them.
ROOT = Path(__file__).resolve().parents[1]
