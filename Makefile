# Every target does all the set-up it needs; Python 3.11 or newer and make are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check bench clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable ".[langchain,langgraph,mcp,openai]"
	touch $@

demo: $(INSTALLED)  ## Remember a conversation and ask about what changed in it
	$(BIN)/agent-memory demo

test: $(INSTALLED)  ## All tests
	$(BIN)/python -m pytest

check: $(INSTALLED)  ## Style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## What the performance claims rest on; each script alone offers more with --help
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group bench
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/index.py --sizes 10000

clean:
	rm -rf $(VENV) build dist *.egg-info
