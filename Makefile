# Needs Python >= 3.11 and make; everything else goes into $(VENV). Nothing is installed again unless pyproject.toml changes.
#
#   make demo                                  the whole path on the built-in miniature, on a CPU
#   make test | lint | types | bench           what a change has to pass, and how fast it is
#   make PYTHON=python3.12 demo                with another Python
#   make TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu" demo
#                                              install torch first, with these arguments of pip (here: the small CPU build)
#   make WORKERS=1 test                        in one process; without it, one for each processor
#   make ARGS="--seed 1" demo                  arguments for the command itself (also: ARGS="-k transition" test)

PYTHON ?= python3
VENV ?= .venv
TORCH_ARGS ?=
# Test processes, each of one thread (tests/conftest.py). One of them holds about 1 GB.
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN)
ARGS ?=

PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet
TORCH = $(shell sed -n 's/^ *"\(torch[<>=][^"]*\)".*/\1/p' pyproject.toml)

.PHONY: demo test lint types bench install clean

demo: $(VENV)/.installed
	$(VENV)/bin/tastemaker demo $(ARGS)

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal $(ARGS)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .

types: $(VENV)/.installed-dev
	$(VENV)/bin/mypy

bench: $(VENV)/.installed
	$(VENV)/bin/python -m benchmarks $(ARGS)

install: $(VENV)/.installed

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: tastemaker needs Python 3.11 or newer, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1);" \
	       "name another one, for example: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "making a virtual environment in $(VENV)"
	@rm -rf "$(VENV)"
	@$(PYTHON) -m venv "$(VENV)" || { rm -rf "$(VENV)"; \
	  echo "error: '$(PYTHON) -m venv' failed, see above; on Debian and Ubuntu it needs: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.torch: $(VENV)/.made
	@if [ -n '$(TORCH_ARGS)' ]; then echo "installing $(TORCH) $(TORCH_ARGS)"; $(PIP) '$(TORCH)' $(TORCH_ARGS); fi
	@touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.torch
	@echo "installing tastemaker and its packages into $(VENV); the first time takes some minutes, most of it torch"
	@$(PIP) --editable .
	@touch $@

# The packages of development hold the others, so neither demo nor test installs again after the other one.
$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.torch
	@echo "installing tastemaker, its packages and those for development into $(VENV); the first time takes some minutes"
	@$(PIP) --editable '.[dev]'
	@touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis src/*.egg-info
	find src tests benchmarks experiments -name __pycache__ -type d -prune -exec rm -rf {} +
