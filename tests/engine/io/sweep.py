"""How many damaged files the tests try: some as a rule, many where the environment asks for the full sweep."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

#: Set to "full" for as many as in `test_full_sweep.py`.
VARIABLE = "TPDM_DAMAGED_FILES"
_IS_FULL = os.environ.get(VARIABLE) == "full"


def sweep(n_full: int) -> settings:
    """Settings for so many examples in the full sweep, always the same ones, of which the quick one has the first."""
    return settings(
        max_examples=n_full if _IS_FULL else max(10, n_full // 8),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
