# The few words to work on pgha with. `make` alone prints them.
# PYTHON=python3.12 make test   takes another interpreter than python3, for a new .venv.

PYTHON ?= python3
FUZZ_S ?= 60
BIN := .venv/bin
LAB := $(BIN)/python packaging/lab/lab
TYPED := common states minion master tests packaging/lab/labkit

.DEFAULT_GOAL := help
.PHONY: help demo test check bench fuzz lab clean venv

help: ## print this
	@echo "make WORD, where WORD is one of"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST)

demo: venv ## a cluster on three real nodes on this machine, from nothing (root)
	@$(BIN)/python packaging/lab/demo

test: check ## all tests: check, unit, bus, and on real nodes (root; installs the lab's tools)
	@$(LAB) doctor --install-missing
	@command -v psql >/dev/null || { apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends postgresql-client; }
	$(BIN)/python tests/run.py

check: venv build/types ## format, lint, types, and who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	cd build/types && MYPYPATH=pgha/packaging/lab:pgha/tests/lab ../../$(BIN)/mypy --explicit-package-bases \
	  --config-file pgha/pyproject.toml $(TYPED:%=pgha/%)
	$(BIN)/lint-imports --no-logo

bench: venv ## measure against floors and Salt; BENCH="--quick" or names: ping fanout events files states salt apply backup
	@$(BIN)/python tests/bench/all.py $(BENCH)

fuzz: venv ## throw bytes at what reads the bus, led by atheris; FUZZ_S=60 seconds
	@$(BIN)/python -c 'import atheris' 2>/dev/null || \
	  $(BIN)/pip install -q --disable-pip-version-check --only-binary :all: atheris==3.0.0 || { \
	  echo "atheris cannot be installed for $$($(BIN)/python -V): PYTHON=python3.11 make clean fuzz" >&2; exit 1; }
	@mkdir -p build/fuzz/corpus build/fuzz/found && $(BIN)/python tests/fuzz/fuzz_codec.py --seeds build/fuzz/seeds
	$(BIN)/python tests/fuzz/fuzz_codec.py -max_total_time=$(FUZZ_S) -max_len=65536 -timeout=5 \
	  -artifact_prefix=build/fuzz/found/ build/fuzz/corpus build/fuzz/seeds

lab: venv ## three bare nodes, to try things by hand (root)
	@$(LAB) up --install-missing

clean: ## end demo and lab, remove all that make has made; the lab's images stay in /var/cache/pgha-lab
	@if [ "$$(id -u)" = 0 ]; then $(PYTHON) packaging/lab/demo --down; \
	else echo "not root: a demo or lab, if there is one, goes on; to end it: sudo make clean"; fi
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# Not a word of its own in `help`: what the others stand on.
venv: .venv/made

.venv/made: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "pgha needs Python 3.10 or newer; name one: PYTHON=python3.12 make ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy python3-venv; } || { \
	  echo "this Python cannot make a virtual environment: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install -q --disable-pip-version-check -r requirements-dev.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# mypy takes a module's name from the folders above it, and this folder may have any name (docs/adr/0001).
build/types:
	@mkdir -p $@ && ln -sfn ../.. $@/pgha
