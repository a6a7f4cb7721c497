# setup: .venv with the locked versions     demo: from faces to a smile
# quick: the unit tests that start no process and no server, in two to four minutes
# test: the tests of CI, in about 45 minutes: each law and each kind of fault once
# check: what CI checks (format, lint, types, import layers, tests)
# long: what CI leaves out: other sizes, settings and schedules; then chaos, fuzz and killed-pass
# fuzz: FUZZ_INPUTS damaged files (50,000 in some minutes) through every reader, and a table of it
# killed-pass: the attribute pass over FACES (20,000) faces, an actor killed every KILL_EVERY seconds
# bench: how fast it is here, as ratios measured side by side; BENCH="--rounds 3" adds options
# gpu-check: a table of what this machine's GPU does for facevae, in under five minutes
# image: installs the packages of the image in a fresh environment, and looks at them
# clean: removes .venv and the tools' caches; results in runs/ stay
# chaos: CHAOS_SCHEDULES schedules of kills and outages (20 in half an hour) over the whole pipeline on
#   a rehearsal cluster, and a table of it; CHAOS_SEED=17 CHAOS_SCHEDULES=1 runs that of seed 17 again

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

SIDE_BY_SIDE := tests/unit tests/fuzz
# One thread for each process: else each takes every core, and they wait for one another.
PYTEST_SIDE_BY_SIDE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

.PHONY: setup demo quick test check long static bench gpu-check fuzz killed-pass chaos image clean

setup: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "facevae needs Python 3.11 or newer; say make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(INSTALLED)
	$(BIN)/facevae quickstart --config configs/quickstart.yaml --training_minutes 3.5

quick: $(INSTALLED)
	$(PYTEST_SIDE_BY_SIDE) tests/unit -m "not image and not long and not slow"

# Side by side, but for those that measure time or start clusters.
test: $(INSTALLED)
	$(PYTEST_SIDE_BY_SIDE) $(SIDE_BY_SIDE)
	$(BIN)/python -m pytest $(addprefix --ignore=,$(SIDE_BY_SIDE))

static: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: static test

long: $(INSTALLED)
	$(BIN)/python -m pytest -m long --ignore tests/end_to_end/test_killed_pass.py
	$(MAKE) chaos fuzz killed-pass

FUZZ_INPUTS ?= 50000
FUZZ_SEED ?= 0

fuzz: $(INSTALLED)
	PYTHONPATH=. $(BIN)/python tests/fuzz/fuzz.py --inputs $(FUZZ_INPUTS) --seed $(FUZZ_SEED)

FACES ?= 20000
KILL_EVERY ?= 5

killed-pass: $(INSTALLED)
	FACES=$(FACES) KILL_EVERY=$(KILL_EVERY) $(BIN)/python -m pytest -s -m long \
	  tests/end_to_end/test_killed_pass.py

bench: $(INSTALLED)
	$(BIN)/facevae benchmark --config configs/benchmark.yaml $(BENCH)

gpu-check: $(INSTALLED)
	$(BIN)/python -m facevae.benchmark.gpu_check $(GPU_CHECK)

CHAOS_SCHEDULES ?= 20
CHAOS_SEED ?= 0

chaos: $(INSTALLED)
	PYTHONPATH=.:cluster/rehearsal $(BIN)/python -m tests.chaos.chaos \
	  --schedules $(CHAOS_SCHEDULES) --seed $(CHAOS_SEED)

image: $(INSTALLED)
	$(BIN)/python -m pytest -m image

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
