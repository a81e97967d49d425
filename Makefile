# `make demo` and `make test` do the whole thing on a fresh machine.

VENV := .venv/bin
UV ?= uv
LOCK := $(UV) pip compile --universal --generate-hashes --no-emit-index-url --no-header --quiet

# Beside each other, a worker more than processors, each with servers of its own; what loads the machine is one group, so that
# it runs one after the other. One after the other all: make test PYTEST_ARGS=-n0.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadgroup

.PHONY: setup demo test check pytest hours soak lock clean

setup:
	@sh deploy/setup.sh

demo: setup
	@exec $(VENV)/vigil demo $(DEMO_ARGS)

# The checks run beside the tests, which wait for servers a good part of their time.
test: setup
	@$(MAKE) --no-print-directory --jobs=2 check pytest

check:
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/lint-imports
	$(VENV)/mypy

pytest:
	$(VENV)/pytest $(SIDE_BY_SIDE) -m "not soak" $(PYTEST_ARGS)

# What depends on the time of day, at every hour of it; tests/hours.py says which tests that are.
hours: setup
	$(VENV)/pytest $(SIDE_BY_SIDE) --every-hour -m "hours and not soak" $(PYTEST_ARGS)

soak: setup
	$(VENV)/pytest $(SIDE_BY_SIDE) -m soak --timeout 3600 $(PYTEST_ARGS)

# Regenerates the locks from pyproject.toml: a server, a box beside the bed, and everything with the tools on top.
# `make lock LOCK_ARGS=--upgrade`.
lock:
	$(LOCK) $(LOCK_ARGS) --extra build --extra server --output-file requirements.lock pyproject.toml
	$(LOCK) $(LOCK_ARGS) --extra build --extra ble --constraint requirements.lock --output-file requirements-ble.lock pyproject.toml
	$(LOCK) $(LOCK_ARGS) --all-extras --constraint requirements.lock --constraint requirements-ble.lock \
		--output-file requirements-dev.lock pyproject.toml

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
