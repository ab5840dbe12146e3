# Every target sets up what it needs: on a fresh machine, Python 3.11 or newer and make are enough.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help venv demo test test-all bench bench-check peers front lint format clean

BIN := .venv/bin
STAMP := .venv/.installed
PYTHON ?=
WORKERS ?= 2
SUITE ?=
ARGS ?=

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## install the project and its tools into .venv

# An existing .venv is kept and completed; uv is used where there is one, and pip where uv cannot.
$(STAMP): pyproject.toml
	@python="$(PYTHON)"; \
	for name in python3.13 python3.12 python3.11 python3 python; do \
		[ -z "$$python" ] || break; \
		if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$name"; fi; \
	done; \
	[ -x $(BIN)/python ] || [ -n "$$python" ] || { echo "Python 3.11 or newer is needed; install it, or name it: make venv PYTHON=/path/to/python3.11" >&2; exit 2; }; \
	export PIP_DISABLE_PIP_VERSION_CHECK=1; \
	echo "installing into .venv (the first time takes some minutes and about 6 GB)"; \
	done=no; \
	if command -v uv >/dev/null 2>&1; then \
		{ [ -x $(BIN)/python ] || uv venv --quiet --python "$$python" .venv; } \
		&& uv pip install --quiet --python $(BIN)/python -e '.[dev]' && done=yes \
		|| echo "uv could not install it; trying pip"; \
	fi; \
	if [ $$done = no ]; then \
		[ -x $(BIN)/python ] || "$$python" -m venv .venv; \
		$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; \
		$(BIN)/python -m pip install --quiet --progress-bar off -e '.[dev]'; \
	fi
	@touch $@
	@echo "installed: $$($(BIN)/python --version), $$($(BIN)/python -c 'import importlib.metadata as m; print(", ".join(f"{n} {m.version(n)}" for n in ("torch", "ray", "optuna", "timm", "onnxruntime")))')"

demo: $(STAMP) ## real handwritten digits, two limits: from images to a measured ONNX file
	AUTOML_HOME="$(CURDIR)/.automl" $(BIN)/automl demo --out automl-runs/demo

test: $(STAMP) ## all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile $(ARGS)

test-all: $(STAMP) ## all tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

bench: $(STAMP) ## a benchmark: make bench SUITE=quality ARGS="--data …"; without SUITE, what there is
	$(BIN)/automl bench $(if $(SUITE),$(SUITE) $(ARGS),--help)

bench-check: $(STAMP) ## the quick suite again, held against its earlier table
	$(BIN)/python -m benchmarks.check

peers: $(STAMP) ## install other engines to compare with: make peers ARGS=autogluon; without ARGS, which there are
	$(BIN)/python -m benchmarks.peers $(ARGS)

front: $(STAMP) ## the README's front table and its picture, from the committed tables
	$(BIN)/python -m benchmarks.front $(ARGS)

lint: $(STAMP) ## style, types, and which room may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy automl search_spaces strategy_pool
	$(BIN)/lint-imports

format: $(STAMP) ## format the code and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv, caches and what runs left here
	rm -rf .venv .automl automl-runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
