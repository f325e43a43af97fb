# `make demo` and `make test` are the two commands; both make their own environment in .venv first.
PYTHON ?= python3
BIN := .venv/bin
SECONDS_OF_DEMO ?= 15

.PHONY: demo test lint drills clean

demo: .venv/ready
	@rm -rf demo && mkdir demo
	@printf '\n$$ mds run --simulate --duration $(SECONDS_OF_DEMO)      (connections 1 and 2, 1,000 ticks/s each)\n'
	@cd demo && MDS_SIMULATOR__RATE=1000 ../$(BIN)/mds run --simulate --duration $(SECONDS_OF_DEMO)
	@printf '\n$$ mds verify\n'
	@cd demo && ../$(BIN)/mds verify
	@printf '\n$$ ls -lh market_data\n'
	@cd demo && ls -lh market_data | sed 1d
	@printf '\na tick in quote mode, and one in full mode:\n'
	@cd demo && for mode in quote full; do grep -hm 1 "^{\"mode\":\"$$mode\"" market_data/market_data_*.jsonl; done
	@printf '\nAll of it is in demo/; mds is in .venv/bin/. What next: README.md\n'

# First those of single modules, then those that run the service: three files at a time, as these mostly wait.
test: .venv/dev lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal --ignore tests/integration tests
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile tests/integration

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

drills: .venv/dev
	$(BIN)/python -m bench.failover --how mixed --connection both
	$(BIN)/python -m bench.drills kills
	$(BIN)/python -m bench.drills faults

.venv/ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/dev: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis demo
