# `make` lists the targets. PYTHON creates the environment in VENV, in which everything below runs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# Milvus and its client, for bench-paper only; they cannot be installed beside rsr's own packages.
MILVUS = .venv-milvus

.DEFAULT_GOAL := help
.PHONY: help install demo test man completions bench bench-paper clean
.DELETE_ON_ERROR:

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.* ## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

install: $(STAMP) ## Install rsr and what its tests need in .venv

demo: $(STAMP) ## Run the whole pipeline on a synthetic scene, up to a page of hits
	@PATH="$(abspath $(BIN)):$$PATH" examples/demo.sh

test: $(STAMP) ## Check style and types, and run the tests
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8

man: $(STAMP) ## Write the manual pages from the help texts and man/sections.toml
	@$(BIN)/python man/build.py

completions: $(STAMP) ## Write completion scripts for bash, zsh and fish into build/completions/
	@mkdir -p build/completions
	@_RSR_COMPLETE=bash_source $(BIN)/rsr > build/completions/rsr.bash
	@_RSR_COMPLETE=zsh_source $(BIN)/rsr > build/completions/_rsr
	@_RSR_COMPLETE=fish_source $(BIN)/rsr > build/completions/rsr.fish

bench: $(STAMP) ## Measure the speed of the commands
	@$(BIN)/python benchmarks/bench.py

bench-paper: $(STAMP) $(MILVUS)/.installed ## Time single queries as the paper does, beside faiss and Milvus
	@$(BIN)/python benchmarks/paper_speed.py --milvus-python $(MILVUS)/bin/python

clean: ## Remove .venv, the demo's files, builds and caches
	rm -rf .venv $(MILVUS) demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Several GB, most of it torch; runs again if pyproject.toml or constraints.txt has changed.
$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into $(VENV); the log is $(VENV)/install.log" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]' \
		> $(VENV)/install.log 2>&1 || { tail -n 20 $(VENV)/install.log >&2; exit 1; }
	@touch $@

# Its client requires a grpcio that has wheels only up to Python 3.12.
$(MILVUS)/.installed: benchmarks/milvus-requirements.txt
	@echo "Installing into $(MILVUS); the log is $(MILVUS)/install.log" >&2
	@$(PYTHON) -m venv $(MILVUS)
	@$(MILVUS)/bin/python -m pip install --disable-pip-version-check -r $< \
		> $(MILVUS)/install.log 2>&1 || { tail -n 20 $(MILVUS)/install.log >&2; exit 1; }
	@touch $@
