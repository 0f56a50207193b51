# The only two set-up commands are `make demo` and `make test`: both install what is missing.
# PYTHON=... chooses the interpreter, FULL=1 makes `make test` do everything CI does; ARGS=... are
# those of bench/py/run.py or compare.py (see their --help).
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
export FULL

.DEFAULT_GOAL := help
.PHONY: help setup demo test bench bench-compare compat incidents incidents-long soak fuzz lint format clean

help:
	@echo 'make demo     a FastAPI service on asyncio, uvloop and taut, and a stall caught in the act'
	@echo 'make test     every check in under ten minutes; FULL=1 for all that CI runs'
	@echo 'make bench    the benchmarks; results go to bench/results'
	@echo 'make bench-compare BASE=<commit>  what has become faster or slower since'
	@echo "make compat   CPython's own asyncio test suites, other people's, and real programs, on taut"
	@echo 'make incidents  does the doctor find each incident of examples/incidents, and nothing else'
	@echo 'make soak     twice ten minutes under load, watching memory, fds, threads and references'
	@echo 'make fuzz     libFuzzer on the C core, FUZZ_SECONDS=60 for each target'
	@echo 'make lint     tidy, ruff, clang-format (when present) and mypy'
	@echo 'make format   rewrite the sources with clang-format and ruff'
	@echo 'make clean    remove everything that was built'

setup:
	@tools/bootstrap.sh

demo: setup
	@$(PY) tools/demo.py

test:
	@COMPAT=1 TESTS=1 tools/bootstrap.sh
	@$(PY) tools/check.py $(if $(FULL),--full)

bench:
	@BENCH=1 tools/bootstrap.sh
	@$(PY) bench/py/run.py $(ARGS)

bench-compare:
	@test -n '$(BASE)' || { echo 'make bench-compare BASE=<commit> [ARGS=...]' >&2; exit 2; }
	@BENCH=1 tools/bootstrap.sh
	@$(PY) bench/py/compare.py '$(BASE)' $(ARGS)

compat:
	@COMPAT=1 tools/bootstrap.sh
	@status=0; \
	$(PY) tests/compat/run.py || status=1; \
	$(PY) tests/compat/apps/run.py || status=1; \
	$(PY) tests/compat/suites.py || status=1; \
	exit $$status

incidents:
	@INCIDENTS=1 tools/bootstrap.sh
	@$(PY) tools/incidents.py $(ARGS)

# The healthy ones for ten minutes each.
incidents-long:
	@INCIDENTS=1 tools/bootstrap.sh
	@$(PY) tools/incidents.py --controls --long --trend 30 $(ARGS)

soak: setup
	@$(PY) bench/py/soak.py
	@$(PY) tools/soak.py

fuzz:
	@FUZZ=1 STAGE=venv tools/bootstrap.sh
	@$(PY) tools/fuzz.py

lint:
	@STAGE=venv tools/bootstrap.sh
	@$(PY) tools/check.py --lint

format:
	@STAGE=venv tools/bootstrap.sh
	@$(PY) tools/check.py --format

clean:
	rm -rf build .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
