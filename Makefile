VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3

.PHONY: demo test check lint docs clean

demo: $(VENV)/demo-installed
	rm -rf anodetect-demo
	$(BIN)/anodetect demo $(DEMO) --out anodetect-demo

test: lint
	$(BIN)/python -m pytest --numprocesses 2

check: lint
	$(BIN)/python -m pytest tests/test_cards.py

lint: $(VENV)/dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/style.py
	$(BIN)/python apps/review/viewer/build.py --check

docs: $(VENV)/docs-installed
	$(BIN)/python tools/docs.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# pip compiles modules on one core. A few files are for other versions of Python and do not compile.
$(VENV)/%-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[$*]'
	$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@

clean:
	rm -rf $(VENV)
