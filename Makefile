# Two commands do everything a newcomer needs: `make demo` and `make test`.
# The only prerequisites are git, make and python3-venv; all else comes from the lock file.

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BOOTSTRAP := .venv-bootstrap
UV := $(BOOTSTRAP)/bin/uv
DEB_ARCH ?= amd64
RUN := $(VENV)/bin
SYNC := --frozen --all-extras --python $(PYTHON)
export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_PYTHON_DOWNLOADS := never

.PHONY: help demo test test-system soak check bench deb format clean
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(UV):
	@echo "Setting up: a virtual environment with a pinned uv ..."
	@$(PYTHON) -m venv $(BOOTSTRAP) || { echo "python3-venv is missing: sudo apt install python3-venv" >&2; exit 1; }
	@$(BOOTSTRAP)/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.synced: pyproject.toml uv.lock $(UV)
	@echo "Setting up: the packages pinned in uv.lock ..."
	@# A network may have certificates of its own, which only the system knows.
	@$(UV) sync --quiet $(SYNC) 2>/dev/null || $(UV) sync --quiet --system-certs $(SYNC)
	@touch $@

demo: $(VENV)/.synced ## Three real daemons on this machine: find each other, pair, deliver
	@$(RUN)/meshctl demo

test: $(VENV)/.synced ## Unit, simulation (200 seeds) and namespace tests; under 10 minutes
	@$(RUN)/python -m pytest -n 2 -m "not system and not soak" $(ARGS)

test-system: $(VENV)/.synced ## Slow tests, and those that need root and Debian packages
	@$(RUN)/python -m pytest -m "system" $(ARGS)

soak: $(VENV)/.synced ## Hours: 10,000 simulation seeds and long runs
	@$(RUN)/python -m pytest -n 2 -m "soak" --timeout 0 $(ARGS)

check: $(VENV)/.synced ## The lock file, formatting, lint, types, layers
	@$(UV) lock --quiet --check --offline
	@$(RUN)/ruff format --check .
	@$(RUN)/ruff check .
	@$(RUN)/mypy
	@$(RUN)/lint-imports --no-cache

bench: $(VENV)/.synced ## Measure whole processes on real sockets
	@$(RUN)/python -m tests.bench $(ARGS)

deb: $(VENV)/.synced ## A Debian package in dist/ (DEB_ARCH=amd64 or arm64)
	@$(RUN)/python packaging/build_deb.py --uv $(UV) --architecture $(DEB_ARCH) $(ARGS)

format: $(VENV)/.synced ## Rewrite the source in the house format
	@$(RUN)/ruff format .
	@$(RUN)/ruff check --fix .

clean: ## Remove what the build made
	@rm -rf $(VENV) $(BOOTSTRAP) dist build .mypy_cache .ruff_cache .hypothesis
