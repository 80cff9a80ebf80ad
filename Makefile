# `make run` and `make test` do all their own set-up; a second call skips what is done.
.PHONY: help run test test-fast test-long mutation lint setup prism compile clean constraints
.DEFAULT_GOAL := help

export TF_USE_LEGACY_KERAS := 1
BIN := .venv/bin
# A tag that is never moved: jobs refuse others.
IMAGE ?= two-tower-tfx:$(shell git rev-parse --short=12 HEAD)
TARGET ?= vertex
JOB := build/two-tower.$(if $(filter kubeflow,$(TARGET)),yaml,json)

help:  ## Say what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

run: setup  ## Simulate a data set, train, evaluate and push a recommender, and show what it recommends
	@$(BIN)/two-tower demo --output runs/demo

test: setup  ## Run all tests but the long ones, in as many processes as there are cores
	@$(BIN)/python -m pytest -m "not long" --numprocesses auto --dist loadgroup

test-fast: setup  ## Run the tests of seconds alone, for the inner loop
	@$(BIN)/python -m pytest -m "not long and not slow and not e2e" --numprocesses auto --dist loadgroup

test-long: setup  ## Run the long tests; goes on where an earlier call stopped
	@scripts/run_long_tests.sh

mutation: setup  ## Edit the rooms that decide in one place at a time: tests must notice (hours; it resumes)
	@scripts/mutation_tests.sh

lint: setup  ## Check style, types, layers and docstrings
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python scripts/check_docstrings.py

setup:  ## Build .venv from constraints.txt, if it is not built from it already
	@scripts/setup_environment.sh

prism:  ## Build Prism, a runner of Beam that a test compares with, into build/bin; needs Go
	@scripts/install_prism.sh

compile: setup  ## Write the job of IMAGE for TARGET (vertex or kubeflow) to build/
	@mkdir -p build
	@$(BIN)/two-tower compile --target $(TARGET) --image $(IMAGE) -o $(JOB)

constraints: setup  ## Resolve the ranges of setup.py anew into constraints.txt
	@scripts/resolve_constraints.sh

clean:  ## Delete .venv, caches and the demo's run
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache runs/demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
