# Everything a developer types. `make help` lists it.
#
# The first run of a target makes .venv and installs exactly what the lock files name, hash by hash; later runs start at once.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

# Recorded provider streams, when a directory of them lies beside this repository; the tests that replay them skip without it.
MUXX_STREAMS ?= $(realpath ../shared/streams)
ifneq ($(MUXX_STREAMS),)
export MUXX_STREAMS
endif

# Hundreds of tests start muxx as a process, which would compile all of it each time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help serve test lint bench compat soak prices lock clean

help: ## Show this list.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

serve: $(VENV)/.run ## Run the gateway with the mock provider: no account, no network.
	@$(BIN)/muxx serve --config config.example.toml --mock

# In the order of their names: files of few but long tests would else be begun last, and one worker be left with each.
test: $(VENV)/.dev ## Run the tests, but for the long ones. More arguments for pytest: make test ARGS="-k keys".
	$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder -m "not soak" $(ARGS)

lint: $(VENV)/.dev ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.dev ## Measure the gateway against other ones. A part of it: make bench ARGS="--only streams"; all parts: ARGS=--list.
	$(BIN)/python -m tests.bench $(ARGS)

compat: $(VENV)/.dev ## Try real SDKs against a running gateway; the first run installs them. One of them: make compat ARGS=litellm.
	$(BIN)/python -m tests.compat $(ARGS)

soak: $(VENV)/.dev ## Run the long tests, and then the others with all they could try.
	$(BIN)/python -m pytest -m soak $(ARGS)
	MUXX_TESTS=whole $(MAKE) test

prices: $(VENV)/.dev ## Regenerate the shipped price table from the locked genai-prices.
	$(BIN)/python -m muxx_std.pricing.generate

lock: ## Write both lock files anew, with the newest versions setup.cfg allows.
	$(PYTHON) -m venv .cache/lock
	.cache/lock/bin/python -m pip -qq install pip-tools
	rm -f requirements.lock requirements-dev.lock
	$(COMPILE) --extra dev --extra uvloop --output-file requirements-dev.lock pyproject.toml
	$(COMPILE) --extra uvloop --constraint requirements-dev.lock --output-file requirements.lock pyproject.toml

clean: ## Remove what make made. Databases stay.
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

COMPILE := .cache/lock/bin/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --build-deps-for editable \
	--no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "muxx needs Python 3.11 or newer: make PYTHON=…")'
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# uvloop is in the lock: it installs wherever orjson and pydantic do. The build tool is locked too, so that nothing is built in an
# environment of its own, with whatever versions it would fetch.
$(VENV)/.run: requirements.lock setup.cfg pyproject.toml | $(VENV)/.made
	@echo "Installing muxx into $(VENV) …"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	@echo "Installing the development tools into $(VENV) …"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@
