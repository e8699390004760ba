# make install   .venv/bin/zarrmount, ready to use
# make demo      mounts a small real store, reads it, writes to it, unmounts it
# make test      installs what the tests need, and runs everything (about 24 minutes on 2 cores)
# make lint      style, types and import layers only
# make soak      the reliability suites, long: 200 crashes, thousands of operations with faults
# make bench     the benchmarks, beside other mounts; writes docs/BENCHMARKS.md (about 14 minutes, needs a quiet machine)
#                CASES=grid,write-files: some of them; BENCH_SCALE=smoke: all, tiny, nothing written
# make bench-large   those of 100,000 chunks and more

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SYSTEM := fuse3 libfuse3-dev pkg-config gcc python3-dev python3-venv
EXTRAS ?= zarr,s3,gcs,azure,http
BENCH_SCALE ?= full

.PHONY: install demo test lint soak bench bench-large bench-tools test-tools clean
.DELETE_ON_ERROR:

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	bash scripts/bootstrap.sh $(SYSTEM)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

$(VENV)/installed-demo: $(VENV)/installed
	bash scripts/bootstrap.sh unzip
	$(BIN)/python -m pip install --quiet --group demo --editable '.[$(EXTRAS)]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --group dev --editable '.[$(EXTRAS)]'
	touch $@

$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --group bench --editable '.[$(EXTRAS)]'
	touch $@

demo: $(VENV)/installed-demo
	bash scripts/demo.sh

test-tools: $(VENV)/installed-dev
	bash tests/install-tools.sh
	bash tests/install-servers.sh

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint test-tools
	$(BIN)/python scripts/run_tests.py

soak: test-tools
	ZARRMOUNT_SOAK=1 $(BIN)/python -m pytest tests/reliability -q -s

bench-tools: $(VENV)/installed-bench
	bash tests/install-servers.sh
	bash scripts/bootstrap.sh s3fs findutils

bench: bench-tools
	$(BIN)/python -m benchmarks --scale $(BENCH_SCALE) $(if $(CASES),--cases '$(CASES)')

bench-large: bench-tools
	$(BIN)/python -m benchmarks --scale $(BENCH_SCALE) --large

clean:
	rm -rf $(VENV) .tools build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
