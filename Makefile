# make demo   the whole chain on this machine      make test   the test suite      make lint   ruff and mypy
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint format clean

demo: $(STAMP)
	$(BIN)/lmrc demo

# Two at a time, a file's tests in one process; then those on a SLURM, which wait for it as much as they
# compute. Both run whatever becomes of the first. PYTEST_ARGS chooses for oneself: one pytest with these words.
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

# torch first and by its exact version: another package asking for "torch" would pull CUDA libraries of several GB.
# TORCH="torch==2.13.0 --index-url …" takes another build, such as one for your CUDA.
TORCH ?= torch==2.13.0
VERSION := import sys; print("%d.%d" % sys.version_info[:2])
RECENT := import sys; sys.exit(sys.version_info < (3, 10))
# A Python that is named (make demo PYTHON=python3.12) makes the environment anew if its Python is another one.
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
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
