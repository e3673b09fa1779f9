# Two commands: `make demo` and `make test`. Both set up .venv from the hashed lock first.
PYTHON ?= python3
BIN := .venv/bin
CORES ?= 2
SNAKEMAKE := $(BIN)/snakemake --profile profiles/local --cores $(CORES)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo bench test test-statistics test-engines lint format docs lock clean

help: ## say what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

# uv where present, plain pip otherwise; every hash checked, wheels only. The exceptions come as
# source alone: pure Python that Snakemake needs, and Spark (Python and jars), which only
# `make test-engines` asks for.
WHEELS := --require-hashes --only-binary :all: --no-binary connection-pool --no-binary pyspark

define install
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@if command -v uv >/dev/null 2>&1 && uv pip install --quiet --compile-bytecode --python $(BIN)/python $(WHEELS) -r $(1); \
	then :; else $(BIN)/python -m pip install --quiet --disable-pip-version-check $(WHEELS) -r $(1); fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@
endef

.venv/run.done: envs/lock.txt pyproject.toml
	$(call install,envs/lock.txt)

.venv/dev.done: envs/lock-dev.txt pyproject.toml
	$(call install,envs/lock-dev.txt)

.venv/engines.done: envs/lock-engines.txt pyproject.toml
	$(call install,envs/lock-engines.txt)

setup: .venv/run.done ## install what a run needs into .venv

setup-dev: .venv/dev.done ## install what tests and checks need as well

demo: setup ## run the whole chain on a synthetic world, to results/demo/report.html
	$(SNAKEMAKE) --configfile config/demo.yaml
	$(SNAKEMAKE) --configfile config/demo.yaml --report results/demo/report.html
	@$(BIN)/python -m cryofuse.products.summary results/demo

bench: setup ## measure speed, memory and growth, to results/benchmarks (PARTS="read growth", QUICK=1)
	$(BIN)/python -m benchmarks $(PARTS) $(if $(QUICK),--quick)

test: setup-dev ## run the tests: unit, workflow, tiny end-to-end, real files
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-statistics: setup-dev ## test fits, learning and coupling against known truths
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/statistics

# Slurm and the browser beside the others: jobs of Slurm wait for most of the time.
test-engines: .venv/engines.done ## test runs against an archive and a Slurm on loopback, Spark, and the dashboard in a browser (installs 600 MB; needs Java 17 and chromium)
	@mkdir -p logs; $(BIN)/python -m pytest tests/slurm tests/browser > logs/tests-slurm.txt 2>&1 & slurm=$$!; \
	$(BIN)/python -m pytest tests/engines; engines=$$?; \
	wait $$slurm; slurm=$$?; cat logs/tests-slurm.txt; test $$engines = 0 && test $$slurm = 0

lint: setup-dev ## check style, types and the workflow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint --configfile config/demo.yaml

format: setup-dev ## rewrite sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

docs: setup-dev ## make the files generated from the models, and the rule graph, again
	$(BIN)/python -m cryofuse.reference_docs
	$(BIN)/snakemake --configfile config/demo.yaml --rulegraph mermaid-js --quiet all > docs/rulegraph.mmd

lock: ## resolve the locks again from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml -o envs/lock.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra dev -c envs/lock.txt pyproject.toml -o envs/lock-dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra dev --extra spark --extra browser -c envs/lock-dev.txt pyproject.toml -o envs/lock-engines.txt

clean: ## remove what the demo made
	rm -rf results/demo resources/demo logs/demo
