# `make demo` and `make test` need Python 3.11 or newer, make and pip; they set up everything else in .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint types contracts check clean

demo: $(READY)  ## The whole method on virtual patients, ending in runs/demo/report.html
	$(BIN)/auricle run --recipe demo --out runs/demo

test: $(READY)  ## The test suite, one thread a worker (two busy OpenMP teams slow each other down)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --cov --cov-report=term

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

contracts: $(READY)
	$(BIN)/lint-imports

check: lint types contracts test

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "auricle needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 2)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -e '.[all,dev]'
	touch $@

clean:  ## The installation and caches; runs/ stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage*
