# `make demo` and `make test` need Python 3.11 or 3.12 and git; they set up .venv by themselves, once.
#   make demo ARGS=--fresh        arguments for the program
#   make test PYTHON=python3.12   another Python than the first that is found
VENV ?= .venv
PYTHON ?=
ARGS ?=
export VENV PYTHON
RUN = $(VENV)/bin/python -m

.PHONY: help setup demo test lint format ci pictures clean

help:
	@echo "make demo    real ECGs to a trained, evaluated, exported tiny GEM (ARGS=--fresh: again)"
	@echo "make test    the test suite (ARGS='-k name': a part of it)"
	@echo "make lint    ruff, mypy, import-linter"
	@echo "make format  ruff puts the code into its form"
	@echo "make ci      all that a change has to pass"
	@echo "make pictures  the pages in docs/, drawn again"
	@echo "make setup   only the environment, $(VENV)"
	@echo "make clean   removes environments and caches; results in runs/ stay"

setup:
	@.ci/setup test

demo: setup
	@$(RUN) gem_jax.cli demo $(ARGS)

test: setup
	@$(RUN) pytest -n 2 --dist loadfile $(ARGS)

lint:
	@.ci/setup lint
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports

format:
	@.ci/setup lint
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

ci:
	@.ci/run

RENDER = $(RUN) gem_jax.cli render data_prep/sample

pictures: setup
	$(RENDER)/ptbxl/00164 --out docs/page.png --dpi 150
	$(RENDER)/ptbxl/00164 --out docs/photographed.png --dpi 120 --degrade 4
	$(VENV)/bin/python -c "from PIL import Image; Image.open('docs/photographed.png').save('docs/photographed.jpg', quality=80)"
	rm docs/photographed.png
	$(RENDER)/ludb/1 --out docs/delineation.png --marks

clean:
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
