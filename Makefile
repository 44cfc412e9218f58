# Every target sets up .venv from nothing on its first use. `make` alone lists the targets.
#
#   make run                                 all seven chapters, small, on the built-in volume
#   make run PROFILE=cpu DATA=epfl           at the size of the published book, on real data
#   make run CHAPTERS="1 3" SET="steps=200"  two chapters, one parameter changed

PYTHON ?= python3
PROFILE ?= smoke
# phantom, epfl, FOLDER or IMAGE,MASK; empty: what the profile names
DATA ?=
# chapter numbers; empty: all seven
CHAPTERS ?=
# name=value pairs
SET ?=
# chapters side by side, each with its share of the cores and up to 4 GB of memory
JOBS ?= 2
# what `make bench` measures; empty: everything
NAMES ?=

BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup run test test-long test-browser test-slurm study bench book pdf exercises lint clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## set up .venv, and nothing else

run: $(READY)  ## execute chapters (PROFILE DATA CHAPTERS SET JOBS) and build their book
	$(BIN)/synthseg run $(CHAPTERS) --profile '$(PROFILE)' --jobs '$(JOBS)' \
		$(if $(DATA),--data '$(DATA)') $(foreach pair,$(SET),--set '$(pair)')
	$(BIN)/synthseg book

test: $(READY)  ## run the tests, two files at a time
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-long: $(READY)  ## run the tests that take minutes, too: 20 kills of each trainer and the like
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m 'long or not long'

test-browser: book  ## build the published book and test its pages in Chromium, where it is installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup tests/browser

test-slurm: $(READY)  ## run a tiny study on a Slurm cluster of one node, this one (as root, on Debian)
	@command -v slurmctld >/dev/null || { apt-get update && \
		apt-get install --yes --no-install-recommends munge slurm-wlm; }
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[cluster]'
	$(BIN)/python -m pytest tests/slurm -m long

study: $(READY)  ## go on with the study (JOBS side by side); results/study_*.csv are the receipt
	nice $(BIN)/python workflow/study.py --jobs '$(JOBS)'

bench: $(READY)  ## measure the module against its peers (NAMES); an hour on two cores
	@$(BIN)/python -c 'import psutil, torch, importlib.metadata as m; m.version("torch-fidelity")' \
		2>/dev/null || { \
		echo 'Installing PyTorch and others into .venv, once.'; \
		$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[bench]' && \
		$(BIN)/python -m pip install --quiet --no-deps 'torch-fidelity>=0.4,<0.5'; }
	$(BIN)/python -m benchmarks $(NAMES)

book: $(READY)  ## check the published notebooks and build _build/html/index.html
	$(BIN)/synthseg check
	$(BIN)/synthseg book --published

pdf: book  ## print the whole book to _build/html/book.pdf, by Chromium or Chrome
	$(BIN)/python workflow/pdf.py

exercises: $(READY)  ## execute the exercises with their solutions, and as students get them
	$(BIN)/python workflow/exercises.py

lint: $(READY)  ## style, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

clean:  ## remove .venv and the built book; runs/ is kept
	rm -rf .venv _build .mypy_cache .pytest_cache .ruff_cache

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 13) else \
		"Python 3.11, 3.12 or 3.13 is needed; this is %d.%d. Name one: make PYTHON=python3.12 …" \
		% sys.version_info[:2])'
	@echo 'Setting up .venv: a few minutes and about 3 GB, once.'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@
