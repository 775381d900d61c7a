# Everything a person types.  `make` alone lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,\
  $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $(p))))
BIN := .venv/bin
# One more than there are cores, since many tests wait for other processes.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() + 1, 6))')
# What runs for minutes, and tells no coverage what it has not heard: first, since many
# of them wait, and the others fill the time.
UNCOVERED := tests/crash tests/signatures tests/simulation
PACKAGES := signer backends api softhsm dev bench tests

.PHONY: help demo demo-kms dev test soak lint format bench lock clean

help: ## Show this list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/.ready ## One refund from HTTP to the chain, signed in a SoftHSM token.
	@$(BIN)/python -m dev.demo

demo-kms: .venv/.ready ## The same through AWS KMS's API, on a local emulator.
	@USE_KMS=true $(BIN)/python -m dev.demo

dev: .venv/.ready ## The same stack, left running; PORT=8081 for another port.
	@$(BIN)/python -m dev.stack

test: .venv/.ready node_modules/.ready .venv-ministack/.ready ## All tests, and the coverage of the core.
ifdef ARGS
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term $(ARGS)
else
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(UNCOVERED)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term $(UNCOVERED:%=--ignore=%)
endif

soak: .venv/.ready node_modules/.ready ## The long tests: minutes to hours.
	@$(BIN)/python -m pytest -m soak $(ARGS)

lint: .venv/.ready ## Style, types and the arrows between the rooms.
	@$(BIN)/ruff format --check $(PACKAGES)
	@$(BIN)/ruff check $(PACKAGES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: .venv/.ready ## Rewrite the code in the house style.
	@$(BIN)/ruff format $(PACKAGES)
	@$(BIN)/ruff check --fix $(PACKAGES)

bench: .venv/.ready node_modules/.ready ## Where the time goes, as ratios to the bare calls.
	@$(BIN)/python -m bench

lock: .venv/.ready ## Resolve the dependencies again, a week behind the newest.
	@UV=$(BIN)/uv requirements/lock

clean: ## Remove everything that was made here, the development key included.
	@rm -rf .venv .venv-ministack node_modules .hotwallet .coverage .hypothesis \
	  .mypy_cache .pytest_cache .ruff_cache .import_linter_cache dist
	@find $(PACKAGES) -name __pycache__ -type d -exec rm -rf {} +

.venv/.ready: requirements/uv.txt requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: set PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making the environment in .venv with $(PYTHON) ..." >&2
	@rm -rf .venv && $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip sync --quiet --require-hashes requirements/dev.txt requirements/uv.txt \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv-ministack/.ready: .venv/.ready requirements/ministack.txt
	@rm -rf .venv-ministack && $(PYTHON) -m venv --without-pip .venv-ministack
	@$(BIN)/uv pip sync --quiet --python .venv-ministack/bin/python --require-hashes requirements/ministack.txt
	@touch $@

node_modules/.ready: package-lock.json
	@echo "Installing anvil and solc with npm ..." >&2
	@npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@
