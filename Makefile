# Two commands matter: `make demo` and `make test`. Paths may hold spaces; PYTHON chooses another Python >= 3.11.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test soak lint bench clean

demo: $(STAMP)
	"$(BIN)/loramem" study run quick

test: $(STAMP)
	"$(BIN)/python" -m pytest -n 2

soak: $(STAMP)
	"$(BIN)/python" -m pytest -m slow

lint: $(STAMP)
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"

bench: $(STAMP)
	for bench in bank read context distil merge grid; do "$(BIN)/python" benchmarks/$$bench.py || exit 1; done
	"$(BIN)/python" benchmarks/schedule.py --replay

$(STAMP): pyproject.toml constraints.txt
	"$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet --constraint constraints.txt torch
	"$(BIN)/python" -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch "$(STAMP)"

clean:
	rm -rf "$(VENV)" runs
