# Two commands do all the set-up: `make quickstart` and `make test`. Both work in a virtual environment of their own.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: quickstart test test-slow test-cluster test-scale test-clients lint docs clean

quickstart: $(VENV)/.installed
	$(BIN)/conan-embed quickstart

# One thread per process, and a process more than there are cores: some tests wait for others' timeouts. The files of a
# process's tests stay whole.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(8, os.cpu_count() + 1))')
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Only the tests that take a minute or more each (the notebook, killed runs).
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "slow and not cluster and not gpu"

# Nodes as network namespaces, cut off and back: minutes, and root (or the right to make namespaces).
test-cluster: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m cluster

# Millions of passages: a quarter of an hour.
test-scale: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m scale

# Other programs that read our folders, each in an environment of its own under .clients (gigabytes; node for one).
test-clients: $(VENV)/.installed-dev
	$(BIN)/python -m tests.clients.clients
	$(BIN)/python -m pytest tests/clients

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-logo

# The documentation site, into build/site: a broken link or an undocumented public name fails.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# constraints.txt holds the versions that the project is tested with; torch's is a CPU build where one is offered.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[quickstart]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[quickstart,peers,onnx,mteb,lora-4bit,dev]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[quickstart,docs]"
	touch $@

clean:
	rm -rf $(VENV) runs cache build
