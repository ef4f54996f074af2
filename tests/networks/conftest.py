"""Fixtures of the networks' tests."""

from tests.architectures import architecture, random_network, small  # noqa: F401  (fixtures)
