# `make demo` shows what attngen does, `make test` runs everything that needs no GPU. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
SPECS = $(sort $(wildcard specs/*.yaml))
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help venv demo test lint test-gpu gpu-check audit test-asan test-triton golden generated docs wheel clean

help:
	@echo "make demo         build specs/sigmoid.yaml, verify the op, show what was made"
	@echo "make test         linter, types, import layers, tests, and generated/ against specs/"
	@echo "make test-gpu     the tests that need a GPU, on some ops; GPU_TESTS=--all-specs runs all of them"
	@echo "make gpu-check    those tests in parallel processes and a bench, with time bounds; into OUT=build/gpu"
	@echo "make audit        every shipped op's machine code for sm_90, into benchmarks/results/"
	@echo "make test-asan    the native kernels' tests under AddressSanitizer and UBSan"
	@echo "make test-triton VERSION=3.6.0   the tests of kernels and of their tools under another Triton"
	@echo "make golden       write the golden files anew; read the difference before you commit it"
	@echo "make generated    build specs/ into generated/"
	@echo "make docs         write docs/normalizers.md from specs/"
	@echo "make wheel        dist/*.whl"

venv: .venv/.installed

# torch first and alone, so that a CPU build at hand (find-links) is taken before anything asks for another one.
.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt hatchling
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

demo: venv
	$(BIN)/attngen build specs/sigmoid.yaml -o demo-out
	$(BIN)/attngen verify specs/sigmoid.yaml --examples 20
	$(BIN)/python examples/demo.py demo-out/sigmoid.py

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint
	$(PYTEST) -n 2
	$(BIN)/attngen build --check $(SPECS) -o generated

test-gpu: venv
	$(PYTEST) -m gpu $(GPU_TESTS)

gpu-check: venv
	$(BIN)/python benchmarks/on_gpu.py --out $(or $(OUT),build/gpu) check:9 compile:2 kernels:7

audit: venv
	$(BIN)/python benchmarks/audit_specs.py

# AddressSanitizer and UBSan over the native kernels' tests; without a compiler's libasan they are skipped.
ASAN = $(shell $(or $(CXX),c++) -print-file-name=libasan.so)
test-asan: venv
	ATTNGEN_CXXFLAGS="-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined" LD_PRELOAD="$(ASAN)" \
		ASAN_OPTIONS=detect_leaks=0 $(PYTEST) tests/cpu/test_native.py

test-triton: venv
	@test -n "$(VERSION)" || { echo "say which: make test-triton VERSION=3.6.0" >&2; exit 2; }
	test -d .venv-triton/$(VERSION) || { rm -rf .venv-triton/part && $(BIN)/python -m pip install -q --no-deps \
		--target .venv-triton/part triton==$(VERSION) && mv .venv-triton/part .venv-triton/$(VERSION); }
	PYTHONPATH=.venv-triton/$(VERSION) $(PYTEST) -n 2 -k kernels tests/kernels tests/ops tests/properties

golden: venv
	$(PYTEST) tests/golden --update-golden

generated: venv
	$(BIN)/attngen build $(SPECS) -o generated

docs: venv
	$(BIN)/attngen list --markdown > docs/normalizers.md.new && mv docs/normalizers.md.new docs/normalizers.md

wheel: venv
	$(BIN)/python -m hatchling build -t wheel

clean:
	rm -rf build dist demo-out .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
