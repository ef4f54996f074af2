"""From data to an operator and its measurement: the only place that knows tasks by name."""

from engine.problems.pose import csmri, mrzsr, svct, uncond
from engine.problems.tasks import Measurement, simulate

__all__ = ["Measurement", "csmri", "mrzsr", "simulate", "svct", "uncond"]
