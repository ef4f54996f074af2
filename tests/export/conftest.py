"""Fixtures of the exporter's tests."""

from tests.architectures import architecture, random_network, small  # noqa: F401  (fixtures)
