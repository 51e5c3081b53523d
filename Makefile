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
$(STAMP): setup.cfg pyproject.toml constraints.txt requirements-embedded.txt
	@echo "Making $(VENV) (about two minutes, 2 GB)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[dev]
	$(BIN)/pip install --quiet --no-deps --requirement requirements-embedded.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
