.DEFAULT_GOAL := check
.PHONY: arm arm-short check ci clean contracts docs docs-serve format grid help install lint speed test trials types

check: lint types contracts test ## lint, types, import contracts, tests

install: ## everything for development, into the active environment
	pip install -e '.[test,torch,onnxruntime,hf,models,cluster,docs,lint]'

test: ## the tests that a change should pass first
	pytest

grid: ## all of them, as CI runs them
	pytest -m ""

lint: ## ruff, checks and format
	ruff check .
	ruff format --check .

format: ## let ruff mend what it can
	ruff check --fix .
	ruff format .

types: ## mypy --strict
	mypy

contracts: ## floors: who may import whom
	lint-imports

docs: ## the documentation, in build/site
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

docs-serve: ## the documentation in a browser, built anew as it changes
	NO_MKDOCS_2_WARNING=1 mkdocs serve

speed: ## the study of docs/speed.md, on this machine (several minutes; leave the machine alone)
	flashbench profile --config configs/speed.toml

trials: ## how often a duel is wrong on this machine (half an hour; leave the machine alone)
	python benchmarks/duel_trials.py --equal 200 --slowed 100 --save results/duel-trials.json

ci: ## what CI runs, in a fresh virtual environment
	.ci/run

# Not in CI. Last runs, 2026-11-30 (docs/development.md has more): arm-short with nothing there took 15 minutes on two
# busy cores, 54 tests passed, 100 of 100 cases were exact. Of arm: 300 of 300 cases, 414 tests of kernels, and the first 327
# of 882 tests of engines.
arm: ## kernels and engines as compiled for 64-bit Arm, emulated (as root, on Debian or Ubuntu)
	.ci/arm

arm-short: ## a selection of it
	.ci/arm short

clean: ## caches and builds
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "%-10s %s\n", $$1, $$2 }'
