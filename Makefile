# make run   search the RoCo-NAS problem on real digits and draw its front
# make test  the whole test suite
# make bench side-by-side speed against other libraries (minutes; extra `bench`)
# make check what continuous integration checks besides the tests
# make clean remove the virtual environment and what builds leave

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.ready-bench

.PHONY: run test bench check setup clean

run: $(READY)
	$(BIN)/python -m evo_robust.run problem=roco

test: $(READY)
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

bench: $(BENCH_READY)
	$(BIN)/python tests/benchmarks/run_all.py

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"expected Python 3.11 to 3.13, got {v[0]}.{v[1]}: give one as PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]' --constraint constraints.txt
	@touch $@

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[test,bench]' --constraint constraints.txt
# these two ask for old versions of packages that their attacks do not use
	$(BIN)/python -m pip install --quiet --no-deps adv-lib torchattacks --constraint constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info evo_robust/*.egg-info
