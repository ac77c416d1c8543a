# Every target makes its own .venv: a machine with Python 3.11, pip and make is enough.

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check lint bench soak rules mutants clean

help:
	@echo "make demo    three teams, three islands, three seasons closed"
	@echo "make test    the tests, two workers"
	@echo "make check   lint, format, types, floors, pages, then the tests: what CI runs"
	@echo "make bench   the benchmarks, results in bench/results"
	@echo "make soak    the laws with many more examples, and the kill test"
	@echo "make mutants deliberate faults in merge, apply and closing, each of which some test must catch"
	@echo "make rules   every rule of the spec, with the tests that bear its id"
	@echo "make clean   remove what the other targets made"

# The stamp is written last, so an interrupted install is done again.
$(READY): pyproject.toml
	@python="$(PYTHON)"; \
	for candidate in python3.11 python3 python3.12 python3.13 python3.14; do \
		[ -n "$$python" ] && break; \
		"$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && python="$$candidate"; \
	done; \
	[ -n "$$python" ] || { echo "klal needs Python 3.11 or later; set PYTHON=/path/to/python" >&2; exit 1; }; \
	echo "preparing $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/klal demo

test: $(READY)
	@$(BIN)/python -m pytest -q -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@! LC_ALL=C grep -rn --include='*.py' '[^[:print:][:space:]]' src tests tools || { echo 'source is ASCII' >&2; exit 1; }
	$(BIN)/python tools/source_page.py --check
	$(BIN)/python tools/sql_page.py --check
	$(BIN)/python tools/python_page.py --check

check: lint
	@$(MAKE) --no-print-directory test

bench: $(READY)
	@$(BIN)/python bench/bench.py
	@$(BIN)/python bench/moments.py
	@$(BIN)/python bench/merge.py
	@$(BIN)/python bench/certificates.py
	@$(BIN)/python bench/compaction.py
	@$(BIN)/python bench/newcomer.py
	@$(BIN)/python -m bench.members

soak: $(READY)
	@$(BIN)/python -m pytest -q -n 2 --soak --timeout=3600

mutants: $(READY)
	@$(BIN)/python tools/mutants.py

rules: $(READY)
	@$(BIN)/python tools/rules.py

clean:
	rm -rf $(VENV) build dist demo-files .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find src tests tools bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
