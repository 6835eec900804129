# make demo    environment, install and the main job, from nothing but Python 3.11+ and make
# make test    environment, install and the tests, on torch, jax and tensorflow
# make docs    environment, install and the documentation, in site/
# make release-check   the wheel and the sdist: built, checked, and tried in an empty environment
# Another Python: make demo PYTHON=python3.12. Another environment: make test VENV=/tmp/venv

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet
# Two processes of one thread each: most of a test is Python, which more threads don't run sooner.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal
# TensorFlow writes notes on its own build to stderr.
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help demo test test-slow test-tfio browser lint format docs bench dist release-check test-sdist clean

help:
	@sed -n 's/^# make /make /p' Makefile; echo "also: test-slow test-tfio test-sdist browser lint format bench dist clean"

$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing keras-birds into $(VENV), a few minutes"
	$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing keras-birds and what its tests need into $(VENV), a few minutes"
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.core

.venv-tfio/.installed: pyproject.toml constraints-tfio.txt
	$(PYTHON) -m venv .venv-tfio
	.venv-tfio/bin/pip --disable-pip-version-check install --quiet -c constraints-tfio.txt -e '.[tfio]' pytest pytest-timeout
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing keras-birds and what its documentation needs into $(VENV), a few minutes"
	$(PIP) -c constraints.txt -e '.[docs]'
	@touch $@ $(VENV)/.core

demo: $(VENV)/.core
	$(BIN)/keras-birds demo

test: $(VENV)/.dev
	$(PYTEST)
	KERAS_BACKEND=jax $(PYTEST) tests/test_backend_parity.py tests/test_nn_contrastive.py
	KERAS_BACKEND=tensorflow $(PYTEST) tests/test_backend_parity.py tests/test_nn_contrastive.py

test-slow: $(VENV)/.dev browser
	$(PYTEST) -m slow

# For the app's tests; without one they are skipped, and say so.
browser:
	@{ command -v chromium && command -v chromedriver; } >/dev/null || \
		{ apt-get update -qq && apt-get install -qq -y chromium chromium-driver >/dev/null; } || \
		echo "No chromium and chromedriver, and apt-get can't install them here"

test-tfio: .venv-tfio/.installed
	.venv-tfio/bin/pytest -m tfio tests/test_tfio.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Material tells of its successors at every build.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html"

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/start_time.py
	$(BIN)/python benchmarks/mel_speed.py
	$(BIN)/python benchmarks/train_speed.py
	$(BIN)/python benchmarks/epoch_speed.py
	$(BIN)/python benchmarks/contention.py
	$(BIN)/python benchmarks/predict_speed.py
	$(BIN)/python benchmarks/predict_files.py
	$(BIN)/python benchmarks/predict_memory.py
	$(BIN)/python benchmarks/kaggle_time.py
	$(BIN)/python benchmarks/ray_overhead.py
	$(BIN)/python benchmarks/contention.py

dist: $(VENV)/.dev
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

# What a stranger gets, by the wheel's own dependencies, and one answer of the model in the box.
release-check: dist
	$(PYTHON) -m venv build/stranger
	build/stranger/bin/pip --disable-pip-version-check install --quiet -c constraints.txt dist/*.whl
	build/stranger/bin/pip check
	cd build && stranger/bin/keras-birds --version
	cd build && stranger/bin/python -c 'import keras_birds.app.example as x; x.write_example("example.flac")'
	cd build && stranger/bin/keras-birds predict example.flac --model animals | tee answer.txt
	grep -q " 1  chirping_birds" build/answer.txt
	rm -rf build

# The fast tests of the unpacked sdist; those of real recordings beside a checkout are skipped.
test-sdist: dist
	rm -rf build && mkdir build && tar -xzf dist/*.tar.gz -C build --strip-components 1
	cd build && PYTHONPATH=. OMP_NUM_THREADS=1 $(abspath $(BIN))/pytest -n 2 --dist worksteal
	rm -rf build

clean:
	rm -rf $(VENV) .venv-tfio build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
