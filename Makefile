# `make help` lists the targets. They run inside .venv, which the first call creates and later calls update
# when pyproject.toml or constraints.txt has changed. Only Python >= 3.11 and make are needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CONFIG := pyproject.toml constraints.txt
# Stamp files record what is installed. The full installation includes the light one and stamps both.
LIGHT := $(VENV)/.light.stamp
FULL := $(VENV)/.full.stamp
# Number of pytest processes; WORKERS=0 runs everything in one process. On two cores, two processes take less
# than half the time of one.
WORKERS ?= 2
# In the order of their collection: files of few tests, which xdist would take last, are the slowest.
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# The matrices here are too small to gain from threads, and the processes would compete for the cores.
demo pytest coverage nightly: export OPENBLAS_NUM_THREADS ?= 1
pytest coverage nightly: export OMP_NUM_THREADS ?= 1
# In the environment, so that processes that tests start see it.
nightly: export LCA_HYPOTHESIS_PROFILE := nightly

.PHONY: help demo test lint types docs pytest coverage nightly lowest newest wheel clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

demo: $(LIGHT)  ## train a small network and allocate its loss change (options: make demo ARGS='--steps 50')
	$(BIN)/lca demo --overwrite $(ARGS)

# A failed step does not stop the others; the failed ones are named at the end. Types and docs, which take one
# core each, are checked side by side.
test: $(FULL)  ## lint, types, docs and pytest; never fails by chance, since random tests repeat the same cases
	@failed=; for step in lint "types docs" pytest; do \
	    printf '\n== make %s\n' "$$step"; \
	    $(MAKE) --no-print-directory -k -j2 $$step || failed="$$failed $$step"; \
	done; \
	if [ -n "$$failed" ]; then printf '\nFAILED:%s\n' "$$failed"; exit 1; fi; printf '\nAll steps passed.\n'

lint: $(FULL)  ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(FULL)  ## mypy, strict on lca/
	$(BIN)/mypy

docs: $(FULL)  ## build the documentation in docs/_build/html, warnings are errors
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build/html

# Distributed by file, because the examples of a page build on each other.
pytest: $(FULL)  ## tests, doctests, and the examples in README.md and docs/ (WORKERS=2 processes)
	$(PYTEST)

# Takes hours. A failure prints the smallest case that shows it: add that case as a test of its own.
nightly: $(FULL)  ## random search: the tests with 2,000 new random cases each, and cases that are left out by day
	$(PYTEST) tests

coverage: $(FULL)  ## the tests, with the lines and branches that their processes reach, in coverage.xml
	$(PYTEST) --cov --cov-report=term --cov-report=xml

# In environments of their own. Where the index has no CPU build of the oldest torch: ARGS='--hold torch==2.13.0'.
lowest:  ## the tests with the lowest versions that pyproject.toml admits (PYTHON=python3.12)
	$(PYTHON) .ci/versions.py lowest $(ARGS)

newest:  ## the tests with the newest versions on the index (PYTHON=python3.12)
	$(PYTHON) .ci/versions.py newest $(ARGS)

wheel: $(FULL)  ## build the sdist and the wheel in dist/, check both, and use the wheel in fresh environments
	$(BIN)/python .ci/wheel.py $(ARGS)

clean:  ## remove .venv and everything that was built
	rm -rf $(VENV) build dist docs/_build .coverage coverage.xml .mypy_cache .pytest_cache .ruff_cache .hypothesis
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
