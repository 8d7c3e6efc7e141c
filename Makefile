# `make run` and `make test` are all a fresh machine needs; both set up what is missing.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PORT ?= 3000
WORKERS ?= 3

.PHONY: help setup run test test-all check format bench chaos docs servers clean
help:
	@echo "make run     sync a public data set into DuckDB, then serve the Dagster UI"
	@echo "make test    checks and tests, with a real PostgreSQL"
	@echo "make test-all  the same with every variant of every warehouse"
	@echo "make check   format, lint, types by mypy and pyright, layers"
	@echo "make bench   speed and memory, as ratios in one run"
	@echo "make chaos   hundreds of killed loads per warehouse; no row lost, none doubled"
	@echo "make docs    regenerate docs/ from the code"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "elt_dagster needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "Python's venv module is missing: install it (Debian: apt-get install python3-venv)."; exit 1; }
	@echo "Installing into .venv (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[all,example,test]' > .venv/install.log 2>&1 || { tail -n 20 .venv/install.log; exit 1; }
	@touch $@

servers: $(READY)
	@sh scripts/postgres.sh
	@sh scripts/redis.sh
	@PYTHON=$(PYTHON) sh scripts/prefect.sh
	@PYTHON=$(PYTHON) sh scripts/dbt.sh
	@sh scripts/oidc.sh

run: $(READY)
	@$(BIN)/python -m examples.run --port $(PORT)

# Without its bytecode each of the hundreds of processes that the tests start, and each worker, compiles what it imports anew.
unexport PYTHONDONTWRITEBYTECODE

# What fails fastest comes first. The second type checker is `make check`'s alone: it takes longer than the first and finds little more.
test: .style .layers
	@$(MAKE) --no-print-directory -j2 .types-mypy servers
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

test-all: export ELT_DAGSTER_TEST_ALL = 1
test-all: test

# the two type checkers beside each other, for each is bound by one processor
check: .style .layers
	@$(MAKE) --no-print-directory -j2 .types-mypy .types-pyright

.PHONY: .style .types-mypy .types-pyright .layers
.style: $(READY)
	@$(BIN)/ruff format --check --quiet . || { echo "Not formatted; run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
.types-mypy: $(READY)
	@$(BIN)/mypy --no-error-summary
.types-pyright: $(READY)
	@$(BIN)/pyright --level error > .venv/pyright.log 2>&1 || { cat .venv/pyright.log; exit 1; }
.layers: $(READY)
	@$(BIN)/lint-imports --no-cache > .venv/imports.log 2>&1 || { cat .venv/imports.log; exit 1; }

format: $(READY)
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

bench: servers
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks.api

chaos: servers
	@$(BIN)/python -m tests.chaos

docs: $(READY)
	@$(BIN)/python -m scripts.docs

clean:
	rm -rf .venv .run build dist *.egg-info
