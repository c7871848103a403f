# `make help` lists the targets. All of them work inside .venv, which is made on the first call, kept, and
# brought up to date when pyproject.toml or constraints.txt change. Needs Python >= 3.11 and make, no more.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CONFIG := pyproject.toml constraints.txt
# Stamps: what is installed. The full install contains the light one, and stamps both.
LIGHT := $(VENV)/.light.stamp
FULL := $(VENV)/.full.stamp
# Processes that pytest is spread over; 0 is one process, which was no slower than 2 when measured on two busy cores.
WORKERS ?= 0
# The matrices here are too small to gain from threads, and lose much where the cores are busy.
demo pytest: export OPENBLAS_NUM_THREADS ?= 1
pytest: export OMP_NUM_THREADS ?= 1

.PHONY: help demo test lint types docs pytest clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

demo: $(LIGHT)  ## train a small network and allocate its loss change (options: make demo ARGS='--steps 50')
	$(BIN)/lca demo $(ARGS)

# Every step runs, also after one has failed, and the failed ones are named at the end.
test: $(FULL)  ## lint, types, docs and pytest
	@failed=; for step in lint types docs pytest; do \
	    printf '\n== make %s\n' $$step; $(MAKE) --no-print-directory $$step || failed="$$failed $$step"; \
	done; \
	if [ -n "$$failed" ]; then printf '\nFAILED:%s\n' "$$failed"; exit 1; fi; printf '\nAll steps passed.\n'

lint: $(FULL)  ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(FULL)  ## mypy, strict on lca/
	$(BIN)/mypy

docs: $(FULL)  ## build the documentation in docs/_build/html, warnings are errors
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build/html

# By file, because the examples of a page build on each other.
pytest: $(FULL)  ## tests, doctests, and the examples in README.md and docs/
	$(BIN)/pytest -n $(WORKERS) --dist loadfile

clean:  ## remove .venv and everything that was built
	rm -rf $(VENV) build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python >= 3.11 is needed, '$(PYTHON)' is something else; try make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(LIGHT): $(CONFIG) | $(BIN)/python
	$(INSTALL) -e '.[report]'
	@touch $@

$(FULL): $(CONFIG) | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	@touch $@ $(LIGHT)
