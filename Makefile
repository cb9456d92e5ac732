# mambaport: `make wheels PROFILE=rpi` runs the main job, `make test` the tests. `make help` lists the rest.

PYTHON  ?= python3
PROFILE ?= rpi
# A variant of the profile, such as jetpack7; empty for its default.
VARIANT ?=
# The newest that the numeric tests were run with; on aarch64, the newest that runs on a Cortex-A72.
TORCH   ?= $(if $(filter aarch64,$(shell uname -m)),torch==2.9.1,torch==2.13.0)
# Where pip finds a CPU build of torch: empty, or options such as --index-url URL or --find-links DIR.
TORCH_FROM ?=

TOOL    := .venv
NUMERIC := .venv-numeric
# Errors are shown; what pip warns of (an index that is not there, running as root) is not.
QUIETLY := -qq --disable-pip-version-check
export MAMBAPORT_TEST_TORCH := $(CURDIR)/$(NUMERIC)/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup wheels kernels test-kernels test-compilers test-sanitizers test test-unit test-integration test-target test-numeric test-gpu test-jetson test-hostile lint format docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  PROFILE=$(PROFILE)  PYTHON=$(PYTHON)  TORCH=$(TORCH)"

# Without Debian's python3-venv there is no ensurepip; then pip is brought by the system's own.
$(TOOL)/bin/python $(NUMERIC)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "mambaport needs Python 3.10 or newer, $(PYTHON) is not; name one: make PYTHON=python3.11 ..."; exit 12; }
	@$(PYTHON) -m venv $(dir $(@D)) >/dev/null 2>&1 || { \
	  $(PYTHON) -m venv --clear --without-pip $(dir $(@D)) && \
	  $(PYTHON) -m pip --python $@ install $(QUIETLY) pip; } || \
	  { rm -rf $(dir $(@D)); echo "no virtual environment: sudo apt-get install python3-venv python3-pip"; exit 12; }

$(TOOL)/.tool: pyproject.toml setup.py | $(TOOL)/bin/python
	@echo "setup    mambaport into $(TOOL)/"
	@PYTHONWARNINGS=ignore $(TOOL)/bin/python -m pip install $(QUIETLY) --editable .
	@touch $@

$(TOOL)/.test: $(TOOL)/.tool
	@echo "setup    test and lint tools into $(TOOL)/"
	@PYTHONWARNINGS=ignore $(TOOL)/bin/python -m pip install $(QUIETLY) --editable '.[run,test,lint]'
	@touch $@

$(NUMERIC)/.numeric: pyproject.toml Makefile | $(NUMERIC)/bin/python
	@echo "setup    $(TORCH) into $(NUMERIC)/ (the README says how to get its small CPU build)"
	@$(NUMERIC)/bin/python -m pip install $(QUIETLY) $(TORCH_FROM) '$(TORCH)' numpy einops packaging pillow safetensors transformers pytest hypothesis
	@touch $@

setup: $(TOOL)/.tool ## install mambaport into .venv

wheels: $(TOOL)/.tool ## build, audit and collect the wheels of PROFILE in wheelhouse/PROFILE/
	@$(TOOL)/bin/mambaport build --profile $(PROFILE) $(if $(VARIANT),--variant $(VARIANT))

kernels: $(TOOL)/.test ## compile the CPU kernels of this checkout in place, for this machine
	cd kernels && ../$(TOOL)/bin/python -m mambaport_build

test-kernels: kernels $(NUMERIC)/.numeric ## the kernels alone, compiled in place: the loop of changing C and testing it
	cd kernels/tests && PYTHONPATH=.. ../../$(NUMERIC)/bin/python -m pytest --quiet .

# Compilers to try, such as "gcc-11 clang-19"; empty for all of this machine.
COMPILERS ?=
test-compilers: $(TOOL)/.test $(NUMERIC)/.numeric ## each C compiler of this machine: -Werror, the same bits, all tests
	$(NUMERIC)/bin/python kernels/tests/compilers.py --builder $(TOOL)/bin/python --test $(COMPILERS)

test-sanitizers: $(TOOL)/.test $(NUMERIC)/.numeric ## the kernels' tests under ASan and UBSan, on each instruction set
	$(NUMERIC)/bin/python kernels/tests/compilers.py --builder $(TOOL)/bin/python --sanitize $(COMPILERS)

test: test-unit test-integration test-target test-numeric ## all tests that this machine can run

test-unit: $(TOOL)/.test ## seconds, no network
	$(TOOL)/bin/pytest tests/unit

test-integration: $(TOOL)/.test $(NUMERIC)/.numeric ## real fetches, builds and installations
	$(TOOL)/bin/pytest tests/integration

test-target: $(TOOL)/.test ## the wheels on emulated aarch64
	$(TOOL)/bin/pytest tests/target

test-numeric: $(TOOL)/.tool $(NUMERIC)/.numeric ## every function against float64 references, on this machine's wheels
	$(TOOL)/bin/mambaport install --profile cpu --python $(NUMERIC)/bin/python
	cd tests/numeric && ../../$(NUMERIC)/bin/python -m pytest .
	cd kernels/tests && ../../$(NUMERIC)/bin/python -m pytest --hypothesis-profile=thorough . # the kernels of the wheels
	cd tests/gpu && MAMBAPORT_TEST_DEVICE=cpu ../../$(NUMERIC)/bin/python -m pytest . # the GPU's tests, tested

test-gpu: $(TOOL)/.tool $(NUMERIC)/.numeric ## wheels for this machine's NVIDIA GPU, built, proven and tested on it
	$(TOOL)/bin/mambaport install --profile cuda --python $(NUMERIC)/bin/python
	cd tests/gpu && ../../$(NUMERIC)/bin/python -m pytest .

test-jetson: $(TOOL)/.test ## whole CUDA builds for JetPack 6 and 7, the latter imported and run under emulation
	$(TOOL)/bin/mambaport build --profile jetson --variant jetpack6
	$(TOOL)/bin/mambaport build --profile jetson --variant jetpack7
	MAMBAPORT_TEST_JETSON_WHEELS=wheelhouse/jetson-jetpack7 $(TOOL)/bin/pytest tests/target/test_jetson.py

test-hostile: $(TOOL)/.test ## attacks on what must not let anything in; MAMBAPORT_HOSTILE=short or night sets how long
	$(TOOL)/bin/pytest tests/hostile

lint: $(TOOL)/.test ## ruff, strict mypy, and clang-format
	$(TOOL)/bin/ruff check .
	$(TOOL)/bin/clang-format --dry-run -Werror kernels/csrc/*/*.[ch]
	@! grep --line-number --extended-regexp '.{121}' kernels/csrc/*/*.[ch] || { echo "lines of C have at most 120 columns"; exit 1; }
	$(TOOL)/bin/ruff format --check toolchain tests/unit tests/integration tests/target kernels/binding kernels/*_cpu kernels/tests
	$(TOOL)/bin/mypy

format: $(TOOL)/.test ## format the code
	$(TOOL)/bin/ruff format toolchain tests/unit tests/integration tests/target kernels/binding kernels/*_cpu kernels/tests
	$(TOOL)/bin/ruff check --fix .
	$(TOOL)/bin/clang-format -i kernels/csrc/*/*.[ch]

docs: $(TOOL)/.tool ## write docs/reference from the code
	$(TOOL)/bin/python docs/generate.py

bench: $(TOOL)/.tool $(NUMERIC)/.numeric ## time the kernels beside their peers
	$(TOOL)/bin/mambaport install --profile cpu --python $(NUMERIC)/bin/python
	$(NUMERIC)/bin/python -m benchmarks

clean: ## remove what was built here; the store stays (mambaport cache clean)
	rm -rf $(TOOL) $(NUMERIC) wheelhouse build dist kernels/build kernels/*/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
