# `make demo` and `make test` set up everything they need below .venv.
PYTHON ?= python3
VENV := .venv
PIP := $(PYTHON) -m pip --python $(VENV)/bin/python --disable-pip-version-check
BIN := $(VENV)/bin
# pip compiles the bytecode of what it copies, not of what it installs editable. That installation
# compiles hpo/estimators/trees.c, with a compiler that it brings along.
PACKAGES := hpo features slurm studies

.PHONY: demo test test-fast check lock clean

# The main job on embedded defaults: data, table, study with parallel workers, report.
demo: $(VENV)/run.stamp
	$(BIN)/hpo run studies/transport/seebeck.toml --workers 2

# Everything that must hold: style, types, import contracts, tests.
# Most tests wait for processes: two at a time. The order of files is kept, the longest come early.
test: check
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# An answer in about a minute: without what needs servers, a browser, or more than a second or two.
test-fast: $(VENV)/dev.stamp
	$(BIN)/pytest -n 2 -q -m "not slow and not slurm and not postgresql and not chromium"

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# pip is not needed inside the environment, so Debian's python3-venv is not needed either.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; use make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv --without-pip $(VENV)

$(VENV)/run.stamp: requirements.lock pyproject.toml setup.py hpo/estimators/trees.c | $(BIN)/python
	@echo "installing the packages of requirements.lock into $(VENV); this takes a minute or two"
	$(PIP) install --quiet --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-deps --editable .
	$(BIN)/python -m compileall -q $(PACKAGES)
	touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/run.stamp
	$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	touch $@

# Renew the lock files from pyproject.toml; needs uv.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--extra saddle --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock"
lock:
	$(COMPILE) --upgrade --extra dev -o requirements-dev.lock pyproject.toml
	$(COMPILE) --constraint requirements-dev.lock -o requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) build hpo/estimators/_trees.* tables reports logs models hpo.db hpo.db-shm hpo.db-wal
