# Everything sets itself up: an empty clone needs make and a Python with venv, no more.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& echo $$python && break; done)
WORKERS ?= 4
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# The test extra holds all that the demo needs.
DEMO_EXTRA := $(if $(wildcard $(VENV)/.has-test),test,demo)
# import-linter draws one, from the release on that can be asked not to.
NO_LOGO = $(shell $(BIN)/lint-imports --help | grep -o -e --no-logo)
BOUNDED := $(shell command -v timeout >/dev/null && echo timeout)

.DEFAULT_GOAL := help
.PHONY: demo test test-all soak bench bench-search bench-big lint format docs clean help

demo: $(VENV)/.has-$(DEMO_EXTRA) ## A small shop's tasks, their rows, searches and analysis, in a terminal
	@$(BIN)/python docs/examples/demo.py

test: lint ## All checks, and all tests on every PostgreSQL there is
	$(BIN)/pytest -q -n $(WORKERS)

test-all: $(VENV)/.has-test ## The tests on every Python of 3.10-3.14 there is
	@$(BIN)/python tests/run_all_interpreters.py -q -n $(WORKERS)

soak: $(VENV)/.has-test ## The property tests with 50,000 examples each, for an hour at most
	HYPOTHESIS_PROFILE=deep $(BOUNDED:%=% 1h) $(BIN)/pytest -q -n $(WORKERS) -m hypothesis --timeout 3600

bench: $(VENV)/.has-bench ## The benchmarks, side by side with the peers
	$(BOUNDED:%=% 30m) $(BIN)/python benchmarks/run.py

bench-search: $(VENV)/.has-bench ## Searching and analysing a million rows
	$(BOUNDED:%=% 30m) $(BIN)/python benchmarks/search.py

bench-big: $(VENV)/.has-bench ## Likewise ten million, to see how each question grows
	$(BOUNDED:%=% 2h) $(BIN)/python benchmarks/search.py --rows 1000000 10000000

lint: $(VENV)/.has-test ## ruff, mypy and the layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports $(NO_LOGO)

format: $(VENV)/.has-test ## Let ruff format and repair what it can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(VENV)/.has-docs ## The documentation, into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open site/index.html"

clean: ## Remove all that make has made
	rm -rf $(VENV) .venv-* .pg build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache \
		.import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/.has-%: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing the package with its extra \"$*\" into $(VENV) ..."
	@$(PIP) install -e '.[$*]'
	@touch $@

$(VENV)/bin/pip:
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "This needs Python 3.10 or newer: install one, or name it: make PYTHON=/path/to/python"; \
		exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(VENV)
