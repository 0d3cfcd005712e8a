# make demo      answer examples/prompts.jsonl with the example model, its KV cache on disk
# make test      the tests (under 15 minutes on 2 cores)
# make test-all  also the slow ones: transformers live, kill -9 at 100 points
#                of a store and 20 of a job, sanitizers
# make lint      ruff, pyright, clang-format, warnings as errors in the C++ and its tests,
#                clang's check of who holds which lock
# Each installs what it needs the first time: Debian packages where we are root, .venv, the engine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo
ENGINE_SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc hls_kernels -path '*/tests' -prune -o -name '*.cc' -print -o -name '*.cpp' -print -o -name '*.h' -print -o -name CMakeLists.txt -print)
PIP := $(BIN)/pip install -q --disable-pip-version-check

.PHONY: FORCE install demo test test-all lint format clean

install: $(VENV)/installed

$(VENV)/system-packages:
	sh .ci/system-packages
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	touch $@

# What the build needs is installed first and the build not isolated, so that the next one is quick.
# It takes the FFI headers of this environment's jax; a wheel takes those of the oldest one.
$(VENV)/build-tools: $(VENV)/system-packages
	$(PIP) 'scikit-build-core>=0.11' 'nanobind>=2.9' cmake ninja 'jax>=0.10'
	touch $@

$(VENV)/installed: $(VENV)/build-tools $(ENGINE_SOURCES) $(VENV)/modules
	$(PIP) --no-build-isolation -e '.[all]'
	touch $@

# An editable install knows the modules that there were: it is made anew when one comes or goes.
$(VENV)/modules: FORCE | $(VENV)/system-packages
	@find nspjax -name '*.py' | sort > $@.new; cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(VENV)/test-tools: $(VENV)/installed
	$(PIP) --group test
	touch $@

$(VENV)/lint-tools: $(VENV)/installed
	$(PIP) --group lint
	touch $@

$(VENV)/oracle: $(VENV)/installed
	$(PIP) torch==2.13.0 || $(PIP) torch
	$(PIP) --group oracle
	touch $@

demo: $(VENV)/installed
	mkdir -p $(DEMO)/kv
	$(BIN)/nspjax run-batch -i examples/prompts.jsonl -o $(DEMO)/answers.jsonl --overwrite \
	    --model examples/tiny-python-llama --store $(DEMO)/kv
	$(BIN)/python examples/show_answers.py examples/prompts.jsonl $(DEMO)/answers.jsonl

test: $(VENV)/test-tools
	$(BIN)/python -m pytest -n 2

test-all: $(VENV)/test-tools $(VENV)/oracle
	$(BIN)/python -m pytest -n 2 -m 'slow or not slow' --timeout 3600
	sh csrc/tests/sanitize.sh $(BIN)/python

lint: $(VENV)/lint-tools
	mkdir -p build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/clang-format --dry-run --Werror $$(find csrc hls_kernels tests -name '*.cc' -o -name '*.cpp' -o -name '*.h')
	$(BIN)/cmake -S . -B build/lint -G Ninja -DNSPJAX_WERROR=ON -DNSPJAX_CPP_TESTS=ON \
	    -DPython_EXECUTABLE=$(abspath $(BIN)/python) -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	    >build/lint.log || { cat build/lint.log; exit 1; }
	$(BIN)/cmake --build build/lint
	sh csrc/tests/thread_safety.sh $(abspath $(BIN)/clang-tidy) build/lint

format: $(VENV)/lint-tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(find csrc hls_kernels tests -name '*.cc' -o -name '*.cpp' -o -name '*.h')

clean:
	rm -rf build $(VENV)
