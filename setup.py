"""Hand the compiled part of the package to CMake; everything else is stated in pyproject.toml."""

from setuptools import setup

setup(cmake_source_dir=".")
