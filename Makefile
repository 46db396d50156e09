# Two commands do everything, set-up included: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help setup demo test test-all test-matrix lint types docs docs-serve dist ui bench lock clean

help: ## What can be made.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

setup: $(READY) ## A virtual environment with the locked dependencies.

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "cpc needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(READY)

demo: setup ## The main job on the embedded corpus: synthesise, train, probe, compare. No download of data.
	recipes/demo/run.sh

test: setup lint types ## Lint, types, and the tests that take minutes at most.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow"

test-all: setup lint types docs dist ## All of it: slow tests, the site with its tutorials, the wheel.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

PYTHONS := 3.11 3.12 3.13
test-matrix: ## `make test` on each of PYTHONS, each with an environment of its own.
	set -e; for version in $(PYTHONS); do $(MAKE) PYTHON=python$$version VENV=.venv-$$version test; done

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

$(VENV)/.docs: requirements-docs.lock $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-docs.lock
	touch $(VENV)/.docs

# Two threads: the tutorials take five minutes on two cores that are free. Beside other programs say OMP_NUM_THREADS=1: threads wait for each other.
DOCS := PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} NO_MKDOCS_2_WARNING=1 CPC_TUTORIALS="$(abspath docs/tutorials/work)"
docs: $(VENV)/.docs ## The site, in site/: tutorials executed; a broken link or a public name without a docstring fails.
	$(DOCS) $(BIN)/mkdocs build --quiet --site-dir site

docs-serve: $(VENV)/.docs ## The site while it is written, without executing the tutorials.
	$(DOCS) CPC_DOCS_EXECUTE=false $(BIN)/mkdocs serve

dist: setup ## Wheel and sdist in dist/, each installed into a fresh environment outside the checkout and tried.
	.ci/dist $(BIN)/python

ui: setup ## The MLflow UI on what has been run.
	@echo "in the page, at the top left, choose Model training"
	MLFLOW_DISABLE_TELEMETRY=$${MLFLOW_DISABLE_TELEMETRY:-true} $(BIN)/mlflow ui --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///runs/mlflow.db}

bench: setup ## Speed and memory: writes benchmarks/tables.md (about three quarters of an hour on two cores).
	$(BIN)/python -m benchmarks

lock: ## Resolve the newest versions that pyproject.toml allows into requirements.lock (needs uv).
	uv pip compile pyproject.toml --universal --python-version 3.11 --extra dev --upgrade \
	  --no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock

clean: ## Remove environments, caches, the site and built packages; data/ and runs/ stay.
	rm -rf $(VENV) $(PYTHONS:%=.venv-%) .cache site dist docs/tutorials/work .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
