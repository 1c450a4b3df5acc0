# make demo: the main job on the embedded default.   make test: the tests.   Both do all their set-up in .venv and models/.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
PINS := --no-deps --require-hashes -r requirements/cpu.txt -r requirements/torch.txt
RECIPE ?= hf_recipes/recipes/tweets-demo.yaml

.PHONY: demo test test-slow bench gpu-check lint pins audit dist clean

demo: .venv/installed models/demo
	$(BIN)/hf-recipes run $(RECIPE)

test: .venv/installed-dev .venv/browser models/for-tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# soaks: half an hour
test-slow: .venv/installed-dev .venv/browser models/for-tests
	$(BIN)/python -m pytest -m slow

# every benchmark at small sizes, and one table of ratios: three quarters of an hour on two idle cores
bench: .venv/installed-dev .venv/browser models/for-tests
	$(BIN)/python benchmarks/all.py

# In an environment for a GPU (docs/scaling.md), without a network: 8 minutes at most. `--cpu` checks the check itself.
gpu-check:
	$(PYTHON) benchmarks/gpu_check.py

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# After a change of requirements/*.in: every pin with the hashes of all its files.
pins: .venv/installed
	$(PIP) --require-hashes -r requirements/uv.txt
	for set in cpu dev mcp uv audit; do $(BIN)/uv pip compile -q --no-deps --generate-hashes --no-annotate --python-version 3.11 \
	  --custom-compile-command "make pins" requirements/$$set.in -o requirements/$$set.txt || exit; done
	cp requirements/cpu.txt requirements/gpu.txt # uv prefers the versions that it finds there
	$(BIN)/uv pip compile -q --generate-hashes --no-annotate --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  --custom-compile-command "make pins" setup.py requirements/gpu.in -o requirements/gpu.txt

# Known vulnerabilities of the pins; fails if there are no records of one. What is to be said of findings: docs/dev/dependencies.md.
audit: .venv/installed
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install -qq --no-deps --require-hashes -r requirements/audit.txt
	.venv/audit/bin/pip-audit --strict --disable-pip -r requirements/cpu.txt -r requirements/gpu.txt

# Wheel and sdist in dist/; the wheel is installed, with the pins, into an environment of its own, and used from there.
dist: .venv/installed-dev models/for-tests
	rm -rf build dist
	$(BIN)/python -m build --no-isolation
	$(PYTHON) -m venv dist/.venv
	dist/.venv/bin/python -m pip install -qq $(PINS)
	dist/.venv/bin/python -m pip install -qq --no-deps dist/*.whl
	cd dist && .venv/bin/python -I ../tests/installed.py ../models

# pip finds the CPU build of torch where it is at hand as a file; uv knows where to find it anywhere else.
.venv/installed: requirements/cpu.txt requirements/torch.txt setup.py
	$(PYTHON) -m venv .venv
	@echo "installing the pinned packages into .venv: 2-3 minutes, 3.3 GB"
	$(PIP) $(PINS) || { \
	  $(PIP) --require-hashes -r requirements/uv.txt && \
	  $(BIN)/uv pip install -q --python $(BIN)/python --torch-backend=cpu $(PINS); }
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/installed-dev: .venv/installed requirements/dev.txt requirements/mcp.txt
	$(PIP) --no-deps --require-hashes -r requirements/dev.txt
	$(PIP) --no-deps --require-hashes --upgrade --target .venv/mcp -r requirements/mcp.txt
	@touch $@

# The metrics' pages are tested in a real browser, with fonts for its screenshots.
.venv/browser: | .venv/installed
	@command -v chromium > /dev/null || (apt-get update -qq && apt-get install -y -qq chromium fonts-dejavu-core) || \
	  { echo "the tests need the command chromium: install it by your system's packages"; exit 1; }
	@touch $@

models/demo: dataset_scripts/fetch_demo_models.py | .venv/installed
	$(BIN)/python dataset_scripts/fetch_demo_models.py models
	@touch $@

models/for-tests: dataset_scripts/fetch_demo_models.py | .venv/installed
	$(BIN)/python dataset_scripts/fetch_demo_models.py models --small
	@touch $@

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
