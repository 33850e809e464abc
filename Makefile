# make setup  the environment in .venv, versions from constraints.txt
# make demo   the whole flow on the sample corpus, minutes on two cores
# make test   all tests but the slow ones; make test-slow: several processes, faults
# make reliability  the faults, and their table in docs/reliability.md written anew
# make fuzz   10,000 odd files per reader, the figures into docs/fuzzing.md
# make lint   ruff
# make demo-report   the demo and a small sweep once more, their reports into docs/demo-report

PYTHON ?= python3
VENV := .venv
WORKERS ?= 2
FUZZ_INPUTS ?= 10000
BIN := $(VENV)/bin
OFFLINE := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1

FAULTS = $(OFFLINE) OMP_NUM_THREADS=1 PATH=$(CURDIR)/$(BIN):$$PATH \
	$(BIN)/pytest tests/faults --numprocesses $(WORKERS) --dist loadfile

.PHONY: setup demo demo-report test test-slow reliability fuzz lint

setup: $(VENV)/.done

# torch first and alone: with it there, nothing pulls in another build
$(VENV)/.done: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[all]"
	touch $@

demo: setup
	$(OFFLINE) $(BIN)/empo demo --output runs/demo

# from scratch, so that the kept report is of this code; the sweep takes some minutes more
demo-report: setup
	rm -rf runs/demo-report
	$(OFFLINE) $(BIN)/empo demo --output runs/demo-report/demo
	$(OFFLINE) $(BIN)/python recipes/sweep.py --config recipes/tiny/sweep.yaml \
		--output_dir runs/demo-report/sweep --rater runs/demo-report/demo/raters/levels
	rm -rf docs/demo-report && mkdir docs/demo-report
	cp runs/demo-report/demo/report.md runs/demo-report/demo/results.json \
		runs/demo-report/demo/*.svg docs/demo-report
	$(BIN)/python eval/report.py runs/demo-report/sweep/seed-* --output docs/demo-report/sweep.md

test: setup
	$(OFFLINE) OMP_NUM_THREADS=1 PATH=$(CURDIR)/$(BIN):$$PATH \
		$(BIN)/pytest -m "not slow" --ignore=tests/faults \
		--numprocesses $(WORKERS) --dist loadfile

test-slow: setup
	$(OFFLINE) OMP_NUM_THREADS=1 PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/pytest -m slow \
		--ignore=tests/faults --numprocesses $(WORKERS) --dist worksteal
	$(FAULTS)

reliability: setup
	$(FAULTS) --write-table

fuzz: setup
	EMPO_FUZZ_INPUTS=$(FUZZ_INPUTS) EMPO_FUZZ_FIGURES=docs/fuzzing.md $(OFFLINE) OMP_NUM_THREADS=1 \
		$(BIN)/pytest -m slow tests/fuzzing --numprocesses $(WORKERS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
