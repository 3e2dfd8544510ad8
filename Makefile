# Every target does all the set-up it needs; Python 3.11 or newer and make are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

SECONDS_OF_SOAK ?= 600

# Where it is set, each process that a test starts would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-integrations check docs bench soak clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --group docs --editable .
	touch $@

demo: $(INSTALLED)  ## Remember a conversation and ask about what changed in it
	$(BIN)/agent-memory demo

test: $(INSTALLED)  ## All tests; those of the inspector need a Chromium, and say when there is none
	$(BIN)/python -m pytest -rs -n auto --dist worksteal

# CrewAI asks for older versions than the others, and therefore for an environment of its own. Both runs come to their
# end before the table says whether anything failed; pip, asked twice to be quiet, prints errors alone.
PIP_QUIETLY := -m pip --quiet --quiet --disable-pip-version-check install
PYTEST_QUIETLY := -m pytest --quiet --no-header

test-integrations:  ## The adapters, each with its real framework
	$(PYTHON) -m venv .venv-frameworks
	.venv-frameworks/bin/python $(PIP_QUIETLY) --upgrade pip
	.venv-frameworks/bin/python $(PIP_QUIETLY) --constraint constraints.txt torch
	.venv-frameworks/bin/python $(PIP_QUIETLY) --constraint constraints.txt --group frameworks --editable .
	$(PYTHON) -m venv .venv-crewai
	.venv-crewai/bin/python $(PIP_QUIETLY) --upgrade pip
	.venv-crewai/bin/python $(PIP_QUIETLY) torch==2.13.0
	.venv-crewai/bin/python $(PIP_QUIETLY) torch==2.13.0 --group crewai --editable .
	rm -f .venv-frameworks/results.xml .venv-crewai/results.xml
	-.venv-frameworks/bin/python $(PYTEST_QUIETLY) --junit-xml=.venv-frameworks/results.xml tests/integrations
	-.venv-crewai/bin/python $(PYTEST_QUIETLY) --junit-xml=.venv-crewai/results.xml \
		tests/integrations/test_crewai.py tests/integrations/test_mcp.py
	.venv-frameworks/bin/python tests/integrations/table.py .venv-frameworks/results.xml .venv-crewai/results.xml

check: $(INSTALLED) docs  ## Style, spelling, types, the direction of imports, the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(INSTALLED)  ## The site, in site/; a broken link or a missing page is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: $(INSTALLED)  ## What the performance claims rest on; each script alone offers more with --help
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group bench
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/index.py --sizes 10000
	$(BIN)/python benchmarks/integrations.py
	$(BIN)/python benchmarks/reindex.py --rows 10000

soak: $(INSTALLED)  ## Ten minutes of everything at once, ten of odd inputs, 500 power losses
	$(BIN)/python benchmarks/soak.py --seconds $(SECONDS_OF_SOAK)
	AGENT_MEMORY_FUZZ_SECONDS=$$(($(SECONDS_OF_SOAK) / 5)) $(BIN)/python -m pytest tests/property/test_fuzz.py
	AGENT_MEMORY_POWER_LOSSES=500 $(BIN)/python -m pytest tests/crash/test_power_loss.py

clean:
	rm -rf $(VENV) .venv-frameworks .venv-crewai build dist site *.egg-info
