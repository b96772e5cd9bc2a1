# `make demo` and `make test` work from a fresh clone on a machine that has only Python >= 3.11: each first
# makes the environment .venv with the tested versions of constraints.txt. The second call is instant.
#
#   make demo PYTHON=python3.12          another interpreter
#   UV_TORCH_BACKEND=cpu make demo       a CPU-only torch (much smaller); cu130, auto, ... likewise

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed
NATIVE := .venv/.native

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint clean

help:
	@echo "make demo       train a ConvMixer and a ViT on real scans, write a report (under 90 s once installed)"
	@echo "make test       lint, types and the fast tests"
	@echo "make test-slow  the slow tests too: published sizes, real data"
	@echo "make lint       ruff and mypy"
	@echo "make clean      remove what make made, the environment included; runs/ stays"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "isopatch needs Python 3.11 or newer, and '$(PYTHON)' is not: try make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' lacks the venv and ensurepip modules; Debian and Ubuntu ship them apart: install" \
	       "python3-venv, or give another interpreter: make PYTHON=/path/to/python3" >&2; exit 1; }
	@rm -f $(STAMP)
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $(STAMP) $(NATIVE)

# The native kernels, built anew when their source changed. Without a C++ compiler isopatch installs without them.
$(NATIVE): $(STAMP) $(wildcard native/CMakeLists.txt native/*/*)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $(NATIVE)

demo: $(NATIVE)
	$(BIN)/isopatch demo

lint: $(NATIVE)
	$(BIN)/ruff check .
	$(BIN)/mypy

# One thread for each test process: the machine's cores are shared by WORKERS of them.
test: lint
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

test-slow: $(NATIVE)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m 'not gpu and not soak'

clean:
	rm -rf .venv build dist native/CMakeCache.txt native/CMakeInit.txt native/build.ninja native/.ninja_* native/.cmake native/.skbuild-info.json
	find native \( -name CMakeFiles -o -name cmake_install.cmake \) -prune -exec rm -rf {} +
	find src -name '*.so' -delete
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
