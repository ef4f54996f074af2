"""Measurements in and out of files, a format a module."""
