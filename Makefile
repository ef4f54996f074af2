PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip

# What an installation depends on: a change here, and only here, makes it run again.
BUILD_INPUTS := pyproject.toml setup.py constraints.txt CMakeLists.txt $(wildcard kernels/src/*)

RUN_STAMP  := $(VENV)/.installed-run
TEST_STAMP := $(VENV)/.installed-test

.DEFAULT_GOAL := help
.PHONY: help venv install run test lint slow format clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(BIN)/python  ## create the virtual environment (PYTHON=python3.12 to choose)

install: $(TEST_STAMP)  ## editable installation with all that the tests need

run: $(RUN_STAMP)  ## reconstruct the demonstration volume (no PyTorch needed)
	$(BIN)/python -m engine.run --task csmri

test: lint  ## lint, format check, types, quick tests
	$(BIN)/python -m pytest -m "not slow"

lint: $(TEST_STAMP)  ## lint, format check, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: $(TEST_STAMP)  ## the tests that `test` leaves out
	$(BIN)/python -m pytest -m slow

format: $(TEST_STAMP)  ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove builds, caches and the virtual environment
	rm -rf $(VENV) build dist *.egg-info kernels/_cpu*.so kernels/_cuda*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Order-only: the interpreter's time stamp is that of the system's Python and says nothing.
$(RUN_STAMP): $(BUILD_INPUTS) | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

$(TEST_STAMP): $(BUILD_INPUTS) | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[export,train,demo,bench,dev]'
	@touch $@
