# mambaport: `make wheels PROFILE=rpi` runs the main job, `make test` the tests. `make help` lists the rest.

PYTHON  ?= python3
PROFILE ?= rpi
# A variant of the profile, such as jetpack7; empty for its default.
VARIANT ?=
# A release line, such as 2.3; empty for the default line.
LINE    ?=
# The newest torch that the numeric tests were run with; on aarch64, the newest torch that runs on a Cortex-A72.
TORCH   ?= $(if $(filter aarch64,$(shell uname -m)),torch==2.9.1,torch==2.13.0)
# Where pip finds a CPU build of torch: empty, or options such as --index-url URL or --find-links DIR.
TORCH_FROM ?=

TOOL    := .venv
NUMERIC := .venv-numeric
# pip shows errors but no warnings (an index that does not answer, running as root).
QUIETLY := -qq --disable-pip-version-check
PYTEST  := $(TOOL)/bin/pytest
# NUMERIC may be an absolute path too.
export MAMBAPORT_TEST_TORCH := $(abspath $(NUMERIC))/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup wheels kernels test-kernels test-compilers test-sanitizers test test-in-turn test-unit test-integration test-target test-levels test-numeric test-line test-transformers test-onnx test-gpu test-jetson test-hostile test-fleet test-pythons production packages coverage lint format docs picture bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  PROFILE=$(PROFILE)  LINE=$(LINE)  PYTHON=$(PYTHON)  TORCH=$(TORCH)"

# Without Debian's python3-venv, ensurepip is missing; then the system's pip installs pip into the environment.
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
	@$(NUMERIC)/bin/python -m pip install $(QUIETLY) $(TORCH_FROM) '$(TORCH)' numpy einops packaging pillow safetensors transformers peft torchao bitsandbytes lycoris-lora onnx onnxscript onnxruntime pytest hypothesis
	@touch $@

setup: $(TOOL)/.tool ## install mambaport into .venv

wheels: $(TOOL)/.tool ## build, audit and collect the wheels of PROFILE in wheelhouse/PROFILE/
	@$(TOOL)/bin/mambaport build --profile $(PROFILE) $(if $(VARIANT),--variant $(VARIANT)) $(if $(LINE),--line $(LINE))

kernels: $(TOOL)/.test ## compile the CPU kernels of this checkout in place, for this machine
	cd kernels && ../$(TOOL)/bin/python -m mambaport_build

# Which tests, in pytest's words, such as "-k norm"; empty for all.
TESTS ?=
test-kernels: kernels $(NUMERIC)/.numeric ## compile the kernels in place and test them alone, after each change of C; TESTS="-k norm"
	cd kernels/tests && PYTHONPATH=.. "$$MAMBAPORT_TEST_TORCH" -m pytest --quiet . $(TESTS)

# Compilers to test, such as "gcc-11 clang-19"; empty for all compilers of this machine.
COMPILERS ?=
test-compilers: $(TOOL)/.test $(NUMERIC)/.numeric ## test the kernels with each C compiler of this machine: -Werror, equal results, all tests
	$(NUMERIC)/bin/python kernels/tests/compilers.py --builder $(TOOL)/bin/python --test $(COMPILERS)

test-sanitizers: $(TOOL)/.test $(NUMERIC)/.numeric ## run the kernels' tests under ASan and UBSan, on each instruction set
	$(NUMERIC)/bin/python kernels/tests/compilers.py --builder $(TOOL)/bin/python --sanitize --test $(COMPILERS)

# More targets for CI, which need no environment with torch.
BESIDE ?=
# The longest first; make starts the next suite when one ends.
test: $(TOOL)/.test $(NUMERIC)/.numeric ## run all tests that this machine can run
	@echo "test     two suites at a time; the output of a suite comes when the suite ends"
	@$(MAKE) --jobs=2 --output-sync=line --no-print-directory --keep-going test-integration test-target test-in-turn $(BESIDE) test-unit

# These change one environment. The suites beside them read its torch, and none of its wheels, except where a variable
# such as MAMBAPORT_TEST_VIM names a checkout: then run `make test-integration` alone.
test-in-turn:
	$(MAKE) test-numeric
	$(MAKE) test-line

test-unit: $(TOOL)/.test ## run the unit tests: seconds, no network
	$(PYTEST) tests/unit

test-integration: $(TOOL)/.test $(NUMERIC)/.numeric ## test real fetches, builds and installations
	$(PYTEST) tests/integration

test-target: $(TOOL)/.test ## test the wheels on emulated aarch64
	$(PYTEST) tests/target

test-levels: $(TOOL)/.test ## test every component of rpi's wheels on emulated CPUs: Cortex-A72, A76, Neoverse N1, N2 (minutes)
	MAMBAPORT_TEST_LEVELS=1 $(PYTEST) tests/target/test_levels.py

# Beside another suite, waiting threads of OpenMP would spin on the core that the other suite needs.
test-numeric test-line: export GOMP_SPINCOUNT ?= 1000

test-numeric: $(TOOL)/.tool $(NUMERIC)/.numeric ## test every function of the wheels of LINE against float64 references
	$(TOOL)/bin/mambaport install --profile cpu $(if $(LINE),--line $(LINE)) --python $(NUMERIC)/bin/python
	cd tests/numeric && "$$MAMBAPORT_TEST_TORCH" -m pytest .
	cd kernels/tests && "$$MAMBAPORT_TEST_TORCH" -m pytest --hypothesis-profile=thorough . # the kernels in the installed wheels
	cd tests/gpu && MAMBAPORT_TEST_DEVICE=cpu "$$MAMBAPORT_TEST_TORCH" -m pytest . # test the GPU tests on the CPU

TRANSFORMERS := cd tests/transformers && OMP_NUM_THREADS=1 "$$MAMBAPORT_TEST_TORCH" -m pytest
test-transformers: $(TOOL)/.tool $(NUMERIC)/.numeric ## test every model of transformers 5 that calls the packages, on both lines
	for line in default 2.3; do \
	  $(TOOL)/bin/mambaport install --profile cpu $$(test $$line = default || echo --line $$line) --python $(NUMERIC)/bin/python && \
	  ($(TRANSFORMERS) .) || exit 1; done

LINE_TESTS := test_imports.py test_every_function.py test_generation.py test_line_2_3.py test_mamba3.py test_one_call_steps.py
# What the lines share, kernels included, `make test-numeric` tests; `make test-numeric LINE=2.3` tests all on that line.
test-line: $(TOOL)/.tool $(NUMERIC)/.numeric ## test line 2.3 in short: imports, each function, what differs from the default line, transformers in short
	$(TOOL)/bin/mambaport install --profile cpu --line 2.3 --python $(NUMERIC)/bin/python
	cd tests/numeric && "$$MAMBAPORT_TEST_TORCH" -m pytest $(LINE_TESTS)
	$(TRANSFORMERS) --short .

test-onnx: $(TOOL)/.tool $(NUMERIC)/.numeric ## test the export to ONNX, the long tests too
	$(TOOL)/bin/mambaport install --profile cpu $(if $(LINE),--line $(LINE)) --python $(NUMERIC)/bin/python
	cd tests/numeric && MAMBAPORT_TEST_ONNX=1 "$$MAMBAPORT_TEST_TORCH" -m pytest test_onnx.py test_onnx_files.py

test-gpu: $(TOOL)/.tool $(NUMERIC)/.numeric ## build wheels for this machine's NVIDIA GPU, prove and test them
	$(TOOL)/bin/mambaport install --profile cuda $(if $(LINE),--line $(LINE)) --python $(NUMERIC)/bin/python
	cd tests/gpu && "$$MAMBAPORT_TEST_TORCH" -m pytest .

test-jetson: $(TOOL)/.test ## build the wheels for JetPack 6 and 7, and run those for JetPack 7 under emulation
	$(TOOL)/bin/mambaport build --profile jetson --variant jetpack6 $(if $(LINE),--line $(LINE))
	$(TOOL)/bin/mambaport build --profile jetson --variant jetpack7 $(if $(LINE),--line $(LINE))
	MAMBAPORT_TEST_JETSON_WHEELS=wheelhouse/jetson-jetpack7 $(TOOL)/bin/pytest tests/target/test_jetson.py

test-hostile: $(TOOL)/.test ## attack the audit and every reader of files, kill commands; MAMBAPORT_HOSTILE=short or night sets the duration
	MAMBAPORT_TEST_DAMAGES=250 $(TOOL)/bin/pytest tests/unit/test_damage.py
	$(TOOL)/bin/pytest tests/hostile

$(TOOL)/.fleet: $(TOOL)/.test
	@echo "setup    ansible into $(TOOL)/"
	@PYTHONWARNINGS=ignore $(TOOL)/bin/python -m pip install $(QUIETLY) --editable '.[fleet]'
	@touch $@

test-fleet: $(TOOL)/.fleet $(NUMERIC)/.numeric ## test the Ansible collection on three hosts behind sshd, one of them emulated aarch64
	$(PYTEST) -s tests/fleet

production: $(TOOL)/.test $(NUMERIC)/.numeric ## matrix, wheels of rpi and cpu, emulated proof, index, server, installations, pictures
	$(TOOL)/bin/python tests/production.py $(LINE)

# For every Python from 3.10 on and every platform: a workflow's runner may change, and the tests use this machine's.
PINNED := $(TOOL)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.10 --only-binary :all: --generate-hashes --no-annotate --custom-compile-command "make packages"
packages: $(TOOL)/.test ## renew what the workflows install, versions and digests: .github/packages.txt, and signer.txt for the jobs that sign
	@printf '%s\n' build setuptools | $(PINNED) --extra attest --output-file .github/packages.txt pyproject.toml -
	@echo pypi-attestations | $(PINNED) --output-file .github/signer.txt -

# Interpreters to test, such as "/opt/python3.14t/bin/python3.14t"; empty for all that are found.
PYTHONS ?=
test-pythons: $(TOOL)/.test ## test the CPU wheels' tag, modules and kernels on every CPython from 3.10 on that is found
	$(TOOL)/bin/python tests/pythons.py $(PYTHONS)

# The suites that coverage is measured over together. The emulated tests begin first.
SUITES ?= target unit integration
coverage: $(TOOL)/.test $(NUMERIC)/.numeric ## measure which lines of mambaport the suites run, subprocesses too; SUITES=unit for one
	@mkdir -p build/coverage && rm -f build/coverage/data*
	@$(MAKE) --jobs=2 --output-sync=line --no-print-directory --keep-going PYTEST="$(TOOL)/bin/coverage run -m pytest" $(SUITES:%=test-%) || failed=1; \
	  $(TOOL)/bin/coverage combine --quiet && $(TOOL)/bin/coverage report; exit $${failed:-0}

C_SOURCES := $(wildcard kernels/csrc/*/*.[ch] kernels/csrc/*/operators/*.c)
lint: $(TOOL)/.test ## run ruff, strict mypy, clang-format, and zizmor on the workflows
	$(TOOL)/bin/ruff check .
	$(TOOL)/bin/clang-format --dry-run -Werror $(C_SOURCES)
	@! grep --line-number --extended-regexp '.{121}' $(C_SOURCES) || { echo "lines of C have at most 120 columns"; exit 1; }
	$(TOOL)/bin/ruff format --check toolchain tests/unit tests/integration tests/target tests/fleet kernels/binding kernels/*_cpu kernels/mambaport_onnx kernels/tests
	$(TOOL)/bin/mypy
	$(TOOL)/bin/zizmor --offline --no-progress --quiet .github deploy

format: $(TOOL)/.test ## format the code
	$(TOOL)/bin/ruff format toolchain tests/unit tests/integration tests/target tests/fleet kernels/binding kernels/*_cpu kernels/mambaport_onnx kernels/tests
	$(TOOL)/bin/ruff check --fix .
	$(TOOL)/bin/clang-format -i $(C_SOURCES)

docs: $(TOOL)/.tool ## write docs/reference from the code
	$(TOOL)/bin/python docs/generate.py

picture: $(TOOL)/.tool ## record the README's picture of a build and an audit
	$(TOOL)/bin/python docs/record.py

bench: $(TOOL)/.tool $(NUMERIC)/.numeric ## time the kernels and other implementations side by side; build/benchmarks/results.html has the plots
	$(TOOL)/bin/mambaport install --profile cpu --python $(NUMERIC)/bin/python
	$(NUMERIC)/bin/python -m benchmarks
	$(NUMERIC)/bin/python -m benchmarks.length
	$(TOOL)/bin/python -m benchmarks.page build/benchmarks

clean: ## remove what was built in the checkout; `mambaport cache clean` empties the store
	rm -rf $(TOOL) $(NUMERIC) wheelhouse build dist kernels/build kernels/*/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
