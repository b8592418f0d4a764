VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3

.PHONY: demo test check docs clean

demo: $(VENV)/demo-installed
	rm -rf anodetect-demo
	$(BIN)/anodetect demo --out anodetect-demo

test: check
	$(BIN)/python -m pytest --numprocesses 2

check: $(VENV)/dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/style.py
	$(BIN)/python -m pytest tests/test_cards.py

docs: $(VENV)/docs-installed
	$(BIN)/python tools/docs.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/%-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV)
