# `make run` executes the notebook, `make test` checks and tests the project. Each first installs
# what it needs into .venv; a second call installs nothing. OPTIONS="--quick" passes options to run.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: run test
run: .venv/installed
	$(BIN)/python -m fracture_utils run $(OPTIONS)

test: .venv/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadfile

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -r requirements.txt
	touch $@

.venv/installed-for-tests: .venv/installed pyproject.toml
	$(BIN)/pip install -q -r requirements.txt -e ".[test]"
	touch $@
