# Everything that is done to this project has one word. `make help` lists them.
#
# Each target makes .venv when there is none, with the first usable Python of $(CANDIDATES), or with PYTHON=…, and makes it
# anew when pyproject.toml or constraints.txt have changed.

MAKEFLAGS += --no-print-directory
CANDIDATES := python3.13 python3.12 python3.11 python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/made-with

# Anew as well when the Python behind .venv is gone, or when another one is asked for.
ifneq ($(wildcard $(STAMP)),)
ifeq ($(shell $(PY) -c 'print(1)' 2>/dev/null),)
ANEW := anew
endif
ifneq ($(PYTHON),)
ifneq ($(PYTHON),$(shell cat $(STAMP)))
ANEW := anew
endif
endif
endif

.DEFAULT_GOAL := help
.PHONY: help run test check bench conformance fuzz crash rehearse reliability soak format clean anew

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

run: $(STAMP) ## the demo on the simulator; FOR=30s ends it, ARGS=… goes to `ibkr-service run`
	@$(PY) -m ibkr_service run --demo $(if $(FOR),--for $(FOR)) $(ARGS)

test: $(STAMP) ## the tests; ARGS=… goes to pytest
	@$(PY) -m pytest -n auto --dist worksteal $(ARGS)

check: $(STAMP) ## format, lint, types, layers, length of functions
	@$(PY) -m ruff format --check --quiet . || { echo "make format puts this right"; exit 1; }
	@$(PY) -m ruff check --quiet .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-logo
	@$(PY) scripts/check_functions.py

bench: $(STAMP) ## how fast it is; ARGS=… goes to bench/run.py
	@$(PY) bench/run.py $(ARGS)

conformance: $(STAMP) ## the clients of others against the simulated gateway, each in an environment of its own
	@$(PY) -m tests.conformance.run

fuzz: $(STAMP) ## mutated conversations against the simulated gateway; SECONDS=60
	@$(PY) -m tests.sim.fuzz $(or $(SECONDS),60)

crash: $(STAMP) ## kill -9 while it trades, again and again; N=200 kills, SEED=1, ARGS="--point after-send"
	@$(PY) -m tests.crash.run --rounds $(or $(N),200) --seed $(or $(SEED),1) $(ARGS)

rehearse: $(STAMP) ## random outages against the whole service in virtual time; N=1000 seeds, FROM=1, ARGS=…
	@$(PY) -m ibkr_service rehearse --alone --seeds $(or $(N),1000) --from $(or $(FROM),1) $(ARGS)

reliability: $(STAMP) ## what every named outage costs, into docs/reliability.md; SEEDS=5, ARGS=--check
	@$(PY) -m ibkr_service rehearse --alone --all --seeds $(or $(SEEDS),5) --scorecard docs/reliability.md $(ARGS)

soak: $(STAMP) ## a daemon over real TCP while its gateway goes away, in real time; FOR=10m, ARGS=--quick
	@$(PY) -m tests.soak.run --for $(or $(FOR),10m) $(ARGS)

format: $(STAMP) ## put the code into the format that check wants
	@$(PY) -m ruff check --fix --quiet . ; $(PY) -m ruff format .

clean: ## remove .venv and what tools have left; never var/, where the journal is
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first interpreter that really runs (a shim may not), is not too old or new, and can make a virtual environment.
# PIP_CONSTRAINT holds for the build's own requirements too, and PIP_BUILD_CONSTRAINT does so for pip from 25.3 on.
$(STAMP): pyproject.toml constraints.txt $(ANEW)
	@for python in $(or $(PYTHON),$(CANDIDATES)); do \
	  "$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	    2>/dev/null && found="$$python" && break; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Python 3.11, 3.12 or 3.13 with its venv module is needed; tried: $(or $(PYTHON),$(CANDIDATES)). Name one: make PYTHON=…" >&2; \
	  exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$found" --version) …"; \
	rm -rf $(VENV) && "$$found" -m venv $(VENV) && \
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
	  $(PY) -m pip install --quiet --editable '.[dev]' && \
	echo "$(or $(PYTHON),$$found)" > $@
