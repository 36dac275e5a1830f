# Every command of the project. `make` alone lists them. ARGS="..." is passed on to the tool.
.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/bash
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.installed
RAY_STAMP := .venv/.installed-ray

.PHONY: help setup demo serve test test-long check fix bench bench-quick requirements bench-peers clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv with every pinned dependency (with uv if there is one, else with pip)

# __init__.py holds the version, which an editable install copies into its metadata.
$(STAMP): pyproject.toml requirements/dev.txt src/async_delivery/__init__.py
	@command -v "$(PYTHON)" >/dev/null || \
	  { echo "No $(PYTHON) found. Async Delivery needs Python 3.11 or newer: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1). Async Delivery needs Python 3.11 or newer:" \
	         "make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@set -e; \
	usable() { $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	if command -v uv >/dev/null; then \
	  echo "Setting up .venv with uv"; \
	  usable || uv venv --quiet --clear --no-python-downloads --python "$$(command -v "$(PYTHON)")" .venv; \
	  uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt; \
	  uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --no-index -e .; \
	else \
	  echo "Setting up .venv with pip (about a minute; with uv on the PATH a few seconds)"; \
	  usable || "$(PYTHON)" -m venv --clear .venv; \
	  $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; \
	  pip="$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input"; \
	  $$pip --require-hashes -r requirements/dev.txt; \
	  $$pip --no-deps --no-build-isolation --no-index -e .; \
	fi
	@touch $@

demo: $(STAMP) ## Run one real analysis from submit to cleanup, and end
	@$(BIN)/python -m async_delivery.cli.demo $(ARGS)

serve: $(STAMP) ## Serve on http://127.0.0.1:8080 until stopped
	@$(BIN)/async-delivery serve $(ARGS)

# Most of a test's time is waiting for processes, so one more at a time than there are cores.
WORKERS ?= $(shell echo $$(( $$(nproc 2>/dev/null || echo 2) + 1 )))
test: $(STAMP) ## Run the tests, e.g. make test ARGS="tests/domain -x"
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

# Only the long tests need Ray, which is as large as all the rest.
$(RAY_STAMP): $(STAMP) requirements/ray.txt
	@if command -v uv >/dev/null; then \
	  uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/ray.txt; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input \
	    --require-hashes -r requirements/ray.txt; \
	fi
	@touch $@

test-long: $(STAMP) $(RAY_STAMP) ## Run the tests that take minutes to hours, and print the scorecard
	@$(BIN)/python -m pytest -m long $(ARGS)

check: $(STAMP) ## Check format, lint, types and the floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

fix: $(STAMP) ## Format, and mend what lint can mend by itself
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(STAMP) ## Measure, beside limits and peers; the figures go to bench/out
	@$(BIN)/python -m bench $(ARGS)

bench-quick: $(STAMP) ## Compare with the last commit in a minute, or with ARGS="--against REV"
	@$(BIN)/python -m bench.quick $(ARGS)

# Made for every platform and Python that pyproject.toml allows. What is pinned stays unless ARGS="--upgrade" or
# ARGS="--upgrade-package NAME" says otherwise. The smaller sets follow the pins of the largest.
PIN = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
COMPILE = $(PIN) pyproject.toml
requirements: ## Pin the dependencies anew, with hashes (needs uv)
	@command -v uv >/dev/null || { echo "make requirements needs uv on the PATH" >&2; exit 1; }
	$(COMPILE) --extra dev --group build -o requirements/dev.txt $(ARGS)
	$(COMPILE) -c requirements/dev.txt -o requirements/base.txt
	$(COMPILE) -c requirements/dev.txt --extra profile -o requirements/profile.txt
	$(COMPILE) -c requirements/dev.txt --extra postgres -o requirements/postgres.txt
	$(COMPILE) -c requirements/dev.txt --extra otel -o requirements/otel.txt
	$(COMPILE) -c requirements/dev.txt --extra ray -o requirements/ray.txt
	$(PIN) -c requirements/dev.txt --group build -o requirements/build.txt

PEERS = celery dbos huey procrastinate pygeoapi taskiq
bench-peers: ## Pin what the benchmarks compare with anew, with hashes (needs uv)
	@command -v uv >/dev/null || { echo "make bench-peers needs uv on the PATH" >&2; exit 1; }
	@cd bench/peers/requirements && for peer in $(PEERS); do $(PIN) $$peer.in -o $$peer.txt $(ARGS) || exit 1; done

clean: ## Remove caches and build output; .venv, stores and artefacts stay
	@rm -rf build dist bench/out .coverage htmlcov .hypothesis .schemathesis
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
