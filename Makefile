# Headrace: one command a purpose. Needs make, Python 3.11 or newer with venv, and a package registry.

PYTHON ?= python3
# Tests run in so many processes, each with servers of its own: much of a test is waiting for a server.
TESTERS ?= 4
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
# To compile every module of every package takes as long as the rest of an installation. What the services import is
# compiled at its end: else each of them would do it when they all start for the first time.
INSTALL := $(PIP) install --no-compile
COMPILE := $(BIN)/python -c "import analytics.service, auth.service, cli.services, embedded.servers, gateway.service, \
	workers.service"
INSTALLED := $(VENV)/.installed
ANALYSIS := $(VENV)/.analysis
DEVELOP := $(VENV)/.develop
BENCHED := $(VENV)/.benched

# Every process would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install analysis demo test test-long fuzz check format faults bench lock env-example nats-conf secrets airflow-check clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv with Headrace and its embedded servers

analysis: $(ANALYSIS) ## add what the statistics of student records need

demo: install ## install, then run everything and send documents through it
	$(BIN)/headrace demo

PYTEST := $(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder
test: $(DEVELOP) ## run the tests, but for the long ones; ARGS="-k name" passes on to pytest and chooses among all
	$(PYTEST) $(if $(ARGS),$(ARGS),-m "not long")

test-long: $(DEVELOP) ## run the long tests: each command of docs/systems.md, full disks, killed commands, real files
	$(PYTEST) -m long $(ARGS)

# Each time another seed, which is said, so that FUZZ_SEED=that repeats the run; FUZZ_EXAMPLES is how long it takes.
FUZZ_SEED ?= $(shell date +%s)
FUZZ_EXAMPLES ?= 200
fuzz: $(DEVELOP) ## try random requests and bytes on the API and the decoders, for many minutes
	@echo "FUZZ_SEED=$(FUZZ_SEED) FUZZ_EXAMPLES=$(FUZZ_EXAMPLES)"
	FUZZ_SEED=$(FUZZ_SEED) FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest --timeout 0 --hypothesis-seed $(FUZZ_SEED) \
		tests/fuzz tests/system/test_attacks.py $(ARGS)

check: $(DEVELOP) ## formatting, lint and strict types, then the tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(MAKE) test

format: $(DEVELOP) ## format the code and mend what ruff can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

faults: $(DEVELOP) ## let everything go wrong at random for 20 minutes, then account for every document
	$(BIN)/python -m tests.faults $(ARGS)

bench: $(BENCHED) ## measure Headrace beside its peers on this machine
	$(BIN)/python -m bench $(ARGS)

# Versions already locked stay while they fit pyproject.toml; delete requirements/*.txt first to move all of them.
# `dev` holds `analysis` and `embedded`, which both hold `runtime`; an image is made of `runtime` or `analysis`.
UV_COMPILE := $(BIN)/uv --quiet --no-config --system-certs pip compile --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
BUILD_REQUIRES := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")

lock: | $(DEVELOP) ## pin every dependency with its hashes again
	$(UV_COMPILE) pyproject.toml -o requirements/runtime.txt
	$(UV_COMPILE) pyproject.toml -c requirements/runtime.txt --extra analysis -o requirements/analysis.txt
	$(UV_COMPILE) pyproject.toml -c requirements/analysis.txt --extra embedded -o requirements/embedded.txt
	$(UV_COMPILE) pyproject.toml -c requirements/analysis.txt -c requirements/embedded.txt \
		--extra analysis --extra embedded --extra dev -o requirements/dev.txt
	$(UV_COMPILE) pyproject.toml -c requirements/dev.txt --all-extras -o requirements/bench.txt
	$(BIN)/python -c '$(BUILD_REQUIRES)' | $(UV_COMPILE) - -c requirements/bench.txt -o requirements/build.txt

env-example: $(INSTALLED) ## write .env.example from the settings
	$(BIN)/python -m deploy.env_example > .env.example

nats-conf: $(INSTALLED) ## write deploy/nats.conf from the table of roles; NAMESPACE=name for a Headrace with one
	$(BIN)/python -m deploy.nats_conf $(NAMESPACE) > deploy/nats.conf

secrets: ## make the passwords that compose.yaml reads
	$(PYTHON) deploy/make_secrets.py

airflow-check: ## import and run deploy/airflow's DAGs in an Airflow of their own
	PYTHON="$(PYTHON)" deploy/airflow/check

clean: ## remove the environment and every cache
	rm -rf $(VENV) deploy/airflow/.check .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not it: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
		|| { echo "'$(PYTHON)' has no venv: install it (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The build backend comes from build.txt by hash too, so pip fetches nothing that is not pinned.
define install
$(INSTALL) --require-hashes -r requirements/build.txt -r requirements/$(1).txt
$(INSTALL) --no-deps --no-build-isolation --no-index --editable .
@$(COMPILE)
endef

$(INSTALLED): requirements/build.txt requirements/embedded.txt pyproject.toml | $(BIN)/python
	$(call install,embedded)
	@touch $@

$(ANALYSIS): requirements/analysis.txt $(INSTALLED)
	$(INSTALL) --require-hashes -r $<
	@touch $@

# All at once, for each run of pip looks at everything again: `dev` holds what the others do.
$(DEVELOP): requirements/build.txt requirements/dev.txt pyproject.toml | $(BIN)/python
	$(call install,dev)
	@touch $(INSTALLED) $(ANALYSIS) $@

$(BENCHED): requirements/bench.txt $(DEVELOP)
	$(INSTALL) --require-hashes -r $<
	@touch $@
