# `make run` and `make test` need git, make and Python 3.11 or newer, and nothing else. The tests against
# RabbitMQ, in a browser and with promtool are skipped where there is none.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# The first of these that is new enough; or say which: make PYTHON=/path/to/python3.12 test
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ARGS ?=
BROKER ?= nats

.PHONY: help run test check bench bench-quick bench-brokers soak soak-quick cluster soak-cluster leak-demo mutants docs format clean

help: ## Say what there is.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 22

run: $(VENV)/all ## Start the gateway with a simulated upstream. ARGS="--port 9000" sets options.
	@exec $(BIN)/python -m examples.gateway $(ARGS)

test: $(VENV)/test ## Run the whole test suite. ARGS="-k name" chooses, ARGS="-n 0" keeps it to one process.
	@.ci/debian rabbitmq-server=rabbitmq-server chromium=chromium promtool=prometheus
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/check $(VENV)/docs ## Lint, type-check, check the floors, build the docs.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python -m sphinx --fail-on-warning --quiet -b html docs docs/_build/html

docs: $(VENV)/docs ## Build the documentation into docs/_build/html.
	$(BIN)/python -m sphinx --fail-on-warning -b html docs docs/_build/html

bench: $(VENV)/bench ## Measure us beside what people write by hand; keeps benchmarks/results.json.
	$(BIN)/python -m benchmarks --json benchmarks/results.json $(ARGS)

bench-quick: $(VENV)/bench ## The same in a minute, as a smoke test.
	$(BIN)/python -m benchmarks --quick $(ARGS)

bench-brokers: $(VENV)/bench $(VENV)/test ## Measure us on real brokers, beside their own request(); keeps results-brokers.json.
	$(BIN)/python -m benchmarks.brokers --json benchmarks/results-brokers.json $(ARGS)

soak: $(VENV)/test ## Ten million random operations, with faults.
	$(BIN)/python -m tests.soak --operations 10000000 $(ARGS)

soak-quick: $(VENV)/test ## The same with 200,000, as a smoke test.
	$(BIN)/python -m tests.soak --operations 200000 $(ARGS)

cluster: $(VENV)/test ## Three gateways on a real broker, under load. BROKER=nats, valkey or rabbitmq.
	@test $(BROKER) != rabbitmq || .ci/debian rabbitmq-server=rabbitmq-server
	@$(BIN)/python -m tests.cluster --broker $(BROKER) $(ARGS)

soak-cluster: $(VENV)/test ## 300,000 requests and 300 faults for each broker.
	@.ci/debian rabbitmq-server=rabbitmq-server
	$(BIN)/python -m tests.soak_cluster $(ARGS)

leak-demo: $(VENV)/bench ## The story's map beside ours, under the same load; draws a picture.
	$(BIN)/python -m benchmarks.leak_demo $(ARGS)

mutants: $(VENV)/mutants ## Break the code in every small way; is each one noticed?
	$(BIN)/python -m tests.mutants $(ARGS)

format: $(VENV)/check ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what the other targets made.
	rm -rf $(VENV) docs/_build build *.egg-info mutants leak-demo .mypy_cache .ruff_cache .pytest_cache \
		.import_linter_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "correlator needs Python 3.11 or newer; $$(python3 --version 2>&1 || echo no python3) is what there is. Name another: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "correlator needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One environment; each of these files says that an extra is installed in it.
$(VENV)/%: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[$*]'
	@touch $@
