# Four commands for a newcomer; each makes .venv and installs what it needs, and repeats are quick.
#   make demo         a small trained model in less memory than it needs, experts read from disk
#   make test         the Python and C++ tests
#   make check        format, lint, types, layering, symbols, and the C++ tests under sanitizers
#   make bench-quick  the C++ benches, a fraction of a second each
#   make clean        removes build/, .venv/ and caches
PYTHON ?= python3
JOBS ?= $(shell nproc)
# Warnings are errors in `make check` and CI; someone with a newer compiler only wants to see the tests pass.
WERROR ?= OFF
PYTEST_ARGS ?=
DEMO_ARGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test check bench-quick clean cpp-dev cpp-lint py-lint layers symbols asan tsan build-asan build-tsan say-missing

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
export PATH := $(abspath $(BIN)):$(PATH)
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --no-build-isolation -c constraints.txt

# What the installed package is made from. Folders are listed too: removing a file changes its folder.
SOURCES := CMakeLists.txt pyproject.toml $(wildcard third_party/*.cmake) \
           $(shell find csrc python -name __pycache__ -prune -o -print)

demo: $(STAMPS)/package say-missing
	$(BIN)/moestro demo $(DEMO_ARGS)

test: $(STAMPS)/test cpp-dev
	PYTEST_ARGS='$(PYTEST_ARGS)' JOBS=$(JOBS) tools/run_tests.sh

check: cpp-lint py-lint layers symbols asan tsan
	@echo "make check: all clean"

bench-quick: cpp-dev
	@shopt -s nullglob; ran=0; \
	for bench in build/dev/bench/moestro_bench_*; do "$$bench" --benchmark_min_time=0.05; ran=1; done; \
	[ $$ran = 1 ] || { echo "bench-quick: no bench was built (apt-get install libbenchmark-dev)"; exit 1; }

clean:
	rm -rf build dist $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# --- the virtual environment -----------------------------------------------------------------------------------------
$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "moestro needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version). Try make PYTHON=python3.12"; exit 1; }
	@command -v c++ >/dev/null || { echo "A C++20 compiler is needed to build moestro: apt-get install g++"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "apt-get install python3-venv, then try again"; exit 1; }
	mkdir -p $(STAMPS) && touch $@

# Without build isolation the build tools keep one place, so that a rebuild compiles only what changed.
$(STAMPS)/build-tools: $(STAMPS)/venv
	$(PIP) install -q 'scikit-build-core>=0.10' 'pybind11>=2.13' 'cmake>=3.24' 'ninja>=1.11'
	touch $@

# Dependencies are looked at again only when pyproject.toml changed; torch makes the first time long, so it is not quiet.
$(STAMPS)/package: $(STAMPS)/build-tools constraints.txt $(SOURCES)
	@if [ pyproject.toml -nt $@ ]; then set -x; $(INSTALL) .; else set -x; $(INSTALL) -q --no-deps .; fi
	@touch $@

$(STAMPS)/test: $(STAMPS)/package
	@if [ pyproject.toml -nt $@ ]; then set -x; $(INSTALL) -q '.[test]'; fi
	@touch $@

$(STAMPS)/dev: $(STAMPS)/test
	@if [ pyproject.toml -nt $@ ]; then set -x; $(INSTALL) -q '.[dev]'; fi
	@touch $@

# --- C++ -------------------------------------------------------------------------------------------------------------
cpp-dev: $(STAMPS)/build-tools
	cmake --preset dev -DPython_EXECUTABLE=$(abspath $(BIN)/python) -DCMAKE_COMPILE_WARNING_AS_ERROR=$(WERROR) \
	  --log-level=WARNING
	cmake --build --preset dev -j $(JOBS)

build-asan build-tsan: build-%: $(STAMPS)/build-tools
	cmake --preset $* --log-level=WARNING
	cmake --build --preset $* -j $(JOBS)

asan tsan: %: build-%
	ctest --preset $@ -j $(JOBS) --progress

symbols: WERROR := ON
symbols: cpp-dev
	$(BIN)/python tools/check_isa_exports.py build/dev

# --- sources ---------------------------------------------------------------------------------------------------------
cpp-lint: $(STAMPS)/dev
	find csrc tests/cpp bench -name '*.h' -o -name '*.inl' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror

py-lint: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

layers: $(STAMPS)/venv
	$(BIN)/python tools/check_layers.py

say-missing:
	@command -v ccache >/dev/null || echo "ccache is not installed: rebuilding takes longer (apt-get install ccache)"
