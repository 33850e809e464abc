# make setup  the environment in .venv, versions from constraints.txt
# make demo   the whole flow on the sample corpus, minutes on two cores
# make test   all tests but the slow ones; make test-slow: several processes, faults
# make lint   ruff

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OFFLINE := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1

.PHONY: setup demo test test-slow lint

setup: $(VENV)/.done

# torch first and alone: with it there, nothing pulls in another build
$(VENV)/.done: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[all]"
	touch $@

demo: setup
	$(OFFLINE) $(BIN)/empo demo --output runs/demo

test: setup
	$(OFFLINE) PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/pytest -m "not slow"

test-slow: setup
	$(OFFLINE) PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
