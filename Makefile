# make quickstart | install | test | lint | bench-training | bench-sweeps | bench-serving | bench-data | bench-imitation; everything runs inside .venv, which is made when needed.
PYTHON ?= python3.11
STAMP := .venv/.installed

.PHONY: quickstart install test lint bench-training bench-sweeps bench-serving bench-data bench-imitation clean

quickstart: $(STAMP)
	@.venv/bin/gaitway quickstart

install: $(STAMP)

$(STAMP): .ci/constraints.txt pyproject.toml
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv || { echo "error: '$(PYTHON)' is not Python 3.11 with venv; install it or set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "installing exact versions into .venv (two to five minutes the first time)"
	@.venv/bin/python -m pip install -qq --disable-pip-version-check -c .ci/constraints.txt torch==2.13.0
	@.venv/bin/python -m pip install -qq --disable-pip-version-check -c .ci/constraints.txt -e '.[dev]'
	@touch $(STAMP)

test: $(STAMP) lint
	@RAY_AUTH_MODE=disabled .venv/bin/python -m pytest

lint: $(STAMP)
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

bench-sweeps: $(STAMP)
	@.venv/bin/python -m tests.benchmarks.sweeps

bench-serving: $(STAMP)
	@.venv/bin/python -m tests.benchmarks.serving

bench-data: $(STAMP)
	@.venv/bin/python -m tests.benchmarks.data

bench-imitation: $(STAMP)
	@.venv/bin/python -m tests.benchmarks.imitation

bench-training: $(STAMP)
	@.venv/bin/python -m tests.benchmarks.training

clean:
	rm -rf .venv build dist *.egg-info
