# `make` lists the targets. PYTHON creates the environment in VENV, in which everything below runs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# For test-newest only; pyenv, if it is there, selects a version by PYENV_VERSION.
PYTHON_NEWEST ?= env PYENV_VERSION=3.13 python3.13
NEWEST = .venv-newest
# For test-search only: the extra dev of pyproject.toml, without what needs torch or checks style and types.
SEARCH = .venv-search
SEARCH_TOOLS = duckdb geopandas hypothesis ir_measures pyproj pytest pytest-xdist scipy stac-validator
# What bench compares the working tree with.
BASE ?= HEAD
# Milvus and its client, for bench-paper only; they cannot be installed beside rsr's own packages.
MILVUS = .venv-milvus
# The libraries and databases that bench-search compares rsr with.
PEERS = .venv-peers
# For fuzz only: atheris, and rsr without torch; what it found is kept in FUZZ_CORPUS.
FUZZ = .venv-fuzz
FUZZ_SECONDS ?= 600
FUZZ_CORPUS ?= build/fuzz
FUZZ_TARGETS ?= records manifest tiles parquet

# $(call create,ENVIRONMENT,PYTHON,WHAT PIP INSTALLS)
define create
	@echo "Installing into $(1); the log is $(1)/install.log" >&2
	@$(2) -m venv $(1)
	@$(1)/bin/python -m pip install --disable-pip-version-check $(3) \
		> $(1)/install.log 2>&1 || { tail -n 20 $(1)/install.log >&2; exit 1; }
endef
PYTEST = -m pytest --numprocesses auto --maxprocesses 8

.DEFAULT_GOAL := help
.PHONY: help install demo test test-newest test-search faults fuzz man completions bench bench-paper bench-search clean
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
	@OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

test-newest: ## Run the tests on Python 3.13 with the newest version of every package
	@rm -rf $(NEWEST)
	$(call create,$(NEWEST),$(PYTHON_NEWEST),-e '.[dev]')
	@OMP_NUM_THREADS=1 $(NEWEST)/bin/python $(PYTEST)

test-search: $(SEARCH)/.installed ## Run the tests that do not need torch, without torch and terratorch
	@OMP_NUM_THREADS=1 $(SEARCH)/bin/python $(PYTEST)

fuzz: $(FUZZ)/.installed ## Fuzz what reads files of strangers, FUZZ_SECONDS per target
	@set -e; for target in $(FUZZ_TARGETS); do \
		$(FUZZ)/bin/python tests/fuzz/fuzz.py $$target $(FUZZ_CORPUS) -max_total_time=$(FUZZ_SECONDS); done

faults: $(STAMP) ## Disturb every command at every moment: signals, full disks, readers beside writers (an hour)
	@RSR_FAULTS=all OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) tests/faults

man: $(STAMP) ## Write the manual pages from the help texts and man/sections.toml
	@$(BIN)/python man/build.py

completions: $(STAMP) ## Write completion scripts for bash, zsh and fish into build/completions/
	@mkdir -p build/completions
	@_RSR_COMPLETE=bash_source $(BIN)/rsr > build/completions/rsr.bash
	@_RSR_COMPLETE=zsh_source $(BIN)/rsr > build/completions/_rsr
	@_RSR_COMPLETE=fish_source $(BIN)/rsr > build/completions/rsr.fish

bench: $(STAMP) ## Measure the speed of the commands beside that of an earlier commit (BASE), for benchmarks/README.md
	@$(BIN)/python benchmarks/bench.py --base $(BASE)

bench-paper: $(STAMP) $(MILVUS)/.installed ## Time single queries as the paper does, beside faiss and Milvus
	@$(BIN)/python benchmarks/paper_speed.py --milvus-python $(MILVUS)/bin/python

bench-search: $(STAMP) $(PEERS)/.installed ## Compare searching with other libraries and databases, for docs/search.md
	@$(BIN)/python benchmarks/search.py --peers-python $(PEERS)/bin/python
	@$(BIN)/python benchmarks/search.py --page

clean: ## Remove the environments, the demo's files, builds and caches
	rm -rf .venv $(NEWEST) $(SEARCH) $(MILVUS) $(PEERS) $(FUZZ) demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Several GB, most of it torch; runs again if pyproject.toml or constraints.txt has changed.
$(STAMP): pyproject.toml constraints.txt
	$(call create,$(VENV),$(PYTHON),-c constraints.txt -e '.[dev]')
	@touch $@

# Without rsr's own requirements, which have torch, and without the test tools that need it.
$(SEARCH)/.installed: requirements-search.txt pyproject.toml constraints.txt
	$(call create,$(SEARCH),$(PYTHON),-c constraints.txt -r $< $(SEARCH_TOOLS))
	@$(SEARCH)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -e .
	@touch $@

$(FUZZ)/.installed: requirements-search.txt pyproject.toml constraints.txt
	$(call create,$(FUZZ),$(PYTHON),-c constraints.txt -r $< atheris)
	@$(FUZZ)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -e .
	@touch $@

# Its client requires a grpcio that has wheels only up to Python 3.12.
$(MILVUS)/.installed: benchmarks/milvus-requirements.txt
	$(call create,$(MILVUS),$(PYTHON),-r $<)
	@touch $@

# A gigabyte.
$(PEERS)/.installed: benchmarks/peers-requirements.txt
	$(call create,$(PEERS),$(PYTHON),-r $<)
	@touch $@
