PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip

# What an installation depends on: a change here, and only here, makes it run again.
BUILD_INPUTS := pyproject.toml setup.py constraints.txt CMakeLists.txt $(wildcard kernels/src/* kernels/src/network/*)

RUN_STAMP  := $(VENV)/.installed-run
TEST_STAMP := $(VENV)/.installed-test
SANITIZED  := build/sanitized

.DEFAULT_GOAL := help
.PHONY: help venv install run test lint slow sanitize format clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(BIN)/python  ## create the virtual environment (PYTHON=python3.12 to choose)

install: $(TEST_STAMP)  ## editable installation with all that the tests need

run: $(RUN_STAMP)  ## reconstruct the demonstration volume (no PyTorch needed)
	$(BIN)/python -m engine.run --task csmri --resample 1

test: lint  ## lint, format check, types, quick tests
	$(BIN)/python -m pytest -m "not slow"

lint: $(TEST_STAMP)  ## lint, format check, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: $(TEST_STAMP)  ## the tests that `test` leaves out
	$(BIN)/python -m pytest -m slow

# Python itself is not built with the sanitizers: their libraries have to be loaded before it, and leaks are its own.
sanitize: $(TEST_STAMP)  ## kernel tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(BIN)/cmake -S . -B $(SANITIZED) -DTPDM_SANITIZE=ON -DTPDM_CUDA=OFF -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
	  -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	$(BIN)/cmake --build $(SANITIZED) --target _cpu _network -j2
	$(BIN)/cmake --install $(SANITIZED) --prefix $(SANITIZED)/stage
	cp kernels/*.py $(SANITIZED)/stage/kernels/
	TPDM_EMULATED_BUILD=$(SANITIZED)/emulated ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1 \
	  LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	  $(BIN)/python -m pytest -q tests/kernels -m "not slow and not cuda" -o pythonpath="$(SANITIZED)/stage ."

format: $(TEST_STAMP)  ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove builds, caches and the virtual environment
	rm -rf $(VENV) build dist *.egg-info kernels/_*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Order-only: the interpreter's time stamp is that of the system's Python and says nothing.
$(RUN_STAMP): $(BUILD_INPUTS) | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

$(TEST_STAMP): $(BUILD_INPUTS) | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[export,train,diffusers,demo,bench,compare,mri,mpi,cluster,dev,tensorrt]'
	@touch $@
