# make demo: the pipeline on this machine; make test: the test suite; make lint: ruff and mypy; make docs: the site
# make test-lowest: the fast tests on the lowest versions that setup.cfg allows; make test-vllm: those against vLLM
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
VLLM := .venv-vllm
STAMP := $(VENV)/.installed

.PHONY: demo test test-lowest vllm test-vllm lint format docs clean

demo: $(STAMP)
	$(BIN)/lmrc demo

# Two processes, each with whole test files; then the tests on SLURM, even if the others failed.
# PYTEST_ARGS runs a single pytest with these arguments instead.
test: $(STAMP)
ifdef PYTEST_ARGS
	$(BIN)/pytest $(PYTEST_ARGS)
else
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --ignore tests/slurm; others=$$?; \
	$(BIN)/pytest --numprocesses 2 --dist loadfile tests/slurm; slurm=$$?; [ $$others -eq 0 ] && [ $$slurm -eq 0 ]
endif

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The fast tests in an environment of its own, with the versions of constraints-lowest.txt.
test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest --numprocesses 2 --dist loadfile -m "not slow and not slurm" \
	  --ignore tests/slurm $(PYTEST_ARGS)

$(LOWEST)/.installed: setup.cfg constraints-lowest.txt requirements-embedded.txt
	@echo "Making $(LOWEST) (about two minutes, 2 GB)"
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet $(TORCH)
	$(LOWEST)/bin/pip install --quiet --constraint constraints-lowest.txt --editable . \
	  pytest pytest-timeout pytest-xdist hypothesis requests scikit-learn
	$(LOWEST)/bin/pip install --quiet --no-deps --requirement requirements-embedded.txt
	touch $@

# vLLM's build for CPUs and the suite in an environment of their own: vLLM needs other versions of torch and transformers.
vllm: $(VLLM)/.installed

# One process: the tests share one engine. A CPU waits for its slowest thread, so each has a core of its own.
test-vllm: $(VLLM)/.installed
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -m vllm tests/rc/decoding $(PYTEST_ARGS)

$(VLLM)/.installed: setup.cfg constraints-vllm.txt requirements-embedded.txt
	@echo "Making $(VLLM) (two to ten minutes, 4 GB)"
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet $(TORCH)
	$(VLLM)/bin/pip install --quiet --no-deps --requirement constraints-vllm.txt
	$(VLLM)/bin/pip install --quiet --no-deps --editable . --requirement requirements-embedded.txt
	touch $@

# The documentation as a site, in site/.
docs: $(STAMP)
	$(BIN)/mkdocs --version >/dev/null 2>&1 || $(BIN)/pip install --quiet --constraint constraints.txt --editable .[docs]
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# torch first and in an exact version: a dependency on "torch" would otherwise pull CUDA libraries of several GB.
# TORCH="torch==2.13.0 --index-url …" selects another build, such as one for your CUDA.
TORCH ?= torch==2.13.0
VERSION := import sys; print("%d.%d" % sys.version_info[:2])
RECENT := import sys; sys.exit(sys.version_info < (3, 10))
# make demo PYTHON=python3.12 recreates the environment if it has another Python version.
ifneq ($(origin PYTHON),file)
ifneq ($(shell $(PYTHON) -c '$(VERSION)' 2>&1),$(shell $(BIN)/python -c '$(VERSION)' 2>&1))
.PHONY: $(STAMP)
endif
endif
$(STAMP): setup.cfg pyproject.toml constraints.txt requirements-embedded.txt
	@if [ "$(origin PYTHON)" != file ] || ! $(BIN)/python -c '$(RECENT)' 2>/dev/null; then \
	  $(PYTHON) -c '$(RECENT)' 2>/dev/null || { \
	    found=$$(command -v $(PYTHON) >/dev/null && $(PYTHON) --version 2>&1 || echo not there); \
	    echo "Error: expected Python 3.10 or newer, but $(PYTHON) is $$found:" \
	      "type make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }; \
	  [ "$$($(PYTHON) -c '$(VERSION)')" = "$$($(BIN)/python -c '$(VERSION)' 2>/dev/null)" ] || rm -rf $(VENV); \
	  echo "Making $(VENV) (about two minutes, 2 GB)"; \
	  $(PYTHON) -m venv $(VENV); \
	fi
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[dev]
	$(BIN)/pip install --quiet --no-deps --requirement requirements-embedded.txt
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) $(VLLM) .pytest_cache .mypy_cache .ruff_cache site
