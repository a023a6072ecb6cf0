# Every verb makes .venv when it is missing or when pyproject.toml has changed, and needs only Python >= 3.10.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo view gallery screenshots api house docs test test-slow lint format types train bench clean

help:  ## list these verbs
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-10s %s\n", $$1, $$2 }'

demo: $(READY)  ## walk through a generated world: out/demo/walk.mp4 and more
	$(BIN)/spatia demo --out out/demo

view: $(READY)  ## walk through a world in the browser
	$(BIN)/spatia view

gallery: $(READY)  ## write docs/gallery
	$(BIN)/python -m docs.tools.gallery --out docs/gallery

screenshots: $(READY)  ## write docs/images/playground; drives Chromium
	$(BIN)/python -m docs.tools.screenshots

api: $(READY)  ## write docs/api.md from the docstrings
	$(BIN)/python -m docs.tools.api

house: $(READY)  ## the figures of the structure against their targets
	$(BIN)/python -m docs.tools.house

docs: $(READY)  ## the documentation as a site: site/
	$(BIN)/mkdocs build --strict

test: lint types  ## lint, import contracts, types and the tests
	$(BIN)/pytest

test-slow: $(READY)  ## the tests marked slow
	$(BIN)/pytest -m slow

lint: $(READY)  ## ruff, and the contracts between the parts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(READY)  ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)  ## mypy
	$(BIN)/mypy

train: $(READY)  ## train the embedded checkpoint from its seeds (hours; resumes)
	$(BIN)/spatia train data
	$(BIN)/spatia train autoencoder
	$(BIN)/spatia train encode
	$(BIN)/spatia train geometry
	$(BIN)/spatia train world-model
	$(BIN)/spatia train ship

bench: $(READY)  ## the table of the README (about 20 minutes on 2 cores; resumes)
	$(BIN)/spatia bench core --out out/bench/core

clean:  ## remove what the verbs above wrote, .venv excepted
	rm -rf out build dist site .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis

# torch first and alone: pip then takes a CPU build where one is at hand, and nothing later replaces it.
$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "make: '$(PYTHON) -m venv' failed; on Debian: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet "torch==2.13.*"
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@
