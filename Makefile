# One command per wish. Every target sets up what it needs first.

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.lmkit-installed
SOURCES = pyproject.toml Cargo.toml Cargo.lock $(shell find rust -name '*.rs')
# Much of the Python suite waits for processes that it starts, so two share it out: by the file, whose tests share inputs.
TEST_PROCESSES ?= 2
# nextest where it is found, cargo's own runner elsewhere.
CARGO_TEST = $(shell cargo nextest --version >/dev/null 2>&1 && echo "cargo nextest run --no-fail-fast" || echo "cargo test --no-fail-fast")

.PHONY: help setup demo format lint test test-all docs fuzz bench bench-train bench-gpu cov wheel readme clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(STAMP)  ## Make .venv with lmkit and its development tools, built in release mode.

$(STAMP): $(SOURCES)
	@command -v cargo >/dev/null || { echo "error: no cargo found; install Rust first (rustup.rs)" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is older than 3.11; run: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup  ## Learn a vocabulary, tokenize, train a small model and let it write: about a minute.
	$(BIN)/lmkit demo --force

format: setup  ## Format and fix what can be fixed.
	cargo fmt
	cargo fmt --manifest-path fuzz/Cargo.toml
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup  ## Check format, lints and types.
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --locked --all-targets -- -D warnings
	PYO3_PYTHON=$(abspath $(BIN)/python) cargo clippy --locked --all-targets --features python -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest lmkit._core

test: setup  ## Run the tests (under ten minutes on two cores).
	$(CARGO_TEST) --locked
	cargo test --locked --doc
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile -m "not slow and not gpu and not peers"

test-all: setup  ## Run every test that needs no GPU, property tests at length.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	PROPTEST_CASES=2000 $(CARGO_TEST) --locked
	cargo test --locked --doc
	LMKIT_EXAMPLES=2000 $(BIN)/python -m pytest -m "not gpu"

FUZZ_TARGETS = $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
FUZZ_SECONDS ?= 60

# The address sanitizer is not in stable Rust yet; RUSTC_BOOTSTRAP lets the stable compiler use it.
fuzz:  ## Fuzz every door that takes bytes, a minute each, with the address sanitizer.
	@cargo fuzz --version >/dev/null 2>&1 || \
	    { echo "error: no cargo-fuzz found; install it with: cargo install cargo-fuzz" >&2; exit 2; }
	@for target in $(FUZZ_TARGETS); do \
	    echo "fuzzing $$target"; \
	    RUSTC_BOOTSTRAP=1 cargo fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096 -verbosity=0 || exit 1; \
	done

bench: setup  ## Measure against the peers (half an hour); writes benches/results/ and README's figures. LMKIT_SHARED names the corpora's folder.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	cargo bench --locked
	$(BIN)/python benches/python/startup.py
	$(BIN)/python benches/python/in_memory.py
	$(BIN)/python benches/python/encode.py
	$(BIN)/python benches/python/encode_large.py
	$(BIN)/python benches/python/journal.py
	$(BIN)/python benches/python/shards.py
	$(BIN)/python benches/python/learn_merges.py
	$(BIN)/python benches/python/sharded_reading.py
	$(BIN)/python benches/python/scale.py
	$(MAKE) bench-train

bench-train: setup  ## Measure training against the peers: speed, memory, learning; writes benches/results/.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	$(BIN)/python benches/python/train_step.py
	$(BIN)/python benches/python/train_head.py
	$(BIN)/python benches/python/train_learning.py
	$(BIN)/python benches/python/train_parallel.py
	$(BIN)/python benches/python/readme_table.py

bench-gpu: setup  ## Measure training on one NVIDIA GPU: tokens/s, MFU, memory; writes benches/results/.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	$(BIN)/python benches/python/train_gpu.py
	$(BIN)/python benches/python/readme_table.py

readme: setup  ## Rewrite README's figures from the newest records of benches/results/.
	$(BIN)/python benches/python/readme_table.py

cov: setup  ## Measure test coverage (needs cargo-llvm-cov).
	cargo llvm-cov nextest
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pytest-cov
	$(BIN)/python -m pytest --cov=lmkit --cov-branch -m "not slow and not gpu and not peers"

docs: setup  ## Build the documentation site in site/, strictly: a link that leads nowhere is an error.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: setup  ## Build wheel and sdist, install each in an empty environment and run README's commands there.
	rm -rf dist
	PYO3_PYTHON=$(abspath $(BIN)/python) $(BIN)/maturin build --release --locked --sdist --out dist
	$(BIN)/python tests/try_package.py --python $(PYTHON) dist/*.whl dist/*.tar.gz
	@ls -l dist

clean:  ## Remove what was built (not .venv).
	rm -rf target fuzz/target dist site python/lmkit/_core*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
