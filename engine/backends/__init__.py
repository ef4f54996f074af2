"""Runners of compiled denoisers."""
