# `make demo` and `make test` set everything up by themselves: a virtual environment with pinned packages.
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 2
# Keep freed memory in the process: large tensors come and go every step, and giving them back costs page faults.
KEEP_MEMORY := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=1000000000 GLIBC_TUNABLES=glibc.malloc.hugetlb=1

.PHONY: help setup demo test test-slow test-browser test-harness lint format train-bundled evaluate methods ablations bench bench-serve constraints clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

setup: $(STAMP)  ## make the virtual environment

$(STAMP): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,plot,dev]'
	touch $(STAMP)

demo: $(STAMP)  ## ten questions over the sample documents, and what left the machine
	$(BIN)/dprag demo

test: $(STAMP)  ## the whole suite, less what takes minutes
	$(BIN)/python -m pytest -m 'not slow'

test-slow: $(STAMP)  ## what takes minutes
	$(BIN)/python -m pytest -m slow

test-browser: $(STAMP)  ## the page in a headless Chromium (needs one: apt install chromium); screenshots in build/screenshots
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	$(BIN)/python -m pytest tests/browser

test-harness: $(STAMP)  ## lm-evaluation-harness with our model class
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lm-eval]'
	$(BIN)/python -m pytest tests/evaluation/test_harness.py

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check src tests benchmarks scripts examples
	$(BIN)/ruff format --check src tests benchmarks scripts examples
	$(BIN)/mypy

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix src tests benchmarks scripts examples
	$(BIN)/ruff format src tests benchmarks scripts examples

train-bundled: $(STAMP)  ## train the bundled base and all generators from nothing (CPU, resumable), and ship them
	$(KEEP_MEMORY) $(BIN)/dprag train-base recipes/tiny-cpu-base.yaml --resume
	$(KEEP_MEMORY) $(BIN)/dprag train recipes/tiny-cpu.yaml --resume
	$(KEEP_MEMORY) $(BIN)/dprag train recipes/tiny-cpu-tail.yaml --resume
	$(KEEP_MEMORY) $(BIN)/dprag train recipes/tiny-cpu-tail-2.yaml --resume
	$(KEEP_MEMORY) $(BIN)/dprag train recipes/tiny-cpu-paper.yaml --resume
	$(KEEP_MEMORY) $(BIN)/dprag train recipes/baselines/dyprag-tiny-cpu.yaml --resume
	$(BIN)/dprag ship runs/tiny-cpu-base/model runs/tiny-cpu-tail-2/model --rival runs/tiny-cpu-paper/model --rival runs/dyprag-tiny-cpu/model

evaluate: $(STAMP)  ## the bundled model's table, with JSON
	$(KEEP_MEMORY) $(BIN)/dprag evaluate --world --json docs/results/world.json
	$(BIN)/python scripts/make_tables.py

methods: $(STAMP)  ## every method in every cell of the record world, as a report (half an hour)
	$(KEEP_MEMORY) $(BIN)/dprag evaluate recipes/evaluation/world-tiny-cpu.yaml
	$(BIN)/dprag report runs/evaluate-world-tiny-cpu --out docs/results/methods

ablations: $(STAMP)  ## losses, mask and training data of both generators: train, measure, report (an hour, resumable)
	$(KEEP_MEMORY) $(BIN)/python scripts/run_ablations.py

bench: $(STAMP)  ## measure speed; JSON in docs/results
	$(BIN)/python benchmarks/latency.py

bench-serve: $(STAMP)  ## measure the engine under load (half an hour); JSON, pictures and a table in docs/results
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/serve.py --tokens 32 --ranks 2 --result docs/results/serve-short.json
	$(BIN)/python scripts/make_serve_table.py

constraints: $(STAMP)  ## pin what is installed now
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' > constraints.txt

clean:  ## remove the environment and caches, not your runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
