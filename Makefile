# Every target sets up what it needs: the environment in .venv is made when it is missing or older
# than what it was made from.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# Tests run in two processes, a file in one of them (the examples of a page go on from each other), with
# one thread of torch each; those that a test asks for do not spin. What the processes that tests start
# import is compiled once.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive PYTHONDONTWRITEBYTECODE= \
	$(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: train test check lint fuzz bench sanitize figures constraints clean

train: $(READY)  ## train a network on the text that every Python carries, and let it write
	$(BIN)/bptt train

test: $(READY)  ## run the tests, and the examples in README.md, docs/ and the docstrings
	$(PYTEST)

check: lint test  ## all that must hold on main

lint: $(READY)  ## lint, format, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: $(READY)  ## try 200,000 random calls and files; BPTT_FUZZ=N bounds each test
	BPTT_FUZZ=$${BPTT_FUZZ:-7000} $(PYTEST) tests/fuzz

bench: export GOMP_SPINCOUNT ?= 1000
bench: $(READY)  ## measure what the README claims, on this machine
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[peers]'
	$(BIN)/python benchmarks/kills.py
	$(BIN)/python benchmarks/endurance.py
	$(BIN)/python benchmarks/text.py
	$(BIN)/python benchmarks/network.py
	$(BIN)/python benchmarks/layers.py
	$(BIN)/python benchmarks/layers.py --threads 1
	$(BIN)/python benchmarks/steps.py
	$(BIN)/python benchmarks/cells.py
	$(BIN)/python benchmarks/half.py
	$(BIN)/python benchmarks/resets.py
	$(BIN)/python benchmarks/busy.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/forcing.py
	$(BIN)/python benchmarks/flow.py
	$(BIN)/python benchmarks/omega.py
	$(BIN)/python benchmarks/named_remedies.py
	$(BIN)/python benchmarks/parity.py
	$(BIN)/python benchmarks/series.py
	$(BIN)/python benchmarks/names.py
	$(BIN)/python benchmarks/trainer.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/reading.py
	$(BIN)/python benchmarks/panel.py

sanitize: $(READY)  ## run the kernel's tests once under AddressSanitizer and UBSan
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' \
		--config-settings=cmake.define.BPTT_SANITIZE=ON --config-settings=build-dir=build/sanitize
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0 $(BIN)/python -m pytest tests/kernel tests/fuzz/test_kernel.py tests/model/test_forcing.py; status=$$?; \
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'; exit $$status

figures: $(READY)  ## draw the figures of docs/ again; needs a Chrome or Chromium for the PNGs
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[figures]'
	for script in docs/figures/*.py; do $(BIN)/python $$script; done

$(READY): pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/bptt/kernel/native/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

constraints:  ## pin today's newest versions, but for torch
	rm -rf build/pins && $(PYTHON) -m venv build/pins
	build/pins/bin/python -m pip install --quiet torch==2.13.0 '.[dev,figures,peers]'
	echo '# The exact versions that make and CI install; written by "make constraints".' > constraints.txt
	build/pins/bin/python -m pip freeze --exclude bptt | sed 's/+cpu$$//' >> constraints.txt

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
